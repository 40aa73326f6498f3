"""What the dispatcher and a node agent say to each other, and how it is framed.

A conversation opens with one line of text each way, GREETING; everything before it is noise of the
other side's shell and skipped. Then frames: 1 byte kind, 4 bytes length (big endian), payload of at
most FRAME_LIMIT bytes. A message is a JSON object: PART frames, then one LAST frame. Unknown keys
and unknown messages are ignored, so that the newer side can say more. A DATA frame is a small message
with raw bytes behind it: 2 bytes length of the JSON object (big endian), the object, the bytes. A ZIPPED
frame is a message that zlib made smaller.

head → node                                       node → head
                                                    hello    boot alive ssh lists
  start  job attempt step spec                      prepared job attempt step
  go     job attempt step                           running  job attempt step pid left
  stop   job attempt step why                       exited   job attempt step code stopped why expired
  over   job attempt step                           gone     job attempt step code stopped why expired stuck
  enter  job attempt step                           entered, not-entered why
  look   devices                                    strangers found missing why
  list                                              left     name size last
  remove names                                      removed  name last
  tail   job attempt step from                      log      job attempt step offset (bytes)
                                                    grew     job attempt step size
                                                    log-end  job attempt step size
  claim  cluster id head state_dir                  claimed  refused
  release                                           pong
  ping

start is safe to repeat: it starts, attaches or reports. stop is too: what never started is fenced
so that it never will. exited says how the script ended while processes of the step live on; gone
says that no process of it does, but for those that it names as stuck: no KILL ends them. Once they are gone
too it says so again, without any. A code below 0 means that the exit status can't be known, or that nothing
ran (why tells). over lets a step's leftovers end: its job is over.

A spec: script (the user's text), env (the whole environment), cwd ("" for ~/sky_workdir), copy (instead of
cwd, the name of a folder that came as a parcel: transport/parcel.py says how), log (path, or "" for the run
directory), grace (seconds between TERM and KILL), linger (leftovers live until `over`), hold (wait for `go`
when all is ready; without one in so many seconds it never starts), tail ({from, sizes}: its log is wanted
from an offset on: the bytes, or with `sizes` only how long it is), never (attach or report, but start
nothing: why not), limit (seconds after which it is ended; 0: it isn't), signal and before (what it gets so
many seconds before that; "": nothing), terminal (it has one, at which somebody has to be within so many
seconds: node/terminal.py).

running tells how many seconds are `left` of the limit; expired means that it was reached. enter makes a
connection the line to a step's terminal: after `entered` there is nothing on it but what visit.py tells. look
asks who is on devices (index, UUID) without being of a job, and which of them are missing; the answer may
take seconds. list asks what can go here once its job is done with, and remove has such removed: one answer
for each, then a `last` one.

hello tells which steps this node still has something of: what the head doesn't know of, it stops; and that it
knows list and remove, as an older skyq doesn't. tail asks for the log of a step that is gone. Bytes of logs
come when nothing else is to be said; log-end after all.
"""

from __future__ import annotations

import json
import struct

from skyq import __version__
from skyq.core.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, TypeAlias

VERSION = 1
GREETING = "skyq-protocol"
FRAME_LIMIT = 64 * 1024  # bytes of payload
MESSAGE_LIMIT = 16 * 1024 * 1024  # bytes of one message
NOISE_LIMIT = 1024 * 1024  # bytes that may come before the greeting
FIRST_WORD = 45.0  # seconds until the greeting: a login shell may load modules from a slow disk

LAST = 1
PART = 2
DATA = 3
ZIPPED = 4
HEADER = struct.Struct(">BI")
DATA_HEADER = struct.Struct(">H")

UNKNOWN = -1
"""The code of a step whose exit status can't be known, or that never ran."""

Message: TypeAlias = "Dict[str, Any]"


def greeting() -> bytes:
    """The line that opens a conversation: word, protocol, version of skyq."""
    return ("%s %d %s\n" % (GREETING, VERSION, __version__)).encode()


def encode(message: Message) -> bytes:
    """One message as frames."""
    body = json.dumps(message, separators=(",", ":")).encode()
    out: List[bytes] = []
    while len(body) > FRAME_LIMIT:
        out.append(HEADER.pack(PART, FRAME_LIMIT) + body[:FRAME_LIMIT])
        body = body[FRAME_LIMIT:]
    out.append(HEADER.pack(LAST, len(body)) + body)
    return b"".join(out)


