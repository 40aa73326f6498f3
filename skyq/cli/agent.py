"""`skyq _agent`: one verb that was typed on another machine, run here, on the head of its cluster.

client/remote.py is the other end. The verb's own module runs in this process as if it had been typed here;
standard input, output and error are the client's, and so are user, terminal and colours. When the client is
gone, so is this process.
"""

from __future__ import annotations

import io
import os
import queue
import select
import signal
import sys
import threading
import time
from importlib import import_module

from skyq.cli import place
from skyq.cli.main import guarded
from skyq.cli.verbs import VERBS
from skyq.core import protocol
from skyq.core.errors import ProtocolError, UsageError
from skyq.core.protocol import Message
from skyq.core.visit import TO_TERMINAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SILENCE = 30.0  # seconds without a word from the client, after which it is gone
GOODBYE = 1.5  # seconds for the verb to clean up when the client is gone
BLOCK = 64 * 1024  # bytes of output that are kept together
PILE = 64  # messages of a parcel, of less than a frame each, that may wait to be written to disk
PARCEL = frozenset({"parcel", "entries", "bytes", "parcel-end"})
VISIT = TO_TERMINAL - {"ping"}


_wire: Wire | None = None


def tell(message: Message) -> str | None:
    """Something to the client that isn't for its screen, with its answer if the message is of those that have
    one. Bytes go along under "data".
    """
    assert _wire is not None
    header = {name: value for name, value in message.items() if name != "data"}
    if "data" in message:
        _wire.send(protocol.encode_data(header, message["data"]))
        return None
    _wire.say(header)
    return _wire.answers.get() if message["is"] == "job" else None


class _Sender:
    """The client, as one that has files; see cli/sync.py."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def tell(self, message: Message) -> None:
        """Say what is wanted, or how far it has come."""
        self._wire.say(message)

    def next(self) -> Message:
        """Wait for the next message of a parcel."""
        return self._wire.parcels.get()


def sender() -> _Sender:
    """The client."""
    assert _wire is not None
    return _Sender(_wire)


class _Visitor:
    """The client, as one that comes to the terminal of a job; see cli/visit.py."""

    def __init__(self, wire: Wire) -> None:
        from skyq.cli.visit import Mailbox

        self._wire = wire
        self.box = Mailbox()

    def enter(self) -> None:
        """See Visitor."""
        sys.stderr.flush()
        self._wire.say({"is": "entered"})

    def hear(self, message: Message) -> None:
        """See Visitor."""
        tell(message)


def visitor() -> _Visitor:
    """The client."""
    assert _wire is not None
    _wire.visitor = _Visitor(_wire)
    return _wire.visitor


def main(verb: str, words: list[str]) -> int:
    """Run one verb; what comes of it is told to the client, so this process has nothing left to say."""
    global _wire
    wire = _wire = Wire()
    request = wire.request()
    _become(wire, request)
    threading.Thread(target=wire.watch, daemon=True).start()
    try:
        code = guarded(lambda: _obey(request))
        sys.stdout.flush()
        sys.stderr.flush()
        wire.say({"is": "exit", "code": code})
    except BrokenPipeError:
        pass  # nobody is there any more
    except BaseException:
        import traceback

        wire.send(protocol.encode_data({"fd": 2}, traceback.format_exc().encode()))
    os._exit(0)


def _obey(request: Message) -> int:
    verb, words = str(request["verb"]), [str(word) for word in request["words"]]
    if verb not in VERBS:
        raise UsageError("The skyq on the head of the cluster knows no command %s." % verb)
    module = import_module("skyq.cli." + VERBS[verb][0])
    order = request.get("order")
    return int(module.main(words) if order is None else module.obey(words, order))


def _become(wire: Wire, request: Message) -> None:
    """Be the client's: its streams, its name, the place it was at."""
    os.environ.update({str(name): str(value) for name, value in request.get("env", {}).items()})
    os.environ["SKYQ_USER"] = str(request["user"])
    os.environ[place.AT_HEAD] = "yes"
    if request.get("columns"):
        os.environ["COLUMNS"] = str(request["columns"])
    tty = [bool(each) for each in request["tty"]]
    encoding = str(request.get("encoding") or "utf-8")
    raw: Any = _Out(wire, 1, tty[1]), _Out(wire, 2, tty[2])
    out, err = (io.TextIOWrapper(each, encoding, "replace") for each in raw)
    out.reconfigure(line_buffering=tty[1])
    err.reconfigure(line_buffering=True)
    sys.stdin = sys.__stdin__ = _In(wire, out, tty[0])  # type: ignore[assignment, misc]
    sys.stdout = sys.__stdout__ = out  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = err  # type: ignore[misc]

    def tell(record: place.Record) -> None:
        out.flush()
        err.flush()
        wire.say({"is": "at", "place": record})

    place.go_on(request.get("place") or {}, tell)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # sshd's may ignore it


