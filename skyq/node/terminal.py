"""The terminal of a step, for somebody who comes to it over a Unix socket: `skyq run`.

The script's process forks: the child becomes the script, on a pty of its own or on pipes, and this one stays
in front of it, carries bytes, and ends with the child's exit code. It is the step's main process: when it
ends, the shim sees everything else of the step off. One visitor, of this account; when it is gone so is the
step.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import struct
import termios
import time

from skyq.core import protocol, visit
from skyq.core.errors import ProtocolError
from skyq.core.paths import RunDir
from skyq.core.protocol import Message
from skyq.transport.aside import short_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple, TypeAlias

HUNG_UP = 128 + signal.SIGHUP  # exit status where nobody was or is there
OPENING = 10.0  # seconds for a visitor to say what it has
PARTING = 5.0  # seconds between the visitor's loss and the end
FLUSH = 60.0  # seconds in which the visitor takes something, at least, of what it lacks at the script's end
NUDGE = 0.5  # seconds after a cancel in which a program may end by itself before a shell is hung up on
REST = 1024 * 1024  # bytes that are shown of what was written when the script ended
GLANCE = 0.1  # seconds between looks at what no descriptor tells of
SILENCE = 60.0  # seconds without a byte from the head, after which its connection is dead
_LOST = "the connection to its terminal was lost"
_NOBODY = "nobody came to its terminal within %g s"
_LOG = b"skyq: this job has a terminal. What is shown there isn't kept.\n"

Become: TypeAlias = "Callable[[Dict[str, str]], NoReturn]"
"""Has this process be the script, with these variables besides."""


def hold(run: RunDir, patience: float, become: Become) -> int:
    """Be the terminal of what `become` starts once somebody is there; the exit status for this process.

    `patience`: seconds until somebody has to be there.
    """
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd != 9:  # 9: the environment. The shim's locks are the shim's alone
            try:
                os.close(fd)
            except OSError:
                pass  # the descriptor of the listing itself
    os.write(1, _LOG)
    wake = _Signals()
    found = _visitor(run, patience, wake)
    if found is None:
        return 128 + signal.SIGTERM if wake.told_to_end else _leave_word(run, _NOBODY % patience)
    sitting = _Sitting(*found, wake, become)
    sitting.serve()
    return _leave_word(run, _LOST) if sitting.lost else sitting.code


def _leave_word(run: RunDir, why: str) -> int:
    """Why it ends, for the step's record."""
    try:
        with open(run.parting, "w") as file:
            file.write(why)
    except OSError:
        pass  # a full disk
    return HUNG_UP


