"""What a run directory says about its step: who starts, attaches or gives up reads it here."""

from __future__ import annotations

import enum
import json
import os
from typing import Any, Dict, NamedTuple, Optional, Tuple

from skyq.core.paths import RunDir
from skyq.core.protocol import UNKNOWN
from skyq.node.shim import try_lock


class Record(enum.Enum):
    """The four things that a run directory can say."""

    FRESH = "nothing was started here"
    ALIVE = "a shim lives"
    ENDED = "the script is over, and nothing of it lives; or a fence forbids the start"
    LOST = "it started, nothing says how it ended, and its shim is dead"


def look(run: RunDir) -> Record:
    """Read the record. `alive` is tried first: who holds it may be writing the rest just now."""
    try:
        lock = try_lock(run.alive)
    except FileNotFoundError:
        return Record.FRESH
    if lock is None:
        return Record.ALIVE
    try:
        if os.path.exists(run.exit):
            return Record.ENDED
        return Record.LOST if os.path.exists(run.started) else Record.FRESH
    finally:
        os.close(lock)


class Started(NamedTuple):
    """Who started: the shim and the script's process as (pid, start in clock ticks)."""

    boot: str
    shim: Tuple[int, int]
    main: Tuple[int, int]
    log: str
    linger: bool

    @classmethod
    def read(cls, run: RunDir) -> Optional[Started]:
        """None when it isn't there yet, or damaged."""
        found = _read(run.started)
        try:
            shim, main = found["shim"], found["main"]
            return cls(
                str(found["boot"]),
                (int(shim[0]), int(shim[1])),
                (int(main[0]), int(main[1])),
                str(found["log"]),
                bool(found["linger"]),
            )
        except (KeyError, TypeError, ValueError, IndexError):
            return None


class End(NamedTuple):
    """How a script ended: code 0..255 (128+N for signal N) or UNKNOWN."""

    code: int
    stopped: bool
    why: str

    @classmethod
    def read(cls, run: RunDir) -> End:
        """A damaged record is an unknown exit status, never a guess."""
        found = _read(run.exit)
        code = found.get("code")
        if not isinstance(code, int) or not UNKNOWN <= code <= 255:
            return cls(UNKNOWN, False, "exit status unknown: its record is damaged")
        return cls(code, bool(found.get("stopped")), str(found.get("why", "")))


def refusal(run: RunDir) -> str:
    """Why a shim could not start anything."""
    try:
        with open(run.refusal, encoding="utf-8", errors="replace") as file:
            return file.read(500)
    except OSError:
        return "the node could not start it"


def _read(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = json.loads(file.read(4096))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
