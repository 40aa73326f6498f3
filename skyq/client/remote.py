"""One conversation with the agent on a cluster's head: a request, then what the agent has to say.

agent → client                                client → agent
  (bytes)  fd                                   verb   verb words user tty columns encoding env order place
  at       (a place: see cli/place.py)          answer line
  ask                                           ping
  job, file, (bytes) file offset, fetched       parcel, entries, (bytes), parcel-end
  send, lacks, got
  exit     code
  pong

Each side sends its greeting at once, the client its request right behind it. Silence beyond SILENCE, from a
side that is pinged, means that it or the way to it is dead.
"""

from __future__ import annotations

import threading

from skyq.core import replies
from skyq.core.errors import Unreachable
from skyq.core.protocol import Decoder, Message, encode, greeting
from skyq.transport.base import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

PING = 5.0  # seconds
SILENCE = 20.0  # seconds
HEAP = 64 * 1024  # bytes of files that go at once


class Conversation:
    """Ends with `close()`, and the agent with it."""

    def __init__(self, name: str, stream: Stream, request: Message, early: bytes = b"") -> None:
        """`early`: frames that go right behind the request."""
        self._name = name
        self._stream = stream
        self._turn = threading.Lock()
        self._over = threading.Event()
        try:
            self._write(greeting() + encode(request))
            if early:  # in a packet of its own: the other side sees none before it has all of it
                self._write(early)
        except Unreachable:
            pass  # reading tells why
        threading.Thread(target=self._ping, daemon=True).start()

    def messages(self) -> Iterator[list[Message]]:
        """What comes, as it comes: all that a read brought, without pongs.

        Ends with the agent's output. Raises Unreachable where the connection is lost, ProtocolError where the
        other side is no agent.
        """
        decoder = Decoder()
        while True:
            try:
                data = self._stream.read(SILENCE)
            except TimeoutError:
                raise Unreachable(
                    "The head of cluster %s has not answered for %d seconds." % (self._name, SILENCE), "lost"
                ) from None
            if not data:
                return
            heard = replies.of_head(list(decoder.feed(data)))
            yield [message for message in heard if message.get("is") != "pong"]

    def answer(self, line: str) -> None:
        """What the user typed; empty: nothing more will come."""
        self._write(encode({"do": "answer", "line": line}))

    def send(self, frames: Iterator[bytes]) -> None:
        """Files; see transport/parcel.py."""
        heap = bytearray()
        for frame in frames:
            heap += frame
            if len(heap) >= HEAP:
                self._write(bytes(heap))
                heap.clear()
        self._write(bytes(heap))

    def last_words(self) -> str:
        """What it said on its standard error, for an agent that ended without a word."""
        return self._stream.stderr().strip()

    def close(self) -> None:
        """End it; a process of its own on the other side ends too."""
        self._over.set()
        self._stream.close()

    def _write(self, data: bytes) -> None:
        with self._turn:
            self._stream.write(data)

    def _ping(self) -> None:
        while not self._over.wait(PING):
            try:
                self._write(encode({"do": "ping"}))
            except (Unreachable, OSError):
                return  # who reads sees it, too


def ended(name: str, conversation: Conversation) -> Unreachable:
    """The error for an agent that ended before it had said how: it was killed, or the machine went down."""
    said = conversation.last_words()
    text = "skyq on the head of cluster %s ended without an answer" % name
    return Unreachable(text + (": " + said if said else "."), "lost")
