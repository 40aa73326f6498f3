"""From a socket to a session: handshake, the host's key, login; and what went wrong, in words.

fabric carries it. What fabric leaves to others is done here: host keys and limits. Imported only where a
connection is opened: it needs fabric and paramiko.
"""

from __future__ import annotations

import contextlib
import logging

import paramiko
from fabric import Config, Connection
from paramiko.ssh_exception import IncompatiblePeer, SSHException

from skyq.core.errors import Unreachable
from skyq.transport.dial import Wire
from skyq.transport.hosts import Target
from skyq.transport.limits import Limit
from skyq.transport.login import Login
from skyq.transport.session import Session, shown
from skyq.transport.trouble import Dropped, NotLoggedIn
from skyq.transport.trust import Trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, List, Optional

BANNER_LIMIT = 10.0  # seconds until the server says what it is
HANDSHAKE_LIMIT = 20.0  # seconds until the host's key is known, the banner included
LOGIN_LIMIT = 30.0  # seconds for one proof
CHANNEL_LIMIT = 15.0  # seconds until the server opens a channel
IDLE_POLL = 5.0  # seconds: how often paramiko's thread looks up while nothing happens

logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)  # it would print tracebacks


def open_session(target: Target, trust: Trust, wire: Wire, login: Login, window: int) -> Session:
    """One try. Raises Unreachable, UnknownKey, NotLoggedIn or Dropped, and has closed the wire then."""
    opener = Opener(target, trust, wire, window)
    try:
        with opener.translated(), Limit(HANDSHAKE_LIMIT + 4 * LOGIN_LIMIT, opener.cut):
            return opener.open(login)
    except BaseException:
        opener.discard()
        raise


class Opener:
    """From a socket to a session; also paramiko's policy for host keys."""

    def __init__(self, target: Target, trust: Trust, wire: Wire, window: int) -> None:
        self._target = target
        self._trust = trust
        self._wire = wire
        self._window = window
        self._transport: Optional[paramiko.Transport] = None
        self._key = ""
        """The verified host key; empty: not yet."""

    def open(self, login: Login) -> Session:
        """Handshake, host key, login."""
        # lazy: none of fabric's and invoke's own configuration files is read, nor ~/.ssh/config.
        config = Config(lazy=True, overrides={"load_ssh_configs": False})
        connection = Connection(
            self._target.hostname,
            user=self._target.user,
            port=self._target.port,
            config=config,
            connect_kwargs={
                "sock": self._wire.sock,
                "timeout": HANDSHAKE_LIMIT,
                "banner_timeout": BANNER_LIMIT,
                "auth_timeout": LOGIN_LIMIT,
                "channel_timeout": CHANNEL_LIMIT,
                "transport_factory": self._make_transport,
                "auth_strategy": login,
            },
        )
        connection.client.set_missing_host_key_policy(self)
        connection.open()
        self._wire.sock.settimeout(IDLE_POLL)
        return Session(self._target, connection, self._wire, self._key, login.by_password)

    def _make_transport(self, sock: Any, **options: Any) -> paramiko.Transport:
        self._transport = paramiko.Transport(sock, default_window_size=self._window, **options)
        self._transport.handshake_timeout = 2 * HANDSHAKE_LIMIT  # its own timer would look like a hang-up
        security = self._transport.get_security_options()
        known = [name for kind in self._trust.kinds(self._target) for name in _names(kind)]
        first = [name for name in known if name in security.key_types]
        security.key_types = (*first, *(name for name in security.key_types if name not in first))
        return self._transport

    def missing_host_key(self, client: object, hostname: str, key: paramiko.PKey) -> None:
        """paramiko asks, since it was given no known keys; nothing but the handshake was sent so far."""
        shown = "%s %s" % (key.get_name(), key.get_base64())
        self._trust.check(self._target, shown)
        self._key = shown

    def cut(self) -> None:
        """End it now, from whichever thread."""
        self._wire.shut()

    def discard(self) -> None:
        """After a failure: nothing stays open, and no thread of paramiko's either."""
        if self._transport:
            self._transport.packetizer.complete_handshake()  # its timer would hold up the process's end
        self._wire.close(self._transport)

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """paramiko's errors as ours."""
        try:
            yield
        except (Unreachable, NotLoggedIn):
            raise
        except IncompatiblePeer as error:
            raise Unreachable(
                "%s and skyq have no SSH algorithm in common: %s.\nIts SSH server is too old, or restricted: "
                "see Ciphers, MACs, KexAlgorithms and HostKeyAlgorithms in its sshd_config."
                % (self._target.where, str(error).rstrip("."))
            ) from None
        except (SSHException, EOFError, OSError) as error:
            raise self._trouble(error) from None

    def _trouble(self, error: Exception) -> Exception:
        cause = error.__context__ if str(error).startswith("Error reading SSH protocol banner") else error
        said = self._wire.proxy.said() if self._wire.proxy else ""
        if said:
            return Unreachable(
                "The ProxyCommand of %s failed: %s\nTry: ssh %s"
                % (self._target.where, said, self._target.name)
            )
        if self._key:
            return Unreachable(
                "%s closed the connection during the login: %s.\nTry: ssh %s"
                % (self._target.where, shown(error), self._target.name),
                "lost",
            )
        if isinstance(cause, (EOFError, ConnectionError)):
            return Dropped(shown(cause))
        if isinstance(cause, TimeoutError):
            return self._frozen("says nothing within %g s" % BANNER_LIMIT)
        if "No existing session" in str(error):  # what paramiko says after its timeout
            return self._frozen("doesn't finish the handshake within %g s" % HANDSHAKE_LIMIT)
        return Unreachable(
            "%s doesn't talk SSH as it should: %s.\nTry: ssh %s"
            % (self._target.where, shown(error), self._target.name)
        )

    def _frozen(self, what: str) -> Unreachable:
        return Unreachable(
            "%s takes the connection, but its SSH server %s: the machine hangs or is overloaded.\nTry: ssh %s"
            % (self._target.where, what, self._target.name),
            "frozen",
        )


def _names(kind: str) -> List[str]:
    """What a kind of key is called in the handshake."""
    return ["rsa-sha2-512", "rsa-sha2-256"] if kind == "ssh-rsa" else [kind]
