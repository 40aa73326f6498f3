"""Logs of ranks on workers, on their way into the job's folder on the head.

The raw file here is all that is known of how far a log has come: its size is the offset to go on from, after
any break. For a job of several ranks `run.idx` keeps the order in which their text came, one line a piece:
step, offset, length. What it doesn't name is in the raw files all the same.
"""

from __future__ import annotations

import os

from skyq.core.paths import run_index
from skyq.core.protocol import Message
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Dict, List, Optional, Set, Tuple


class Source(NamedTuple):
    """Where a step's log is: its attempt on a node, and the file that it goes into here."""

    job_id: int
    uuid: str
    attempt: int
    step: str
    node: str
    path: str
    remote: bool
    """Whether its bytes must come here; else only its growth is told, for the index."""
    ranks: int


class _Pull:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.size = _size(source.path)
        self.ended = False
        self.asked = False
        """Whether its node was asked for it on the connection that is there."""
        self.stuck = ""
        """Why the last piece could not be kept."""


class Pulls:
    """All logs that come in. `hear()` gets what node agents send of them."""

    def __init__(self) -> None:
        self._pulls: Dict[Tuple[str, int, str], _Pull] = {}
        self._owed: Set[Tuple[str, int, str]] = set()
        """Those of attempts that have ended."""

    def wish(self, source: Source) -> Optional[Message]:
        """What to ask a step's node for; None where its log needs nobody's help."""
        if not source.remote and source.ranks == 1:
            return None
        pull = _Pull(source)
        pull.asked = True
        self._pulls[source.uuid, source.attempt, source.step] = pull
        if source.ranks > 1:
            _complete_index(source, pull.size)
        return {"from": pull.size, "sizes": not source.remote}

    def hear(self, node: str, message: Message) -> bool:
        """Keep what came of a log of that node's; whether it was about a log at all."""
        what = message["is"]
        if what not in ("log", "grew", "log-end"):
            return False
        pull = self._pulls.get((message["job"], message["attempt"], message["step"]))
        if pull is None or pull.source.node != node:
            return True
        if what == "log-end":
            pull.ended = pull.size >= message["size"]
        elif pull.source.remote and what == "log":
            self._keep(pull, message["offset"], message["data"])
        elif not pull.source.remote and what == "grew":
            _index(pull.source, pull.size, message["size"] - pull.size)
            pull.size = message["size"]
        return True

    def _keep(self, pull: _Pull, offset: int, data: bytes) -> None:
        """Only what follows what is there: a second agent may send again what the first one has sent."""
        data = data[pull.size - offset :] if offset < pull.size else data
        if not data or offset > pull.size:
            return
        try:
            _append(pull.source.path, pull.size, data)
        except OSError as error:
            pull.stuck = str(error)
            return
        _index(pull.source, pull.size, len(data))
        pull.size += len(data)

    def stuck(self) -> List[Tuple[Source, Message]]:
        """What to ask for again, because a piece of it could not be kept."""
        found = [pull for pull in self._pulls.values() if pull.stuck]
        for pull in found:
            pull.stuck = ""
        return [(pull.source, _from(pull)) for pull in found]

    def complete(self, uuid: str, attempt: int, step: str) -> bool:
        """Whether all of a log is here, or nothing of it is wanted."""
        pull = self._pulls.get((uuid, attempt, step))
        return pull is None or pull.ended or not pull.source.remote

    def knows(self, uuid: str, attempt: int, step: str) -> bool:
        """Whether this process has asked for a log at all."""
        return (uuid, attempt, step) in self._pulls

    def job_over(self, uuid: str) -> None:
        """The attempt has ended: forget what is here. What isn't is owed."""
        for name in [name for name in self._pulls if name[0] == uuid]:
            if self.complete(*name):
                del self._pulls[name]
            else:
                self._owed.add(name)

    # Logs of attempts that have ended.

    def owe(self, source: Source) -> None:
        """A former dispatcher remembered that the rest of it must still come."""
        name = source.uuid, source.attempt, source.step
        self._pulls[name] = _Pull(source)
        self._owed.add(name)

    def to_ask(self, node: str) -> List[Tuple[Source, Message]]:
        """What is owed by a node that is connected, and was not asked for on this connection."""
        found = [pull for name in sorted(self._owed) if (pull := self._pulls[name]).source.node == node]
        found = [pull for pull in found if not pull.asked]
        for pull in found:
            pull.asked = True
        return [(pull.source, _from(pull)) for pull in found]

    def ask_again(self, node: str) -> None:
        """The connection is lost: what was asked for won't come on it."""
        for pull in self._pulls.values():
            if pull.source.node == node:
                pull.asked = False

    def give_up(self, nodes: Collection[str]) -> None:
        """Logs of ended jobs on any but these nodes won't come."""
        for name in [name for name in self._owed if self._pulls[name].source.node not in nodes]:
            del self._pulls[name]
            self._owed.remove(name)

    def paid(self) -> List[Source]:
        """Those that are here as a whole now, for the store to forget. They are dropped."""
        found = [self._pulls[name].source for name in list(self._owed) if self._pulls[name].ended]
        for source in found:
            name = source.uuid, source.attempt, source.step
            del self._pulls[name]
            self._owed.remove(name)
        return found

    def owing(self) -> List[str]:
        """The nodes that still have logs of ended jobs."""
        return sorted({self._pulls[name].source.node for name in self._owed})


def _from(pull: _Pull) -> Message:
    name = {"job": pull.source.uuid, "attempt": pull.source.attempt, "step": pull.source.step}
    return {**name, "do": "tail", "from": pull.size}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _append(path: str, offset: int, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        written = os.pwrite(file, data, offset)
        if written < len(data):
            os.ftruncate(file, offset)
            raise OSError(28, "No space left on device", path)
    finally:
        os.close(file)


def _index(source: Source, offset: int, length: int) -> None:
    if source.ranks == 1 or length <= 0:
        return
    try:
        with open(run_index(os.path.dirname(os.path.dirname(source.path))), "a") as file:
            file.write("%s %d %d\n" % (source.step, offset, length))
    except OSError:
        pass  # a full disk: what isn't in the index is shown after it


def _complete_index(source: Source, size: int) -> None:
    """A killed dispatcher may have kept a piece and not its line."""
    known = 0
    try:
        with open(run_index(os.path.dirname(os.path.dirname(source.path)))) as file:
            for line in file:
                step, offset, length = line.split()
                if step == source.step:
                    known = max(known, int(offset) + int(length))
    except (OSError, ValueError):
        pass
    _index(source, known, size - known)
