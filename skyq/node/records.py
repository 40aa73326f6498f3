"""What a run directory says about its step: who starts, attaches or gives up reads it here."""

from __future__ import annotations

import enum
import json
import os

from skyq.core.paths import RunDir
from skyq.core.protocol import UNKNOWN
from skyq.core.typed import NamedTuple
from skyq.node import proc, shim
from skyq.node.shim import try_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple


class Key(NamedTuple):
    """One step of one attempt."""

    job: str
    attempt: int
    step: str


class Record(enum.Enum):
    """What a run directory can say."""

    FRESH = "nothing was started here"
    FENCED = "nothing was started here, and nothing ever will be"
    ALIVE = "a shim lives"
    ENDED = "the script is over, and nothing of it lives"
    LEFT = "the script is over, but its shim was killed before it had seen everything off"
    LOST = "it started, nothing says how it ended, and its shim is dead"


def look(run: RunDir) -> Record:
    """Read the record. `alive` is tried first: who holds it may be writing the rest just now."""
    try:
        lock = try_lock(run.alive)
    except (FileNotFoundError, NotADirectoryError):
        return Record.FRESH
    if lock is None:
        return Record.ALIVE
    try:
        started = os.path.exists(run.started)
        if not os.path.exists(run.exit):
            return Record.LOST if started else Record.FRESH
        if not started:
            return Record.FENCED
        return Record.LEFT if os.path.exists(run.script) else Record.ENDED
    finally:
        os.close(lock)


def left_over(runs: str) -> List[Key]:
    """The steps of which something may live here, or somebody must see that nothing does."""
    found = []
    for name in os.listdir(runs):
        uuid, _, rest = name.partition(".")
        attempt, _, step = rest.partition(".")
        if attempt.isdigit() and step and os.path.exists(RunDir.of(runs, uuid, int(attempt), step).script):
            found.append(Key(uuid, int(attempt), step))
    return found


def fence(run: RunDir) -> bool:
    """Forbid the start for ever, if there was none; False: a shim was quicker.

    An exit record without a start is a fence. It is made by a rename, which a full disk allows too.
    """
    lock = try_lock(run.alive)
    if lock is None:
        return False
    try:
        if os.path.exists(run.exit):
            return True
        if os.path.exists(run.started):
            return False
        shim.fence(run)
        return True
    finally:
        os.close(lock)


class Started(NamedTuple):
    """Who started: the shim and the script's process as (pid, start in clock ticks)."""

    boot: str
    shim: Tuple[int, int]
    main: Tuple[int, int]
    log: str
    linger: bool
    group: str = ""
    """The folder of its cgroup; "": it has none."""
    ends: Optional[float] = None
    """When its time limit is reached, in this boot's monotonic time; None: it has none."""

    @classmethod
    def read(cls, run: RunDir) -> Optional[Started]:
        """None when it isn't there yet, or damaged."""
        return cls._of(run.started)

    @classmethod
    def ready(cls, run: RunDir) -> Optional[Started]:
        """Of who is prepared and will have started; None when it isn't there yet."""
        return cls._of(run.prepared)

    @classmethod
    def _of(cls, path: str) -> Optional[Started]:
        found = _read(path)
        try:
            parent, main = found["shim"], found["main"]
            return cls(
                str(found["boot"]),
                (int(parent[0]), int(parent[1])),
                (int(main[0]), int(main[1])),
                str(found["log"]),
                bool(found["linger"]),
                str(found.get("group", "")),
                None if found.get("ends") is None else float(found["ends"]),
            )
        except (KeyError, TypeError, ValueError, IndexError):
            return None


class End(NamedTuple):
    """How a script ended: code 0..255 (128+N for signal N) or UNKNOWN."""

    code: int
    stopped: bool
    why: str
    expired: bool = False
    """Whether its time limit ended it."""

    @classmethod
    def read(cls, run: RunDir) -> End:
        """A damaged record is an unknown exit status, never a guess."""
        found = _read(run.exit)
        code = found.get("code")
        if not isinstance(code, int) or not UNKNOWN <= code <= 255:
            return cls(UNKNOWN, False, "exit status unknown: its record is damaged")
        return cls(code, bool(found.get("stopped")), str(found.get("why", "")), bool(found.get("expired")))


def stuck(run: RunDir) -> List[Tuple[int, str]]:
    """(pid, name) of the processes of the step that no KILL ends, and that still live."""
    try:
        with open(run.stuck, encoding="utf-8", errors="replace") as file:
            found = json.load(file)
        return [(int(pid), str(name)) for pid, start, name in found if proc.lives(int(pid), int(start))]
    except (OSError, ValueError, TypeError):
        return []


def refusal(run: RunDir) -> str:
    """Why a shim started nothing."""
    try:
        with open(run.refusal, encoding="utf-8", errors="replace") as file:
            said = file.read(500)
    except OSError:
        said = ""
    return said or "the node could not start it"


def _read(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = json.loads(file.read(16384))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
