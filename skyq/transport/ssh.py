"""Connections for who may wait: one session per host, one program in it at a time.

Light to import; fabric and paramiko come with the first connection.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Iterator, List, Optional

from skyq.core.errors import Unreachable
from skyq.transport import slots
from skyq.transport.hosts import Target
from skyq.transport.session import Session, SshStream
from skyq.transport.trust import Trust, UnknownKey

if TYPE_CHECKING:
    from skyq.transport.login import Keyring, NotLoggedIn

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
    from skyq.transport.login import Keyring

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


def _with_patience(
    target: Target, trust: Trust, below: Optional[Session], keyring: Keyring, window: int
) -> Session:
    """One host: again where its server drops connections, and when somebody has been asked.

    People are asked while no connection is open: sshd lets few wait, and not for long.
    """
    from skyq.transport.login import Login, NotLoggedIn
    from skyq.transport.opening import Dropped, open_session

    pauses = _pauses(time.monotonic() + RETRY_FOR)
    password: Optional[str] = None
    prompts = PASSWORD_PROMPTS
    while True:
        try:
            with slots.slot(trust.handshakes, target.hostname, target.port):
                return open_session(target, trust, below, Login(target, keyring, password), window)
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
            raise refused(target, error) from None
        except Dropped as error:
            if not next(pauses, False):
                raise _dropped(target, error) from None


def _pauses(until: float) -> Iterator[bool]:
    """Wait a moment, longer each time and never quite the same, as all that were dropped come again."""
    pause = RETRY_FIRST
    while time.monotonic() + pause < until:
        time.sleep(pause * (0.5 + random.random()))
        yield True
        pause = min(pause * 2, RETRY_LAST)


def _dropped(target: Target, error: Exception) -> Unreachable:
    return Unreachable(
        "%s closes each connection before anything is said (%s), for %d s now: its sshd is overloaded "
        "(MaxStartups) or doesn't want this address.\nTry: ssh %s"
        % (target.where, error, RETRY_FOR, target.name)
    )


def refused(target: Target, error: NotLoggedIn) -> Unreachable:
    """Nothing that we have is good enough for the server."""
    tried = "Tried: %s." % ", ".join(error.tried) if error.tried else "There was no key to try."
    locked = ["%s is locked by a passphrase: `ssh-add %s` first." % (path, path) for path in error.locked]
    text = " ".join([tried, *error.notes, *locked])
    if error.over:
        hint = "Name the right key in ~/.ssh/config: IdentityFile, and IdentitiesOnly yes."
        text += " Then the server hung up: too many keys."
    elif error.wants_password or "publickey" in error.allowed:
        own = next(iter(target.identities), "~/.ssh/id_ed25519")
        hint = "Try: ssh %s. To install your key there: ssh-copy-id -i %s %s" % (
            target.name,
            own,
            target.name,
        )
    else:
        hint = "It takes nothing but %s, which skyq doesn't do." % ", ".join(error.allowed)
    return Unreachable("%s doesn't let %s log in. %s\n%s" % (target.where, target.user, text, hint), "auth")
