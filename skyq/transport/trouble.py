"""What goes wrong before somebody is logged in, and what is said about it."""

from __future__ import annotations

from skyq.core.errors import Unreachable
from skyq.transport.hosts import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

PASSWORD_KINDS = ("password", "keyboard-interactive")


class Dropped(Exception):
    """The server hung up before anything was said: to try again does no harm."""


class NotLoggedIn(Exception):
    """The server took nothing of what there is."""

    def __init__(self) -> None:
        super().__init__("not logged in")
        self.tried: List[str] = []
        """Names of keys, for people."""
        self.notes: List[str] = []
        """Sentences about what couldn't be used."""
        self.locked: List[str] = []
        """Key files that a passphrase would open."""
        self.allowed: List[str] = []
        """What the server would take, as far as it said."""
        self.over = False
        """Whether the server had enough and hung up."""

    @property
    def wants_password(self) -> bool:
        """Whether a password may help."""
        return not self.allowed or bool(set(self.allowed) & set(PASSWORD_KINDS))


def dropped(target: Target, error: Exception, seconds: float) -> Unreachable:
    """The server hung up each time."""
    return Unreachable(
        "%s closes each connection before anything is said (%s), for %d s now: its sshd is overloaded "
        "(MaxStartups) or doesn't want this address.\nTry: ssh %s"
        % (target.where, error, seconds, target.name)
    )


def not_logged_in(target: Target, error: NotLoggedIn) -> Unreachable:
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