class _Signals:
    """What a signal tells becomes readable. Children are reset by their exec."""

    def __init__(self) -> None:
        self.told_to_end = False
        self.fd, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(into, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def read(self) -> None:
        """See which came."""
        try:
            self.told_to_end |= signal.SIGTERM in os.read(self.fd, 4096)
        except BlockingIOError:
            pass


# The door.


def connect(run: RunDir) -> socket.socket:
    """To the terminal of a step. Raises OSError where there is none (yet, or any more)."""
    line = socket.socket(socket.AF_UNIX)
    try:
        with short_name(run.terminal) as name:
            line.connect(name)
    except OSError:
        line.close()
        raise
    return line


def _visitor(
    run: RunDir, patience: float, wake: _Signals
) -> Optional[Tuple[socket.socket, protocol.Decoder, List[Message]]]:
    """(the line, its decoder, what was said on it, first of all `open`); None where nobody comes."""
    deadline = time.monotonic() + patience
    with socket.socket(socket.AF_UNIX) as door:
        with short_name(run.terminal) as name:
            door.bind(name)
        door.listen(8)
        try:
            while not wake.told_to_end and time.monotonic() < deadline:
                ready = select.select(
                    [door.fileno(), wake.fd], [], [], max(0.0, deadline - time.monotonic())
                )[0]
                wake.read()
                if door.fileno() in ready:
                    line, _ = door.accept()
                    found = _welcome(line)
                    if found is not None:
                        return found
                    line.close()
        finally:
            os.unlink(run.terminal)
    return None


def _welcome(line: socket.socket) -> Optional[Tuple[socket.socket, protocol.Decoder, List[Message]]]:
    """Who is of this account, and says what it has."""
    _, uid, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != os.getuid():
        return None
    decoder = decoder_of_visit()
    line.settimeout(OPENING)
    said: List[Message] = []
    try:
        while not said:
            data = line.recv(visit.PIECE)
            if not data:
                return None
            said += decoder.feed(data)
    except (OSError, ProtocolError):
        return None
    line.setblocking(False)
    return (line, decoder, said) if said[0].get("do") == "open" else None


def decoder_of_visit() -> protocol.Decoder:
    """For either end: a visit begins without a greeting."""
    decoder = protocol.Decoder(2 * visit.WINDOW)
    decoder.greeted = True
    return decoder


# A visit.


class _Sitting:
    """A visitor on one side, the script on the other."""

    def __init__(
        self,
        line: socket.socket,
        decoder: protocol.Decoder,
        said: List[Message],
        wake: _Signals,
        become: Become,
    ) -> None:
        self.code = 0
        """Of the script, once it has ended."""
        self.lost = False
        """Whether the visitor went before that."""
        self._line: Optional[socket.socket] = line
        self._decoder = decoder
        self._said = said[1:]
        self._wake = wake
        self._outbox = bytearray()
        self._inbox = bytearray()
        """What was typed and the script hasn't read."""
        self._input_over = False
        self._credit, self._debt = visit.Credit(), visit.Debt()
        self._deadline: Optional[float] = None
        self._nudge_at: Optional[float] = None
        self._ended = self._farewell = False
        self._rest = REST
        opening = said[0]
        self._tty = opening.get("tty") is True
        self._sources: Dict[int, int] = {}
        """What the script's output is read from → its number."""
        self._child, self._sink = self._start(opening, become)

    def _start(self, opening: Message, become: Become) -> Tuple[int, int]:
        """(pid of the script, where its input is written to)"""
        if self._tty:
            ours, theirs = os.openpty()
            _resize(ours, opening)
            ends, sink = (theirs, theirs, theirs), ours
            self._sources = {ours: 1}
        else:
            (in_out, sink), (out, out_in), (err, err_in) = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
            ends = (in_out, out_in, err_in)
            self._sources = {out: 1, err: 2}
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                if self._tty:
                    fcntl.ioctl(ends[0], termios.TIOCSCTTY, 0)
                for number, fd in enumerate(ends):
                    os.dup2(fd, number)
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE):
                    signal.signal(number, signal.SIG_DFL)
                become({"TERM": visit.term(opening)} if self._tty else {})
            except OSError as error:
                os.write(2, ("skyq: the command could not start: %s\n" % error).encode())
            finally:
                os._exit(126)
        for fd in set(ends):
            os.close(fd)
        for fd in (sink, *self._sources):
            os.set_blocking(fd, False)
        return child, sink

    def serve(self) -> None:
        """Until the script has ended, and the visitor has all that it wrote or is gone."""
        self._hear_all()
        while True:
            self._turn()
            if not self._ended:
                self._see_child()
            if self._ended and (self._line is None or self._is_told()):
                return
            if self._deadline is not None and time.monotonic() > self._deadline:
                return
            if self._nudge_at is not None and time.monotonic() > self._nudge_at:
                self._nudge()

    def _turn(self) -> None:
        """Wait for something, and see to it."""
        poll = select.poll()
        wanted: Dict[int, int] = {self._wake.fd: select.POLLIN}
        if self._line is not None:
            wanted[self._line.fileno()] = select.POLLIN | (select.POLLOUT if self._outbox else 0)
        if self._credit.left > 0:
            wanted.update(dict.fromkeys(self._sources, select.POLLIN))
        if self._inbox and self._sink >= 0:
            wanted[self._sink] = wanted.get(self._sink, 0) | select.POLLOUT
        for fd, events in wanted.items():
            poll.register(fd, events)
        idle = self._deadline is None and self._nudge_at is None and not self._ended
        ready = dict(poll.poll(None if idle else GLANCE * 1000))
        self._wake.read()
        if self._wake.told_to_end and self._nudge_at is None and not self._ended:
            self._nudge_at = time.monotonic() + NUDGE
        if self._sink in ready:
            self._feed()
        for fd in [fd for fd in ready if fd in self._sources]:
            self._read(fd)
        if self._line is not None and self._line.fileno() in ready:
            self._talk(ready[self._line.fileno()])

    # The visitor's side.

    def _talk(self, events: int) -> None:
        assert self._line is not None
        try:
            if events & ~select.POLLOUT:
                data = self._line.recv(visit.PIECE)
                if not data:
                    raise BrokenPipeError
                self._said += self._decoder.feed(data)
            self._flush()
        except BlockingIOError:
            pass
        except (OSError, ProtocolError):
            self._lose()
            return
        self._hear_all()

    def _flush(self) -> None:
        while self._line is not None and self._outbox:
            del self._outbox[: self._line.send(self._outbox)]
            if self._deadline is not None and not self.lost:
                self._deadline = time.monotonic() + FLUSH

    def _say(self, frames: bytes) -> None:
        self._outbox += frames
        try:
            self._flush()
        except BlockingIOError:
            pass
        except OSError:
            self._lose()

    def _hear_all(self) -> None:
        said, self._said = self._said, []
        for message in said:
            self._hear(message)

    def _hear(self, message: Message) -> None:
        what = message.get("do")
        if what == "in" and not self._input_over:
            self._inbox += message.get("data", b"")
            if len(self._inbox) > 2 * visit.WINDOW:
                self._lose()  # that is no visitor of ours
            self._feed()
        elif what == "eof":
            self._input_over = True
            self._inbox += b"\x04" if self._tty else b""
            self._feed()
        elif what == "took":
            self._credit.took(message.get("count"))
        elif what == "size" and self._tty and self._sink >= 0:
            _resize(self._sink, message)
        elif what == "signal" and message.get("number") in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            self._signal(int(message["number"]))
        elif what == "ping":
            self._say(protocol.encode({"is": "pong"}))

    def _lose(self) -> None:
        """The visitor is gone. A script that goes on without one holds devices for nobody."""
        if self._line is None:
            return
        self._line.close()
        self._line = None
        if self._ended:
            return
        self.lost = True
        self._deadline = time.monotonic() + PARTING
        for fd in {*self._sources, self._sink} - {-1}:
            os.close(fd)  # the kernel hangs up on who has the terminal
        self._sources, self._sink = {}, -1
        self._inbox.clear()
        self._signal(signal.SIGHUP)
        self._signal(signal.SIGCONT)

    # The script's side.

    def _feed(self) -> None:
        """Give it what was typed."""
        while self._inbox:
            try:
                piece = self._inbox[: visit.PIECE]
                taken = os.write(self._sink, piece) if self._sink >= 0 else len(self._inbox)
            except BlockingIOError:
                return
            except OSError:  # it reads no more
                self._shut_input()
                continue
            del self._inbox[:taken]
            told = self._debt.take(taken)
            if told:
                self._say(protocol.encode({"is": "took", "count": told}))
        if self._input_over and not self._tty:
            self._shut_input()

    def _shut_input(self) -> None:
        """What comes from now on is dropped. A terminal stays open: its end would be a hang-up."""
        if self._sink >= 0 and not self._tty:
            os.close(self._sink)
        self._sink = -1

    def _read(self, fd: int) -> bool:
        """Tell what it wrote; whether there was anything."""
        if fd not in self._sources:
            return False
        try:
            data = os.read(fd, visit.PIECE)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""  # nobody has the other end of the terminal
        if not data:
            self._drop(fd)
            return False
        self._credit.sent(len(data))
        self._rest -= len(data) if self._ended else 0
        self._say(protocol.encode_data({"is": "out", "stream": self._sources.get(fd, 1)}, data))
        return True

    def _drop(self, fd: int) -> None:
        """Nobody has its other end."""
        del self._sources[fd]
        if self._tty:
            self._shut_input()
        else:
            os.close(fd)

    def _see_child(self) -> None:
        try:
            pid, status = os.waitpid(self._child, os.WNOHANG)
        except ChildProcessError:
            pid, status = self._child, 0
        if pid:
            by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            self.code = 128 + by if by else os.WEXITSTATUS(status)
            self._ended, self._nudge_at = True, None
            self._deadline = time.monotonic() + (PARTING if self.lost else FLUSH)

    def _is_told(self) -> bool:
        """Whether the visitor has all that the script wrote, and how it ended.

        That fits into pipes: it goes at once, so that a slow reader keeps no devices. What still has the
        output open is seen off with the step, and of that only so much is shown.
        """
        if not self._farewell:
            while self._rest > 0 and any(map(self._read, list(self._sources))):
                pass
            self._farewell = True
            stopped = self._wake.told_to_end
            self._say(protocol.encode({"is": "ended", "code": self.code, "stopped": stopped}))
        return not self._outbox

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._child, number)
        except OSError:
            pass  # it is gone

    def _nudge(self) -> None:
        """It was told to end and hasn't. A shell at its prompt takes no TERM; it ends at a hang-up."""
        self._nudge_at = time.monotonic() + NUDGE
        try:
            foreground = os.tcgetpgrp(self._sink) if self._tty and self._sink >= 0 else -1
        except OSError:
            return
        if foreground == self._child and _takes_hangup_only(self._child):
            self._signal(signal.SIGHUP)


