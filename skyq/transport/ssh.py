"""Connections for who may wait: one session per host, one program in it at a time.

Light to import; fabric and paramiko come with the first connection.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, List, Optional

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
    """One host: again where its server drops connections, and after a question is answered."""
    from skyq.transport.login import PASSWORD_KINDS, Login, NotLoggedIn
    from skyq.transport.opening import Dropped, open_session

    give_up = time.monotonic() + RETRY_FOR
    pause = RETRY_FIRST
    password: Optional[str] = None
    prompts = 0
    while True:
        try:
            with slots.slot(trust.handshakes, target.hostname, target.port):
                return open_session(target, trust, below, Login(target, keyring, password), window)
        except UnknownKey as unknown:
            # Asked with no connection open: it would occupy one of the few that sshd lets wait, or be closed.
            if not trust.accept(target, unknown):
                raise
        except NotLoggedIn as error:
            possible = not error.allowed or set(error.allowed) & set(PASSWORD_KINDS)
            password = keyring.password(target, again=password is not None) if possible else None
            prompts += 1
            if password is None or prompts > PASSWORD_PROMPTS:
                raise _refused(target, error) from None
        except Dropped as error:
            if time.monotonic() + pause > give_up:
                raise Unreachable(
                    "%s closes each connection before anything is said (%s), for %d s now: its sshd is "
                    "overloaded (MaxStartups) or doesn't want this address.\nTry: ssh %s"
                    % (target.where, error, RETRY_FOR, target.name)
                ) from None
            time.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 2, RETRY_LAST)


def _refused(target: Target, error: NotLoggedIn) -> Unreachable:
    """Nothing that we have is good enough for the server."""
    tried = "Tried: %s." % ", ".join(error.tried) if error.tried else "There was no key to try."
    why = " It hung up after so many." if error.over and len(error.tried) > 1 else ""
    own = next(iter(target.identities), "~/.ssh/id_ed25519")
    hint = (
        "Name the one key in ~/.ssh/config (IdentityFile, IdentitiesOnly yes)."
        if why
        else "Try: ssh %s. To install your key: ssh-copy-id -i %s %s" % (target.name, own, target.name)
    )
    notes = "".join(" " + note for note in error.notes)
    return Unreachable(
        "%s doesn't let %s log in. %s%s%s\n%s" % (target.where, target.user, tried, why, notes, hint), "auth"
    )