class Wire:
    """The connection: what was standard input and output. What others write to those harms nobody."""

    def __init__(self) -> None:
        self._in, self._out = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        self._turn = threading.Lock()
        self._decoder = protocol.Decoder()
        self._waiting: list[Message] = []
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.parcels: queue.Queue[Message] = queue.Queue(PILE)
        self.visitor: _Visitor | None = None
        self.send(protocol.greeting())

    def request(self) -> Message:
        """The first thing the client says."""
        while not self._waiting:
            data = self._read()
            if not data:
                os._exit(1)
            self._waiting += self._decoder.feed(data)
        found = self._waiting.pop(0)
        if found.get("do") != "verb":
            raise ProtocolError("The client said %s before it said what to do." % found.get("do"))
        return found

    def _read(self) -> bytes:
        """What comes within SILENCE; nothing: the client is gone."""
        if not select.select([self._in], [], [], SILENCE)[0]:
            return b""
        return os.read(self._in, BLOCK)

    def say(self, message: Message) -> None:
        """One message to the client."""
        self.send(protocol.encode(message))

    def send(self, frames: bytes) -> None:
        """Whole frames."""
        with self._turn:
            self._write(frames)

    def _write(self, frames: bytes) -> None:
        rest = memoryview(frames)
        while rest:
            rest = rest[os.write(self._out, rest) :]

    def watch(self) -> None:
        """In a thread of its own: answer pings, pass answers on, and end this process after its client."""
        try:
            waiting = self._waiting
            while True:
                for message in waiting:
                    self._hear(message)
                data = self._read()
                if not data:
                    break
                waiting = list(self._decoder.feed(data))
        except (OSError, ProtocolError):
            pass
        self.answers.put("")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(GOODBYE)
        os._exit(1)

    def _hear(self, message: Message) -> None:
        what = message.get("do")
        if what == "answer":
            self.answers.put(str(message.get("line", "")))
        elif what in PARCEL:
            self.parcels.put(message)
        elif what in VISIT and self.visitor is not None:
            data = message.pop("data", None)
            self.visitor.box.put(
                protocol.encode(message) if data is None else protocol.encode_data(message, data)
            )
        elif what == "interrupt":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        elif what == "ping" and self._turn.acquire(timeout=1.0):  # else something else is being said
            try:
                self._write(protocol.encode({"is": "pong"}))
            finally:
                self._turn.release()


class _Out(io.BufferedIOBase):
    """Standard output or error, there."""

    def __init__(self, wire: Wire, fd: int, tty: bool) -> None:
        self._wire = wire
        self._fd = fd
        self._tty = tty
        self._text = bytearray()

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal there."""
        return self._tty

    def write(self, data: Any) -> int:
        """All of it is taken."""
        self._text += data
        if len(self._text) >= BLOCK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Send what there is."""
        if self._text:
            text, self._text = bytes(self._text), bytearray()
            self._wire.send(protocol.encode_data({"fd": self._fd}, text))


class _In(io.TextIOBase):
    """Standard input there, a line at a time, each of which is asked for."""

    def __init__(self, wire: Wire, out: io.TextIOWrapper, tty: bool) -> None:
        self._wire = wire
        self._out = out
        self._tty = tty

    def isatty(self) -> bool:
        """Whether it is a terminal there."""
        return self._tty

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        """A line; "" at its end."""
        self._out.flush()
        self._wire.say({"is": "ask"})
        return self._wire.answers.get()