def encode_zipped(message: Message) -> bytes:
    """One long message in a single frame, where that is possible."""
    import zlib

    body = zlib.compress(json.dumps(message, separators=(",", ":")).encode(), 1)
    if len(body) > FRAME_LIMIT:
        return encode(message)
    return HEADER.pack(ZIPPED, len(body)) + body


def encode_data(header: Message, data: bytes) -> bytes:
    """Raw bytes as DATA frames, as many as they need. `offset` in the header, if it is there, counts on."""
    out: List[bytes] = []
    header, rest = dict(header), memoryview(data)
    while True:
        text = json.dumps(header, separators=(",", ":")).encode()
        room = FRAME_LIMIT - DATA_HEADER.size - len(text)
        if room < bool(rest):
            raise ValueError("a header of %d bytes leaves no room for data" % len(text))
        piece = bytes(rest[:room])
        out += [HEADER.pack(DATA, DATA_HEADER.size + len(text) + len(piece)), DATA_HEADER.pack(len(text))]
        out += [text, piece]
        rest = rest[len(piece) :]
        if not rest:
            return b"".join(out)
        if "offset" in header:
            header["offset"] += len(piece)


class Decoder:
    """Bytes in, messages out; the other side is not trusted: sizes are capped, JSON is checked."""

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        """`limit`: bytes of one message."""
        self._limit = limit
        self.greeted = False
        self._buffer = bytearray()
        self._parts = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete now; one that came as a DATA frame has its bytes under "data".

        Raises ProtocolError when the other side doesn't keep to the protocol.
        """
        self._buffer += data
        if not self.greeted:
            self._skip_to_greeting()
        while self.greeted and len(self._buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer)
            if kind not in (LAST, PART, DATA, ZIPPED) or length > FRAME_LIMIT:
                raise ProtocolError("The other side sent a frame that is none (kind %d)." % kind)
            if len(self._buffer) < HEADER.size + length:
                return
            payload = bytes(memoryview(self._buffer)[HEADER.size : HEADER.size + length])
            del self._buffer[: HEADER.size + length]
            if kind in (DATA, ZIPPED):
                yield _with_data(payload) if kind == DATA else _message(_unzipped(payload, self._limit))
                continue
            self._parts += payload
            if len(self._parts) > self._limit:
                raise ProtocolError("The other side sent a message of over %d bytes." % self._limit)
            if kind == LAST:
                body, self._parts = bytes(self._parts), bytearray()
                yield _message(body)

    def _skip_to_greeting(self) -> None:
        word = GREETING.encode() + b" "
        at = self._buffer.find(word)
        end = self._buffer.find(b"\n", at) if at >= 0 else -1
        if end < 0:
            if len(self._buffer) > NOISE_LIMIT:
                raise ProtocolError("The other side is not skyq: it said %r …" % bytes(self._buffer[:80]))
            return
        version = bytes(self._buffer[at + len(word) : end]).split(b" ")[0]
        if version != b"%d" % VERSION:
            raise ProtocolError(
                "The other side speaks protocol %s, this skyq (%s) speaks %d. Use the same version on both."
                % (version.decode("ascii", "replace"), __version__, VERSION)
            )
        del self._buffer[: end + 1]
        self.greeted = True


def _unzipped(payload: bytes, limit: int) -> bytes:
    import zlib

    unzip = zlib.decompressobj()
    try:
        body = unzip.decompress(payload, limit)
    except zlib.error as error:
        raise ProtocolError("The other side sent a zipped message that is none: %s" % error) from None
    if not unzip.eof:
        raise ProtocolError("The other side sent a zipped message of over %d bytes." % limit)
    return body


def _with_data(payload: bytes) -> Message:
    end = DATA_HEADER.size + (DATA_HEADER.unpack_from(payload)[0] if len(payload) >= DATA_HEADER.size else 0)
    if end > len(payload):
        raise ProtocolError("The other side sent data that is shorter than it says.")
    message = _message(payload[DATA_HEADER.size : end])
    message["data"] = payload[end:]
    return message


def _message(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("The other side sent a message that is no JSON: %s" % error) from None
    if not isinstance(message, dict):
        raise ProtocolError("The other side sent a message that is no object.")
    return message
