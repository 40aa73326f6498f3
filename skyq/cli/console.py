"""The user's end of a job's terminal: this process's own terminal, or its streams where it has none.

A thread reads what is typed and another one shows what comes, since the process itself listens: who reads its
output slowly, or later, keeps nothing on the node. A terminal is as it was when this is left, whichever way.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable
from types import FrameType

from skyq.core import protocol, visit
from skyq.core.protocol import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NO_SIZE = (24, 80)  # rows, columns, where the terminal doesn't say


class Unread(BaseException):
    """Nobody reads any more what comes. Raised wherever this process is, whatever it catches there."""


class Console:
    """Use it in a `with`. `say` takes frames for the job's terminal, from whichever thread."""

    def __init__(self, say: Callable[[bytes], None], interrupt: Callable[[], None] | None = None) -> None:
        """`interrupt`: gets the first Ctrl-C before the terminal is there; None: that is an exception."""
        self.tty = sys.stdin.isatty() and sys.stdout.isatty()
        self._say = say
        self._interrupt = interrupt
        self._interrupts = 0
        self._entered = self._left = False
        self._credit, self._debt = visit.Credit(), visit.Debt()
        self._turn = threading.Lock()
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._modes: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._typing = threading.Thread(target=self._type, daemon=True)
        self._shown: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._showing = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Console:
        self._on(signal.SIGTERM, _end)
        self._on(signal.SIGHUP, _end)
        if self._interrupt is not None:
            self._on(signal.SIGINT, self._interrupted)
        self._on(signal.SIGUSR1, _broken)
        self._typing.start()
        self._showing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        self._handlers[number] = signal.signal(number, handler)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """The first one is told to the other end, the second one ends all this."""
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self._ring(b"i")

    def _ring(self, word: bytes) -> None:
        try:
            os.write(self._waker, word)
        except BlockingIOError:
            pass

    # As a Visitor.

    def enter(self) -> None:
        """The terminal is there: this one becomes its other end."""
        rows, columns = self._size()
        opening = {"do": "open", "tty": self.tty, "rows": rows, "columns": columns}
        self._say(protocol.encode({**opening, "term": os.environ.get("TERM", "")}))
        self._interrupts = 0
        if self.tty:
            import termios
            import tty

            self._on(signal.SIGWINCH, lambda number, frame: self._ring(b"w"))
            self._modes = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSADRAIN)
        elif signal.SIGINT not in self._handlers:
            self._on(signal.SIGINT, self._interrupted)
        self._entered = True
        self._ring(b"e")

    def hear(self, message: Message) -> None:
        """What the terminal says."""
        what = message["is"]
        if what == "out":
            self._shown.put((message["stream"], message["data"]))
        elif what == "took":
            with self._turn:
                self._credit.took(message["count"])
            self._ring(b"t")
        elif what == "ended":
            self._shown.put(None)
            self._showing.join()
            self.leave()

    def leave(self) -> None:
        """The terminal is one's own again."""
        if self._modes is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._modes)
            self._modes = None
        if not self._left:
            self._left = True
            self._ring(b"x")
            self._typing.join(1.0)

    def _show(self) -> None:
        """The thread that writes what came."""
        while item := self._shown.get():
            try:
                _write(*item)
            except OSError:  # nobody reads it any more
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                return
            told = self._debt.take(len(item[1]))
            try:
                if told:
                    self._say(protocol.encode({"do": "took", "count": told}))
            except Exception:  # the connection is gone; what came is shown all the same
                pass

    # What is typed.

    def _size(self) -> tuple[int, int]:
        import fcntl
        import termios

        try:
            rows, columns = struct.unpack("HHHH", fcntl.ioctl(1, termios.TIOCGWINSZ, b"\0" * 8))[:2]
        except OSError:
            return NO_SIZE
        return (rows, columns) if rows and columns else NO_SIZE

    def _type(self) -> None:
        """The thread that reads."""
        typing = True
        try:
            while not self._left:
                poll = select.poll()
                poll.register(self._wake, select.POLLIN)
                with self._turn:
                    room = min(visit.PIECE, self._credit.left)
                if typing and self._entered and room > 0:
                    poll.register(0, select.POLLIN)
                ready = {fd for fd, _ in poll.poll()}
                if self._wake in ready:
                    self._obey(os.read(self._wake, 64))
                if 0 in ready and not self._left:
                    typing = self._read(room)
        except Exception:  # the connection is gone: who listens to it tells
            pass

    def _obey(self, words: bytes) -> None:
        if b"i" in words and self._entered:
            self._say(protocol.encode({"do": "signal", "number": int(signal.SIGINT)}))
        elif b"i" in words and self._interrupt is not None:
            self._interrupt()
        if b"w" in words:
            rows, columns = self._size()
            self._say(protocol.encode({"do": "size", "rows": rows, "columns": columns}))

    def _read(self, room: int) -> bool:
        """Whether more may come."""
        try:
            data = os.read(0, room)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._say(protocol.encode({"do": "eof"}))
            return False
        with self._turn:
            self._credit.sent(len(data))
        self._say(protocol.encode_data({"do": "in"}, data))
        return True


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _broken(number: int, frame: FrameType | None) -> None:
    raise Unread


def _write(fd: int, data: bytes) -> None:
    """All of it, as it is."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])
