"""A host where we are logged in, and a program that runs there. Every wait has a limit.

paramiko waits for ever for a reply to exec, and for a dead peer to take bytes; limits.py ends that.
"""

from __future__ import annotations

import contextlib
import threading
import time

from skyq.core.errors import Unreachable
from skyq.transport.base import READ_SIZE, STDERR_KEPT
from skyq.transport.dial import CONNECT_LIMIT, Wire
from skyq.transport.hosts import Target
from skyq.transport.limits import Limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, List, Optional

    import paramiko
    from fabric import Connection

OPEN_LIMIT = 15.0  # seconds until a program is started
OPEN_AGAIN = 0.05  # seconds until a refused start is tried again
OPEN_AGAIN_FOR = 5.0  # seconds
WRITE_LIMIT = 20.0  # seconds in which the other side takes at least something
END_LIMIT = 5.0  # seconds between the end of the output and the exit code
PIECE = 32 * 1024  # bytes: the packet size of SSH


class Session:
    """A host where we are logged in."""

    def __init__(
        self, target: Target, connection: Connection, wire: Wire, host_key: str, by_password: bool
    ) -> None:
        self.target = target
        self.host_keys = host_key
        """The verified key of the host: "ssh-ed25519 AAAA…"."""
        self.peer = wire.peer
        """The address that was connected to; the host's own name where others connected for us."""
        self.by_password = by_password
        """Whether a typed password was needed."""
        self.hops: List[Session] = []
        """The jump hosts that were connected to for this one, and are closed with it."""
        self._connection = connection
        self._wire = wire

    @property
    def name(self) -> str:
        """As the host was typed."""
        return self.target.name

    @property
    def transport(self) -> paramiko.Transport:
        """paramiko's side of it."""
        transport: paramiko.Transport = self._connection.transport
        return transport

    def run(self, command: str) -> SshStream:
        """Start a program by the user's login shell, whichever that is. One at a time: MaxSessions may be 1.

        Raises Unreachable.
        """
        from paramiko.ssh_exception import ChannelException, SSHException

        give_up = time.monotonic() + OPEN_AGAIN_FOR
        with Limit(OPEN_LIMIT, self.cut) as limit:
            while True:
                try:
                    channel = self._connection.create_session()
                    channel.exec_command(command)
                    return SshStream(self, channel)
                except ChannelException as error:
                    # The one before may not quite have ended there, and MaxSessions be 1.
                    if time.monotonic() > give_up:
                        raise self._wont(error) from None
                    time.sleep(OPEN_AGAIN)
                except (SSHException, EOFError, OSError) as error:
                    if limit.passed:
                        raise self.lost(" (no answer within %d s)" % OPEN_LIMIT) from None
                    raise self._wont(error) if self.transport.is_active() else self.lost() from None

    def _wont(self, error: Exception) -> Unreachable:
        return Unreachable(
            "%s lets %s log in, but start no program: %s.\nTry: ssh %s true"
            % (self.target.where, self.target.user, shown(error), self.target.name)
        )

    def tunnel(self, target: Target) -> Wire:
        """A connection from this host to another. One that gets no answer does the others no harm."""
        from paramiko.ssh_exception import ChannelException, SSHException

        limit = target.connect_timeout or CONNECT_LIMIT
        try:
            with Limit(limit + WRITE_LIMIT, self.cut):
                channel = self.transport.open_channel(
                    "direct-tcpip", (target.hostname, target.port), ("", 0), timeout=limit
                )
        except ChannelException as error:
            raise _no_tunnel(self, target, error) from None
        except (SSHException, EOFError, OSError) as error:
            if not self.transport.is_active():
                raise self.lost(" (%s)" % shown(error)) from None
            raise Unreachable(
                "%s doesn't answer %s within %g s: it is off, or a firewall drops the packets.\n"
                "Try on %s: ssh %s" % (target.where, self.target.where, limit, self.name, target.hostname),
                "timeout",
            ) from None
        return Wire(channel, target.hostname, carrier=self.cut)

    def lost(self, why: str = "") -> Unreachable:
        """What is raised when nothing comes any more."""
        return Unreachable("The connection to %s was lost%s." % (self.target.where, why), "lost")

    def cut(self) -> None:
        """End it at once, from whichever thread; who waits on it gets Unreachable."""
        self._wire.shut()

    def close(self) -> None:
        """Leave the host, and the jump hosts on the way."""
        self._wire.close(self.transport)
        for hop in reversed(self.hops):
            hop.close()