def _resize(fd: int, message: Message) -> None:
    rows, columns = (visit.number(message.get(name), 0xFFFF) for name in ("rows", "columns"))
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _takes_hangup_only(pid: int) -> bool:
    """Whether a process ignores TERM, or minds HUP: as shells at a prompt do."""
    from skyq.node import proc

    ignores = proc.in_mask(pid, signal.SIGTERM, b"SigIgn:")
    return ignores or proc.in_mask(pid, signal.SIGHUP, b"SigCgt:")


# On a worker: the connection of a head that visits.


def lend(line: socket.socket) -> None:
    """Carry bytes between this process's standard streams and a terminal until either is gone."""
    line.setblocking(False)
    os.set_blocking(0, False)
    os.set_blocking(1, False)
    into, out = bytearray(), bytearray()
    heard = time.monotonic()
    while time.monotonic() - heard < SILENCE:
        poll = select.poll()
        poll.register(0, select.POLLIN if len(into) < visit.WINDOW else 0)
        poll.register(1, select.POLLOUT if out else 0)
        reads = select.POLLIN if len(out) < visit.WINDOW else 0
        poll.register(line, reads | (select.POLLOUT if into else 0))
        ready = dict(poll.poll(SILENCE * 1000))
        try:
            if 0 in ready:
                heard = time.monotonic()
                if not _pass(lambda: os.read(0, visit.PIECE), into):
                    return
            _push(lambda data: os.write(1, data), out)
        except OSError:
            return
        try:
            if line.fileno() in ready and reads and not _pass(lambda: line.recv(visit.PIECE), out):
                break
        except OSError:
            break
        try:
            _push(line.send, into)
        except OSError:
            into.clear()  # it has ended: its last words are still to be read
    os.set_blocking(1, True)
    while out:
        del out[: os.write(1, out)]


def _pass(read: Callable[[], bytes], box: bytearray) -> bool:
    """Into the box; False at the end."""
    try:
        data = read()
    except BlockingIOError:
        return True
    box += data
    return bool(data)


def _push(write: Callable[[Any], int], box: bytearray) -> None:
    try:
        while box:
            del box[: write(bytes(box[: visit.PIECE]))]
    except BlockingIOError:
        pass
