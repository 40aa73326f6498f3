"""The logs of this node's steps on their way to the head: from an offset on, for as long as they grow.

The kernel tells which file has grown (inotify), so that nothing is looked at in vain; where it can't, all of
them are looked at a few times a second. Nothing is kept here: the head knows how far it has come.
"""

from __future__ import annotations

import ctypes
import os
import struct

from skyq.core import protocol
from skyq.core.protocol import Message
from skyq.node.records import Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional

CHUNK = 48 * 1024  # bytes of a log in one frame
FEW = 6  # pieces of a log that may hold up the news of its step's end
LOOK = 0.2  # seconds between looks where the kernel tells nothing

_libc = ctypes.CDLL(None, use_errno=True)
_IN_MODIFY = 2
_EVENT = struct.Struct("iIII")


class Tail:
    """One log."""

    def __init__(self, name: Message, path: str, offset: int, sizes: bool) -> None:
        self.name = name
        """job, attempt, step: what each of its frames begins with."""
        self.path = path
        self.offset = offset
        self.sizes = sizes
        """Whether only its length is told."""
        self.watch = -1
        self.over = False
        """Whether it won't grow any more."""


class Tails:
    """All of them. `fd`: readable when one has grown, or -1."""

    def __init__(self) -> None:
        self.fd = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._tails: Dict[Key, Tail] = {}
        self._fresh: Dict[Key, Tail] = {}
        """Those that may have more, the one that was served longest ago first."""
        self._watches: Dict[int, Key] = {}

    def __bool__(self) -> bool:
        return bool(self._tails)

    @property
    def fresh(self) -> bool:
        """Whether there may be something to send."""
        return bool(self._fresh)

    def add(self, key: Key, tail: Tail) -> None:
        """Send what it has from its offset on, and what is added to it; instead of a former wish for it."""
        self.drop(key)
        if self.fd >= 0:
            tail.watch = int(_libc.inotify_add_watch(self.fd, os.fsencode(tail.path), _IN_MODIFY))
            if tail.watch >= 0:
                self._watches[tail.watch] = key
        self._tails[key] = self._fresh[key] = tail

    def drop(self, key: Key) -> None:
        """Send no more of it."""
        tail = self._tails.pop(key, None)
        self._fresh.pop(key, None)
        if tail is not None and tail.watch in self._watches:
            del self._watches[tail.watch]
            _libc.inotify_rm_watch(self.fd, tail.watch)

    def over(self, key: Key) -> None:
        """Nothing will be added to it: it is dropped once it was sent, and its end is told."""
        if key in self._tails:
            self._tails[key].over = True
            self._fresh[key] = self._tails[key]

    def grown(self) -> None:
        """The kernel has news."""
        try:
            events = os.read(self.fd, 64 * 1024)
        except BlockingIOError:
            return
        at = 0
        while at < len(events):
            watch, _, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size + length
            key = self._watches.get(watch)
            if key is not None:
                self._fresh[key] = self._tails[key]

    def look_at_unwatched(self) -> bool:
        """Look at those of which the kernel tells nothing; whether there are any."""
        unwatched = {key: tail for key, tail in self._tails.items() if tail.watch < 0}
        self._fresh.update(unwatched)
        return bool(unwatched)

    def frame(self) -> bytes:
        """The next piece of some log; b"" where there is none."""
        while self._fresh:
            key, tail = next(iter(self._fresh.items()))
            del self._fresh[key]
            found = self._next(key, tail)
            if found:
                return found
        return b""

    def rest(self, key: Key) -> bytes:
        """What there still is of a log that is over, if it isn't much: it may come before its step's end."""
        frames: List[bytes] = []
        while len(frames) < FEW and key in self._tails:
            frames.append(self._next(key, self._tails[key]))
        return b"".join(frames)

    def _next(self, key: Key, tail: Tail) -> bytes:
        found = _size(tail) if tail.sizes else _piece(tail)
        if found:
            self._fresh[key] = tail  # behind all others
            return found
        if tail.over:
            self.drop(key)
            return protocol.encode({**tail.name, "is": "log-end", "size": tail.offset})
        return b""


def _piece(tail: Tail) -> Optional[bytes]:
    try:
        with open(tail.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), CHUNK, tail.offset)
    except OSError:
        return None  # it was removed: the head sees that it doesn't come
    if not data:
        return None
    frame = protocol.encode_data({**tail.name, "is": "log", "offset": tail.offset}, data)
    tail.offset += len(data)
    return frame


def _size(tail: Tail) -> Optional[bytes]:
    try:
        size = os.stat(tail.path).st_size
    except OSError:
        return None
    if size == tail.offset:
        return None
    tail.offset = size
    return protocol.encode({**tail.name, "is": "grew", "size": size})
