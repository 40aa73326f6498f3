"""From the head of a cluster to the terminal of a job, wherever that runs."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from skyq.core import protocol, replies, visit
from skyq.core.errors import ProtocolError, SkyqError, Unreachable
from skyq.core.paths import RunDir
from skyq.core.protocol import UNKNOWN, Message
from skyq.core.typed import NamedTuple, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.core.model import Job
    from skyq.head.head import Head
    from skyq.transport.base import Channel

LOOK = 0.02  # seconds between two looks whether the terminal is there
LOOK_FAR = 0.1  # the same on a worker
CROWDED = 0.02  # seconds until a channel that took no more bytes is tried again
PING_EVERY = 5.0  # seconds
SILENCE = 20.0  # seconds without a word from a worker, after which the connection is dead


class Mailbox:
    """Frames for the terminal, by whichever thread; taken by the one that has the channel."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._out, self._into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Readable when there is something."""
        return self._out

    def put(self, frames: bytes) -> None:
        """Send them."""
        self._frames.append(frames)
        try:
            os.write(self._into, b"!")
        except BlockingIOError:
            pass  # it is readable already

    def take(self) -> bytes:
        """What there is."""
        try:
            os.read(self._out, 4096)
        except BlockingIOError:
            pass
        taken: list[bytes] = []
        while self._frames:
            taken.append(self._frames.pop(0))
        return b"".join(taken)


class Visitor(Protocol):
    """Whose terminal it is: of this process, or of a client of this agent."""

    def enter(self) -> None:
        """The job's terminal is there: say `open`."""

    def hear(self, message: Message) -> None:
        """What the terminal says; of `visit.TO_VISITOR`. Last of all `ended`."""


class Ended(NamedTuple):
    """How a visit ended."""

    code: int = UNKNOWN
    """Of the command; UNKNOWN: the terminal was lost before."""
    stopped: bool = False
    """Whether skyq was told to end it."""


class Line:
    """To a terminal that was entered."""

    def __init__(self, channel: Channel, far: bool) -> None:
        self.channel = channel
        self._far = far
        self._decoder = protocol.Decoder(replies.REPLY_LIMIT)
        self._decoder.greeted = True
        self._outbox = bytearray()

    def attend(self, visitor: Visitor, box: Mailbox) -> Ended:
        """Carry what both say, to the end."""
        heard = pinged = time.monotonic()
        try:
            while not self._far or time.monotonic() - heard < SILENCE:
                ready = self._wait(box)
                self._outbox += box.take()
                if self._far and time.monotonic() - pinged > PING_EVERY:
                    pinged = time.monotonic()
                    self._outbox += protocol.encode({"do": "ping"})
                self._push()
                if self.channel.fileno() in ready:
                    heard = time.monotonic()
                    ended = self._hear(visitor)
                    if ended is not None:
                        return ended
        except (OSError, EOFError, Unreachable, ProtocolError):
            pass  # the job's end tells why
        return self._lost(visitor)

    def _lost(self, visitor: Visitor) -> Ended:
        visitor.hear({"is": "ended", "code": UNKNOWN})
        return Ended()

    def _wait(self, box: Mailbox) -> set[int]:
        poll = select.poll()
        poll.register(self.channel.fileno(), select.POLLIN)
        poll.register(box.fileno(), select.POLLIN)
        timeout = CROWDED if self._outbox else PING_EVERY if self._far else None
        return {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)}

    def _push(self) -> None:
        try:
            while self._outbox:
                taken = self.channel.write(bytes(self._outbox[: protocol.FRAME_LIMIT]))
                if not taken:
                    return
                del self._outbox[:taken]
        except (OSError, Unreachable):
            self._outbox.clear()  # it has ended: its last words are still to be read

    def _hear(self, visitor: Visitor) -> Ended | None:
        try:
            data = self.channel.read()
        except BlockingIOError:
            return None
        if not data:
            raise EOFError
        for message in replies.of_node(list(self._decoder.feed(data))):
            if message["is"] in visit.TO_VISITOR:
                visitor.hear(message)
            if message["is"] == "ended":
                return Ended(message["code"], bool(message.get("stopped")))
        return None


def enter(head: Head, job: Job, still: Callable[[], bool]) -> Line | None:
    """The line to the terminal of a running job; None where there is none any more.

    `still`: whether the job still runs. Raises Unreachable, SkyqError.
    """
    grant = job.grants[0]
    node = next(node for node in head.all_nodes() if node.name == grant.node)
    if node.reach is None:
        return _enter_here(RunDir.of(head.where.runs, job.uuid, job.attempt, "run-0"), still)
    from skyq.head.courier import Talk
    from skyq.transport.channel import SshChannel

    channel = SshChannel(node.reach, head.where.key, head.where.known_hosts, "skyq")
    try:
        talk = Talk(channel)
        talk.send([protocol.greeting()])
        talk.wait("hello")
        request = {"do": "enter", "job": job.uuid, "attempt": job.attempt, "step": "run-0"}
        while True:
            talk.send([protocol.encode(request)])
            if talk.wait("entered", "not-entered")["is"] == "entered":
                return Line(channel, far=True)
            if not still():
                break
            time.sleep(LOOK_FAR)
    except BaseException:
        channel.close()
        raise
    channel.close()
    return None


def _enter_here(run: RunDir, still: Callable[[], bool]) -> Line | None:
    from skyq.node import terminal
    from skyq.transport.local import SocketChannel

    while True:
        try:
            return Line(SocketChannel(terminal.connect(run)), far=False)
        except (FileNotFoundError, ConnectionRefusedError):
            if not still():
                return None
            time.sleep(LOOK)
        except OSError as error:
            raise SkyqError("The terminal of the job can't be reached: %s." % error.strerror) from None
