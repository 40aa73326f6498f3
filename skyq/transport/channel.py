"""The dispatcher's side of a worker: a Channel over SSH that never blocks who uses it.

Connecting, reading and writing happen in a thread of the channel's own, because paramiko may wait in any of
them, for ever on a dead peer. The caller meets two buffers and a pipe that tells when there is news.
"""

from __future__ import annotations

import os
import threading

from skyq.core.errors import Unreachable
from skyq.core.model import Reach
from skyq.core.paths import Home
from skyq.transport.base import READ_SIZE
from skyq.transport.hosts import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple

    from skyq.transport.ssh import Session, SshStream

BUFFER = 1024 * 1024  # bytes that may wait to be sent
INBOX = 128 * 1024  # bytes that may wait to be read here; more stay within SSH's window
PIECE = 32 * 1024  # bytes: the packet size of SSH
GOODBYE = 5.0  # seconds for the last words, and for the other side to leave, after close()
SEND_AGAIN = 0.02  # seconds until the other side's full window is tried again


class SshChannel:
    """A program on a worker, reached by the cluster's own key; see base.Channel."""

    def __init__(
        self, reach: Reach, key_file: str, known_hosts: str, command: str, handshakes: str = ""
    ) -> None:
        """Returns at once. `command` is what the worker's authorized_keys replaces by its own.

        `known_hosts` is the only file that counts; `handshakes`: Home.handshakes, or "" for no limit.
        """
        self._target = Target(
            name=reach.host,
            hostname=reach.host,
            port=reach.port,
            user=reach.user,
            identities=(key_file,),
            identities_only=True,
        )
        self._known_hosts = known_hosts
        self._handshakes = handshakes
        self._command = command
        self._readable = _Bell()
        # Guards all below. Never held while paramiko is called: its threads call _knock with their own locks.
        self._changed = threading.Condition()
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._knocked = False
        """paramiko has something that was not looked at."""
        self._full = False
        """The other side takes nothing now."""
        self._ended = False
        self._end: Optional[Exception] = None
        """Why, if it was no proper end."""
        self._closing = False
        self._parted = False
        """The program there was told that no more comes."""
        self._session: Optional[Session] = None
        self._thread = threading.Thread(target=self._carry, name="ssh " + reach.host, daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """See Channel; the same for its life."""
        return self._readable.fileno()

    def read(self) -> bytes:
        """See Channel."""
        with self._changed:
            data = bytes(self._inbox[:READ_SIZE])
            del self._inbox[:READ_SIZE]
            if not self._inbox and not self._ended:
                self._readable.clear()
            if data:
                self._changed.notify()  # there is room again
                return data
            if not self._ended:
                raise BlockingIOError("nothing yet from %s" % self._target.name)
            if self._end:
                raise self._end
            return b""

    def write(self, data: bytes) -> int:
        """See Channel: as many bytes as fit into the buffer, connected or not."""
        with self._changed:
            if self._ended or self._end:
                raise self._end or BrokenPipeError("the program on %s has ended" % self._target.name)
            taken = min(len(data), BUFFER - len(self._outbox))
            self._outbox += data[:taken]
            self._changed.notify()
            return taken

    def close(self) -> None:
        """See Channel; returns at once.

        What was written is still sent, and the process doesn't end before that, or GOODBYE seconds.
        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify()
            self._readable.close()
            session = None if self._ended else self._session
        if session:
            threading.Thread(target=self._see_off, args=(session,), name="goodbye").start()

    def _see_off(self, session: Session) -> None:
        self._thread.join(GOODBYE)
        session.cut()

    def _carry(self) -> None:
        """The thread: from the first packet to the last."""
        end: Optional[Exception] = None
        try:
            self._connect()
        except Unreachable as error:
            end = error
        except Exception as error:  # nobody would see a thread's traceback
            end = Unreachable("The connection to %s broke: %r." % (self._target.where, error))
        with self._changed:
            self._ended, self._end = True, end
            self._session = None
            self._readable.ring()

    def _connect(self) -> None:
        from skyq.transport.ssh import connect
        from skyq.transport.trust import Trust

        trust = Trust(Home(""), only=self._known_hosts, handshakes=self._handshakes)
        session = connect(self._target, trust, window=INBOX)
        try:
            with self._changed:
                if self._closing:
                    return
                self._session = session
            stream = session.run(self._command)
            heard = self._pump(stream)
            if not heard:
                raise _never_spoke(session, stream)
        finally:
            session.close()

    def _knock(self) -> None:
        """paramiko has news."""
        with self._changed:
            self._knocked = True
            self._changed.notify()

    def _pump(self, stream: SshStream) -> bool:
        """Bytes both ways until the other side ends. Returns whether it ever spoke, or was sent off.

        A program that has ended takes nothing more; what it said before that is still to be read.
        """
        stream.on_news(self._knock)
        heard = False
        while True:
            out, room, part = self._next_work()
            sent = 0
            try:
                if part:
                    stream.end_input()
                sent = stream.send_some(out) if out else 0
            except Unreachable as error:
                self._send_no_more(error)
            data = stream.read_some(room) if room else None
            heard = heard or bool(data)
            self._note_work(sent, bool(out), data or b"")
            if room and not data and self._end:
                raise self._end
            if data == b"":
                return heard or self._parted

    def _send_no_more(self, why: Exception) -> None:
        with self._changed:
            self._end = why
            self._outbox.clear()
            self._knocked = True  # whatever there is to be read is there by now

    def _next_work(self) -> Tuple[bytes, int, bool]:
        """Wait for something to do: what to send, how much may be read, whether it is time to part."""
        with self._changed:
            self._changed.wait_for(self._has_work, SEND_AGAIN if self._full else None)
            out, room = bytes(self._outbox[:PIECE]), self._room()
            part = self._closing and not out and not self._parted
            self._parted = self._parted or part
            if room:
                self._knocked = False
            return out, room, part

    def _has_work(self) -> bool:
        return bool(
            (self._knocked and self._room())
            or (self._outbox and not self._full)
            or (self._closing and not self._outbox and not self._parted)
        )

    def _room(self) -> int:
        return INBOX if self._closing else INBOX - len(self._inbox)

    def _note_work(self, sent: int, tried: bool, data: bytes) -> None:
        with self._changed:
            del self._outbox[:sent]
            self._full = tried and not sent
            self._knocked = self._knocked or bool(data)  # there may be more than was taken
            if data and not self._closing:
                self._inbox += data
                self._readable.ring()


def _never_spoke(session: Session, stream: SshStream) -> Unreachable:
    """Something else than the program answered: a shell that doesn't find it."""
    said = stream.stderr().strip().splitlines()
    code = stream.exit_code()
    return Unreachable(
        "On %s the program ended at once (%s)%s"
        % (
            session.target.where,
            "no exit code" if code is None else "exit code %d" % code,
            ": " + said[-1] if said else ".",
        )
    )


class _Bell:
    """A descriptor that is readable while rung."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._rung = self._closed = False

    def fileno(self) -> int:
        return self._read

    def ring(self) -> None:
        if not self._rung and not self._closed:
            os.write(self._write, b"!")
            self._rung = True

    def clear(self) -> None:
        if self._rung and not self._closed:
            os.read(self._read, 1)
            self._rung = False

    def close(self) -> None:
        self._closed = True
        os.close(self._read)
        os.close(self._write)