def _no_tunnel(session: Session, target: Target, error: Any) -> Unreachable:
    """The host in between can't or won't connect."""
    if error.code == 1:  # administratively prohibited
        return Unreachable(
            "%s doesn't forward connections (AllowTcpForwarding in its sshd_config), so that %s can't be "
            "reached through it." % (session.target.where, target.where)
        )
    # Why not is known to sshd there, but paramiko keeps only the kind of the failure.
    return Unreachable(
        "%s can't be reached from %s: it is off, or refuses, or the name isn't known there.\n"
        "Try on %s: ssh %s" % (target.where, session.target.where, session.name, target.hostname)
    )


class SshStream:
    """A program on the host; see base.Stream. One thread may read while another writes."""

    def __init__(self, session: Session, channel: paramiko.Channel) -> None:
        self._session = session
        self._channel = channel
        self._stderr = b""
        self._ended = False
        self._news = threading.Event()
        channel.settimeout(WRITE_LIMIT)
        channel.in_buffer.set_event(self._news)

    def read(self, timeout: float) -> bytes:
        """See Stream."""
        self._take_stderr()
        if not self._news.wait(timeout):
            self._take_stderr()
            raise TimeoutError
        with self._limited():
            data: bytes = self._channel.recv(READ_SIZE)
        if not data:
            self._end()
        return data

    def _end(self) -> None:
        """An end that nobody told is a loss."""
        self._ended = True
        self._take_stderr()
        told = self._channel.eof_received or self._channel.exit_status_ready()
        if not told or (not self._session.transport.is_active() and not self._channel.eof_received):
            raise self._session.lost()

    def _take_stderr(self) -> None:
        with self._limited():
            while self._channel.recv_stderr_ready():
                self._stderr = (self._stderr + self._channel.recv_stderr(READ_SIZE))[-STDERR_KEPT:]

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """No call to paramiko lasts longer than this; reading writes too, to let more come."""
        from paramiko.ssh_exception import SSHException

        with Limit(WRITE_LIMIT, self._session.cut) as limit:
            try:
                yield
            except TimeoutError:  # the limit of settimeout() is reached
                if self._channel.gettimeout() == 0.0:
                    raise TimeoutError from None
                raise self._session.lost(" (it takes nothing for %d s)" % WRITE_LIMIT) from None
            except (SSHException, EOFError, OSError) as error:
                if not limit.passed and self._channel.closed and self._session.transport.is_active():
                    self._check_sent(0)
                why = "it takes nothing for %d s" % WRITE_LIMIT if limit.passed else shown(error)
                raise self._session.lost(" (%s)" % why) from None

    def write(self, data: bytes) -> None:
        """See Stream."""
        rest = memoryview(data)
        while rest:
            with self._limited():
                sent = self._channel.send(rest[:PIECE])
            self._check_sent(sent)
            rest = rest[sent:]

    def close(self) -> None:
        """See Stream."""
        with contextlib.suppress(Unreachable), self._limited():
            self._channel.close()

    def _check_sent(self, sent: int) -> None:
        """paramiko drops what is sent on a dead connection, and says that it was sent."""
        if not self._session.transport.is_active():
            raise self._session.lost()
        if not sent:
            raise Unreachable(
                "The program on %s ended before it had read all." % self._session.target.where, "lost"
            )

    def on_news(self, tell: Callable[[], None]) -> None:
        """From now on nothing waits: paramiko's thread calls `tell` when there is something to read."""
        self._channel.settimeout(0.0)
        for buffer in (self._channel.in_buffer, self._channel.in_stderr_buffer):
            buffer.set_event(_Told(tell))

    def read_some(self, room: int) -> Optional[bytes]:
        """What there is, b"" at the end, None for nothing. Only after on_news()."""
        self._take_stderr()
        try:
            with self._limited():
                data: bytes = self._channel.recv(room)
        except TimeoutError:
            return None
        if not data:
            self._end()
        return data

    def send_some(self, data: bytes) -> int:
        """How much of it was taken now. Only after on_news()."""
        try:
            with self._limited():
                sent: int = self._channel.send(data)
        except TimeoutError:
            return 0
        self._check_sent(sent)
        return sent

    def end_input(self) -> None:
        """The program sees the end of its input; what it says can still be read."""
        with self._limited():
            self._channel.shutdown_write()

    def stderr(self) -> str:
        """See Stream."""
        self._take_stderr()
        return self._stderr.decode("utf-8", "replace")

    def exit_code(self) -> Optional[int]:
        """See Stream."""
        if self._ended:
            self._channel.status_event.wait(END_LIMIT)
        return self._channel.exit_status if self._channel.exit_status_ready() else None


class _Told:
    """What paramiko's buffers take for an event."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.set = tell

    def clear(self) -> None:
        """Nobody waits for it."""


def shown(error: BaseException) -> str:
    """An error of paramiko's or the system's, in a sentence of ours."""
    if isinstance(error, EOFError):
        return "it hung up"
    return str(getattr(error, "strerror", None) or error or type(error).__name__).rstrip(".")
