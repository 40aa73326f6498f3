"""Host keys: which are known, which are refused, who is asked about the rest. Nothing is sent before.

The user's and the system's known_hosts are read as OpenSSH reads them: hashed names, [host]:port, patterns,
@revoked. skyq's own file is beside them, and the only one that is written.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import threading

from skyq.core.errors import Unreachable
from skyq.core.paths import Home
from skyq.core.typed import NamedTuple
from skyq.transport.hosts import SSH_PORT, Target
from skyq.transport.keys import fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, List, Optional, Sequence, Tuple

ACCEPT_OPTION = "--accept-new-host-keys"


class UnknownKey(Unreachable):
    """Nobody knows the key, and nobody was asked yet."""

    def __init__(self, text: str, key: str) -> None:
        super().__init__(text, "host-key-unknown")
        self.key = key


class _Line(NamedTuple):
    """One line of a known_hosts file that speaks of the host."""

    file: str
    number: int
    marker: str
    key: str
    """Kind and base64."""

    @property
    def kind(self) -> str:
        return self.key.split(" ")[0]

    @property
    def place(self) -> str:
        return "%s line %d" % (self.file, self.number)


class Trust:
    """What is known of host keys, and what becomes of those that aren't. One for all threads."""

    def __init__(
        self,
        home: Home,
        ask: Optional[Callable[[str], bool]] = None,
        accept_new: bool = False,
        only: str = "",
        handshakes: Optional[str] = None,
    ) -> None:
        """`ask` shows a question and tells whether the key is accepted; `only`: the one file that counts.

        `handshakes`: where the lock files of connect() are, if not in `home`; "": it takes none.
        """
        self.home = home
        self.handshakes = home.handshakes if handshakes is None else handshakes
        self._ask = ask
        self._accept_new = accept_new
        self._only = only
        self._one_question = threading.Lock()

    def kinds(self, target: Target) -> List[str]:
        """The kinds of keys that the host is known by, best first come first."""
        return list(dict.fromkeys(line.kind for line in self._lines(target) if not line.marker))

    def check(self, target: Target, key: str) -> None:
        """Return if the host may have that key ("ssh-ed25519 AAAA…"); else UnknownKey or Unreachable."""
        lines = self._lines(target)
        revoked = [line for line in lines if line.marker == "@revoked" and line.key == key]
        if revoked:
            raise Unreachable(
                "%s shows a host key that %s marks as revoked (%s): nothing was sent to it.\n"
                "Somebody may listen in. Ask who runs the host."
                % (target.where, revoked[0].place, _shown(key)),
                "host-key-changed",
            )
        plain = [line for line in lines if not line.marker]
        if any(line.key == key for line in plain):
            return
        if (
            not plain
            and target.port != SSH_PORT
            and not target.host_key_alias
            and self._without_port(target, key)
        ):
            return
        if plain:
            raise self._changed(target, key, plain)
        if not (self._accept_new or self._ask):
            raise self._unknown(target, key, lines)
        if self._accept_new:
            self._pin(target, key)
            return
        raise self._unknown(target, key, lines)

    def accept(self, target: Target, unknown: UnknownKey) -> bool:
        """Ask about the key, one question at a time, and pin it; False: nobody is there to ask."""
        if not self._ask:
            return False
        with self._one_question:
            if any(line.key == unknown.key for line in self._lines(target)):
                return True  # somebody has said yes meanwhile: the host has two names
            if not self._ask(self.question(target, unknown.key)):
                return False
            self._pin(target, unknown.key)
        return True

    def question(self, target: Target, key: str) -> str:
        """What is asked about an unknown key."""
        return "The key of %s is not known yet: %s. Is it the right one?" % (target.where, _shown(key))

    def _unknown(self, target: Target, key: str, lines: Sequence[_Line]) -> UnknownKey:
        authority = [line for line in lines if line.marker == "@cert-authority"]
        why = (
            "%s names a certificate authority for it, but skyq doesn't check host certificates. "
            % authority[0].place
            if authority
            else ""
        )
        return UnknownKey(
            "The host key of %s is not known: %s. %sNothing was sent to it.\n"
            "Compare it with the host's own (there: ssh-keygen -lf /etc/ssh/ssh_host_%s_key.pub), "
            "then either `ssh %s` once, or add %s (to exec, launch or add)."
            % (target.where, _shown(key), why, _short(key), target.name, ACCEPT_OPTION),
            key,
        )

    def _changed(self, target: Target, key: str, known: Sequence[_Line]) -> Unreachable:
        name = host_name(target.host_key_alias or target.hostname, self._port(target))
        files = dict.fromkeys(line.file for line in known)
        return Unreachable(
            "%s has another host key than the known one: nothing was sent to it. It shows %s; %s has %s.\n"
            "Either the host was set up anew, or somebody listens in. If you know that it is right: %s"
            % (
                target.where,
                _shown(key),
                known[0].place,
                _shown(known[0].key),
                "; ".join("ssh-keygen -R '%s' -f %s" % (name, file) for file in files),
            ),
            "host-key-changed",
        )

    def _port(self, target: Target) -> int:
        return SSH_PORT if target.host_key_alias else target.port

    def _lines(self, target: Target) -> List[_Line]:
        name = host_name(target.host_key_alias or target.hostname, self._port(target))
        return [line for file in self._files(target) for line in _matching(file, name)]

    def _without_port(self, target: Target, key: str) -> bool:
        """OpenSSH also takes a key that stands there for the host, whatever the port."""
        return any(
            line.key == key and not line.marker
            for file in self._files(target)
            for line in _matching(file, host_name(target.hostname, SSH_PORT))
        )

    def _files(self, target: Target) -> Tuple[str, ...]:
        return (self._only,) if self._only else (*target.known_hosts, self.home.known_hosts)

    def _pin(self, target: Target, key: str) -> None:
        name = host_name(target.host_key_alias or target.hostname, self._port(target))
        pin(self._only or self.home.known_hosts, name, key)


