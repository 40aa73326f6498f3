"""Copies of jobs' folders on a worker, beside its run directories: each comes from the head as a parcel.

A copy is filled aside and renamed when it is whole; what a broken connection left of it, the next one goes on
with. `~/sky_workdir` leads to the one that came last, as on
the head. Where all nodes share one home, the head's own copy is used: nothing comes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time

from skyq.core.errors import ProtocolError
from skyq.core.protocol import Message
from skyq.transport import parcel
from skyq.transport.parcel import MOUNT, PART, Parcel, lacks_message, show_additions, turn_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional

SHOWN = ".shown"
"""Beside a copy: the path at which a file_mount shows it."""


class Copies:
    """One connection's parcels, one after the other. `answer` sends what is to be said of them."""

    def __init__(self, runs: str, answer: Callable[[Message], None]) -> None:
        self.folder = os.path.join(os.path.dirname(os.path.abspath(runs)), "work")
        self.answer = answer
        self.do: Dict[str, Callable[[Message], None]] = {
            "parcel": self._parcel,
            "entries": self._entries,
            "bytes": self._bytes,
            "parcel-end": self._end,
        }
        self._name = ""
        self._show = ""
        self._parcel_now: Optional[Parcel] = None
        self._lock = -1

    def path(self, name: str) -> str:
        """Where the copy with that name is, or will be."""
        return os.path.join(self.folder, name)

    def hear(self, message: Message) -> None:
        """One message of a parcel. What can't be done is answered with why."""
        try:
            self.do[str(message["do"])](message)
        except (OSError, ProtocolError, KeyError, TypeError, ValueError, ArithmeticError) as error:
            self._drop()
            self.answer({"is": "not-kept", "why": _in_words(error, self.folder)})

    def _parcel(self, message: Message) -> None:
        self._drop()
        self._name, self._show = str(message["name"]), str(message.get("show", ""))
        if "/" in self._name or self._name.startswith("."):
            raise ProtocolError("a copy can't be called %r" % self._name[:80])
        if os.path.isdir(self.path(self._name)) or self._is_shared(message):
            self._kept()
            return
        os.makedirs(self.folder, 0o700, exist_ok=True)
        rests = self._rests()
        part = self.path("%s.%s%s" % (self._name, os.urandom(4).hex(), PART))
        os.mkdir(part, 0o700)
        self._lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # who collects garbage sees that it isn't any
        base = self._former()
        self._parcel_now = Parcel(part, base, parcel.read_record(base), rests)

    def _is_shared(self, message: Message) -> bool:
        """Whether the head's own copy is here too, on a file system that both see."""
        at, token = str(message.get("at", "")), str(message.get("token", ""))
        if not token or _home_token() != token or not os.path.isdir(at):
            return False
        os.makedirs(self.folder, 0o700, exist_ok=True)
        turn_link(self.path(self._name), at)
        return True

    def _entries(self, message: Message) -> None:
        if self._parcel_now is None:
            return  # it is there already
        self._parcel_now.announced(message["entries"])
        if message.get("last"):
            for part in lacks_message(self._parcel_now.lacks()):
                self.answer(part)

    def _bytes(self, message: Message) -> None:
        if self._parcel_now is not None:
            self._parcel_now.bytes(int(message["n"]), int(message["at"]), message["data"])

    def _end(self, _: Message) -> None:
        if self._parcel_now is None:
            return
        it, base = self._parcel_now, self._parcel_now.base
        it.finish()
        it.settle()
        if base and not self._show:
            written = {item.path for item in it.items}
            show_additions(base, it.root, written, parcel.read_record(base))
        parcel.write_record(self.path(self._name), it.record())
        try:
            os.rename(it.root, self.path(self._name))
        except OSError:
            if not os.path.isdir(self.path(self._name)):
                raise  # else another connection was faster
        for rest in it.rests:
            _remove_unless_locked(rest)
        if not self._show:
            _show_as_workdir(self.path(self._name))
        self._kept()

    def _kept(self) -> None:
        if self._show:
            target = os.path.expanduser(self._show)
            if os.path.lexists(target) and not os.path.islink(target):
                raise ProtocolError("%s exists, and was not put there by skyq" % target)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shown = self.path(self._name) + SHOWN
            with open(shown, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(target)
            turn_link(target, os.path.join(self.path(self._name), MOUNT))
        self._drop()
        self.answer({"is": "kept", "name": self._name})

    def _drop(self) -> None:
        if self._parcel_now is not None:
            self._parcel_now.abandon()
            shutil.rmtree(self._parcel_now.root, ignore_errors=True)
            os.close(self._lock)
        self._parcel_now = None

    def _former(self) -> str:
        """The copy that came last, or that the place shows where this one will be; "" where there is none."""
        if self._show:
            target = os.path.expanduser(self._show)
            shown = os.path.dirname(os.readlink(target)) if os.path.islink(target) else ""
            return shown if os.path.dirname(shown) == self.folder else ""
        return came_last(self.folder)

    def _rests(self) -> List[str]:
        """What broken connections left of this copy. What can't be used any more is removed."""
        found = []
        for name in os.listdir(self.folder):
            copy, path = name.split(".")[0], self.path(name)
            if not name.endswith(PART):
                continue
            if os.path.isdir(self.path(copy)) or parcel.grew(path) < time.time() - parcel.rests_for():
                _remove_unless_locked(path)
            elif copy == self._name:
                found.append(path)
        return found


def came_last(folder: str) -> str:
    """The copy of a workdir that came last; "" where there is none."""
    found = [os.path.join(folder, name) for name in os.listdir(folder) if "-mount-" not in name]
    whole = [path for path in found if os.path.exists(parcel.record_path(path)) and os.path.isdir(path)]
    return max(whole, key=lambda path: os.stat(parcel.record_path(path)).st_mtime, default="")


def shown_at(folder: str) -> List[str]:
    """Where file_mounts show copies of these."""
    found = []
    for name in os.listdir(folder):
        if name.endswith(SHOWN):
            with open(os.path.join(folder, name), encoding="utf-8", errors="surrogateescape") as file:
                found.append(file.read())
    return found


def workdir() -> str:
    """The link to the copy that is shown as the workdir."""
    return os.path.join(os.path.expanduser("~"), "sky_workdir")


def _remove_unless_locked(part: str) -> None:
    """It is still being filled by another connection, where somebody holds its lock."""
    try:
        lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(part, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def _in_words(error: Exception, folder: str) -> str:
    """What happened before where: long paths are cut at their end."""
    if isinstance(error, OSError) and error.strerror:
        return "%s: %s" % (error.strerror, error.filename or folder)
    return "%s: %s" % (error, folder)


def _home_token() -> str:
    try:
        with open(os.path.join(os.path.expanduser("~"), ".skyq", "home-token")) as file:
            return file.read().strip()
    except OSError:
        return ""


def _show_as_workdir(copy: str) -> None:
    """A folder of the user's own stays what it is."""
    path = workdir()
    if os.path.islink(path) or not os.path.lexists(path):
        turn_link(path, copy)
