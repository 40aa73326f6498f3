"""Connections for who may wait: one session per host, one program in it at a time.

Light to import; fabric and paramiko come with the first connection.
"""

from __future__ import annotations

import random
import time

from skyq.core.errors import Unreachable
from skyq.core.typed import NamedTuple
from skyq.transport import slots
from skyq.transport.dial import Wire, dial
from skyq.transport.hosts import Target
from skyq.transport.keyring import Keyring
from skyq.transport.session import Session, SshStream
from skyq.transport.trouble import Dropped, NotLoggedIn, dropped, not_logged_in
from skyq.transport.trust import Trust, UnknownKey
from skyq.transport.warmup import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional

__all__ = ["Session", "SshStream", "connect"]

WINDOW = 2 * 1024 * 1024  # bytes that may come before they are read
RETRY_FOR = 15.0  # seconds to try again while the server drops connections before its banner
RETRY_FIRST = 0.2  # seconds; doubled, with jitter, up to RETRY_LAST
RETRY_LAST = 3.0  # seconds
PASSWORD_PROMPTS = 3


def connect(
    target: Target,
    trust: Trust,
    via: Optional[Session] = None,
    keyring: Optional[Keyring] = None,
    window: int = WINDOW,
) -> Session:
    """Log in to a host: directly, by the user's jump hosts, or (`via`) through an open session.

    Unreachable if that can't be; host keys that nobody knows go by `trust`, secrets by `keyring`.
    """
    keyring = keyring or Keyring()
    below = via
    hops: List[Session] = []
    try:
        for hop in () if via else target.jumps:
            below = _with_patience(hop, trust, below, keyring, WINDOW)
            hops.append(below)
        session = _with_patience(target, trust, below, keyring, window)
    except Unreachable as error:
        _close_all(hops)
        if len(hops) < len(target.jumps) and not via:
            raise Unreachable("On the way to %s: %s" % (target.name, error), error.kind) from None
        raise
    except BaseException:
        _close_all(hops)
        raise
    session.hops = hops
    return session


def _close_all(sessions: List[Session]) -> None:
    for session in reversed(sessions):
        session.close()


class _Secrets(NamedTuple):
    """What a login may use."""

    keyring: Keyring
    password: Optional[str]


def _with_patience(
    target: Target, trust: Trust, below: Optional[Session], keyring: Keyring, window: int
) -> Session:
    """One host: again where its server drops connections, and when somebody has been asked.

    People are asked while no connection is open: sshd lets few wait, and not for long.
    """
    pauses = _pauses(time.monotonic() + RETRY_FOR)
    password: Optional[str] = None
    prompts = PASSWORD_PROMPTS
    while True:
        try:
            with slots.slot(trust.handshakes, target.hostname, target.port):
                wire = below.tunnel(target) if below else dial(target)
                return _open(target, trust, wire, _Secrets(keyring, password), window)
        except UnknownKey as unknown:
            if not trust.accept(target, unknown):
                raise
        except NotLoggedIn as error:
            if keyring.ask and error.locked and keyring.unlock(error.locked):
                continue
            if prompts and error.wants_password:
                prompts -= 1
                password = keyring.password(target, again=password is not None)
                if password is not None:
                    continue
            raise not_logged_in(target, error) from None
        except Dropped as error:
            if not next(pauses, False):
                raise dropped(target, error, RETRY_FOR) from None


def _open(target: Target, trust: Trust, wire: Wire, login: _Secrets, window: int) -> Session:
    """fabric's part. It is imported when the connection stands: the server gets ready meanwhile."""
    try:
        load()
        from skyq.transport.login import Login
        from skyq.transport.opening import open_session
    except BaseException:
        wire.close()
        raise
    return open_session(target, trust, wire, Login(target, login.keyring, login.password), window)


def _pauses(until: float) -> Iterator[bool]:
    """Wait a moment, longer each time and never quite the same, as all that were dropped come again."""
    pause = RETRY_FIRST
    while time.monotonic() + pause < until:
        time.sleep(pause * (0.5 + random.random()))
        yield True
        pause = min(pause * 2, RETRY_LAST)