def host_name(host: str, port: int) -> str:
    """How known_hosts names a host."""
    return host.lower() if port == SSH_PORT else "[%s]:%d" % (host.lower(), port)


def pin(file: str, name: str, key: str) -> None:
    """Add one line to a known_hosts file, by one write, so that racing writers don't mix theirs."""
    os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        torn = bool(size) and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (("\n" if torn else "") + "%s %s\n" % (name, key)).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _matching(file: str, name: str) -> Iterator[_Line]:
    """The lines of a file that speak of a host."""
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            lines = opened.readlines()
    except OSError:
        return
    for number, line in enumerate(lines, 1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) >= 3 and not words[0].startswith("#") and _speaks_of(words[0], name):
            yield _Line(file, number, marker, "%s %s" % (words[1], words[2]))


def _speaks_of(patterns: str, name: str) -> bool:
    """Whether the first word of a line is about a host: hashed, or patterns of which a negated one wins."""
    if patterns.startswith("|1|"):
        return _is_hash_of(patterns, name)
    found = False
    for pattern in patterns.lower().split(","):
        negated = pattern.startswith("!")
        if _like(pattern.lstrip("!"), name):
            if negated:
                return False
            found = True
    return found


def _like(pattern: str, name: str) -> bool:
    """OpenSSH's patterns know * and ?, and no [...]."""
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), name))


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(word) for word in hashed.split("|")[2:4])
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _shown(key: str) -> str:
    try:
        return "%s key %s" % (_short(key).upper(), fingerprint(key))
    except ValueError:
        return "a key that is none"


def _short(key: str) -> str:
    """ed25519, ecdsa, rsa."""
    kind = key.split(" ")[0]
    return kind.replace("ssh-", "").split("-")[0]
