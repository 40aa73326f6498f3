"""Brings copies of jobs' folders to one worker, in a process and over a connection of its own.

So a gigabyte on its way holds up no start and no news. The node keeps what came; to ask twice costs little.
"""

from __future__ import annotations

import json
import os
import select
import time

from skyq.core import protocol, replies
from skyq.core.errors import ProtocolError, SkyqError, Unreachable
from skyq.core.paths import ClusterDir, Home
from skyq.core.protocol import Message
from skyq.head import workdirs
from skyq.transport import parcel
from skyq.transport.base import Channel
from skyq.transport.parcel import Item, item_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, List, Tuple, TypeAlias

PATIENCE = 120.0  # seconds without a byte taken or given, after which the node is unreachable
PING_EVERY = 5.0  # seconds


def bring(channel: Channel, where: ClusterDir, home: Home, names: List[str]) -> None:
    """Have the node at the other end keep these copies. SkyqError where it doesn't."""
    talk = Talk(channel)
    talk.send([protocol.greeting()])
    talk.wait("hello")
    for name in names:
        copy = where.workdir(name)
        roots = items_of(copy)
        opening = {"name": name, "at": copy, "token": _token(home)}
        opening["show"] = workdirs.read_manifest(copy)["shown_at"]
        talk.send(parcel.announcement(opening, [item for _, item in roots]))
        lacks: List[int] = []
        while True:
            message = talk.wait("kept", "lacks")
            if message["is"] == "kept":
                break
            lacks += message["files"]
            if len(lacks) > len(roots):
                raise ProtocolError("the node lacks more files than there are")
            if message.get("last"):
                talk.send(parcel.contents(roots, lacks))
    channel.close()


def items_of(copy: str) -> List[Tuple[str, Item]]:
    """What a copy was made of, with where each is: what jobs added, and what leads to other copies, isn't."""
    found = []
    for path in workdirs.read_manifest(copy)["whole"]:
        try:
            item = item_of(copy, path)
        except OSError:
            continue  # a job has removed it
        if not item.target.startswith(os.path.dirname(copy) + os.sep):
            found.append((os.path.join(copy, path), item))
    return found


def _token(home: Home) -> str:
    try:
        with open(os.path.join(home.root, "home-token")) as file:
            return file.read().strip()
    except OSError:
        return ""


class Talk:
    """Both ways over a channel that never blocks, waiting where that is needed."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.decoder = protocol.Decoder(replies.REPLY_LIMIT)
        self.heard: List[Message] = []
        self.pinged = time.monotonic()

    def send(self, frames: Iterable[bytes]) -> None:
        """All of them; what comes meanwhile is kept."""
        for frame in frames:
            view = memoryview(frame)
            deadline = time.monotonic() + PATIENCE
            while view:
                taken = self.channel.write(bytes(view))
                view = view[taken:]
                if taken:
                    deadline = time.monotonic() + PATIENCE
                elif time.monotonic() > deadline:
                    raise Unreachable("it takes no more bytes", "lost")
                else:
                    self._listen(0.01)

    def wait(self, *kinds: str) -> Message:
        """The next message of one of these kinds. SkyqError where the node says that it can't."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for message in self._kept():
                if message.get("is") == "not-kept":
                    raise SkyqError(str(message.get("why"))[:500])
                if message.get("is") in kinds:
                    return message
            if time.monotonic() > deadline:
                raise Unreachable("no word from it for %d s" % PATIENCE, "lost")
            if time.monotonic() - self.pinged > PING_EVERY:
                self.pinged = time.monotonic()
                self.send([protocol.encode({"do": "ping"})])
            if self._listen(1.0):
                deadline = time.monotonic() + PATIENCE

    def _kept(self) -> Iterator[Message]:
        while self.heard:
            yield self.heard.pop(0)

    def _listen(self, seconds: float) -> bool:
        """Whether anything came."""
        if not select.select([self.channel], [], [], seconds)[0]:
            return False
        try:
            data = self.channel.read()
        except BlockingIOError:
            return False
        if not data:
            raise Unreachable("the node agent ended", "lost")
        self.heard += replies.of_node(list(self.decoder.feed(data)))
        return True


Connect: TypeAlias = "Callable[[], Channel]"


def main(connect: Connect, where: ClusterDir, home: Home, names: List[str]) -> Tuple[int, str]:
    """(exit code, why not) for the process."""
    try:
        bring(connect(), where, home, names)
    except (SkyqError, OSError) as error:
        return 1, json.dumps(str(error).split("\n")[0])
    return 0, ""
