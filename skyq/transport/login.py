"""Logging in, once the host's key is accepted: agent, key files, password. Secrets are asked once.

Imported only where a connection is opened: it needs paramiko.
"""

from __future__ import annotations

import base64
import binascii
import copy
import os
import socket
import threading
from functools import partial
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import paramiko
from paramiko.agent import AgentKey, AgentSSH
from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType, SSHException

from skyq.transport.hosts import Target

AGENT_LIMIT = 30.0  # seconds; it may ask its user to confirm
INTERACTIVE_LIMIT = 120.0  # seconds to type a one-time code
PASSWORD_KINDS = ("password", "keyboard-interactive")
MAGIC = b"openssh-key-v1\0"
"""What the text of an OpenSSH private key decodes to begins with."""


class NotLoggedIn(Exception):
    """The server took nothing of what there is."""

    def __init__(
        self, tried: Sequence[str], notes: Sequence[str], allowed: Sequence[str], over: bool
    ) -> None:
        super().__init__("not logged in")
        self.tried = tuple(tried)
        self.notes = tuple(notes)
        """Sentences about keys that couldn't be used."""
        self.allowed = tuple(allowed)
        """What the server would take, as far as it said."""
        self.over = over
        """Whether the server had enough and hung up."""


class KeyFile(NamedTuple):
    """What a private key file tells without its passphrase."""

    kind: str
    blob: bytes
    """The public key; empty where the file doesn't tell."""
    locked: bool


def read_key_file(path: str) -> Optional[KeyFile]:
    """None: there is no such file, or it can't be read."""
    try:
        with open(path, "rb") as file:
            text = file.read(64 * 1024)
    except OSError:
        return None
    body = b"".join(line for line in text.splitlines() if not line.startswith(b"-----"))
    try:
        data = base64.b64decode(body)
    except binascii.Error:
        data = b""
    if not data.startswith(MAGIC):
        public = _public_beside(path)
        return KeyFile(public[0], public[1], b"ENCRYPTED" in text)
    message = paramiko.Message(data[len(MAGIC) :])
    cipher = message.get_string()
    message.get_string()  # how the passphrase is stretched
    message.get_string()
    message.get_int()
    blob = message.get_string()
    return KeyFile(paramiko.Message(blob).get_text(), blob, cipher != b"none")


def _public_beside(path: str) -> Tuple[str, bytes]:
    try:
        with open(path + ".pub", encoding="utf-8", errors="replace") as file:
            words = file.read().split()
        return words[0], base64.b64decode(words[1])
    except (OSError, IndexError, binascii.Error):
        return "", b""


class Keyring:
    """Keys and passwords of one run of skyq, so that nothing is asked twice. For all threads and hosts."""

    def __init__(self, ask: Optional[Callable[[str], Optional[str]]] = None) -> None:
        """`ask` shows a prompt and returns what was typed, unseen; None: nobody is there, or they gave up."""
        self.ask = ask
        self._one_at_a_time = threading.RLock()
        self._keys: Dict[str, Optional[paramiko.PKey]] = {}
        self._passwords: Dict[Tuple[str, str, int], str] = {}

    def key(self, path: str, locked: bool, notes: List[str]) -> Optional[paramiko.PKey]:
        """The key of a file, its passphrase asked for if need be; None, and a note, if it can't be had."""
        with self._one_at_a_time:
            if path not in self._keys:
                self._keys[path] = self._unlock(path, notes) if locked else _load(path, None, notes)
            return self._keys[path]

    def _unlock(self, path: str, notes: List[str]) -> Optional[paramiko.PKey]:
        if not self.ask:
            notes.append("%s has a passphrase: `ssh-add %s` first." % (path, path))
            return None
        phrase = self.ask("Passphrase of %s: " % path)
        if not phrase:
            notes.append("%s has a passphrase, and none was given." % path)
            return None
        return _load(path, phrase, notes)

    def password(self, target: Target, again: bool) -> Optional[str]:
        """Of an account; asked for once, unless the last one was wrong (`again`)."""
        account = (target.user, target.hostname, target.port)
        with self._one_at_a_time:
            if again:
                self._passwords.pop(account, None)
            if account not in self._passwords and self.ask:
                typed = self.ask("Password of %s on %s: " % (target.user, target.where))
                if typed:
                    self._passwords[account] = typed
            return self._passwords.get(account)

    def answer(self, prompt: str) -> str:
        """To a question of the server."""
        with self._one_at_a_time:
            return (self.ask(prompt) if self.ask else None) or ""


def _load(path: str, phrase: Optional[str], notes: List[str]) -> Optional[paramiko.PKey]:
    try:
        return paramiko.PKey.from_path(path, phrase.encode() if phrase else None)
    except paramiko.pkey.UnknownKeyType:
        notes.append("%s is of a kind that can't be used here: load it into an agent (ssh-add)." % path)
    except OSError as error:
        notes.append("%s can't be read: %s." % (path, error.strerror))
    except Exception as error:  # cryptography has many: wrong passphrase, unknown cipher, no key at all
        wrong = "the passphrase is wrong" if phrase else str(error).rstrip(".") or type(error).__name__
        notes.append("%s can't be used: %s." % (path, wrong))
    return None


class Agent(AgentSSH):  # type: ignore[misc]
    """The SSH agent at a socket, for as long as one login takes; without keys if it doesn't answer."""

    def __init__(self, path: str) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(AGENT_LIMIT)
        try:
            connection.connect(path)
            self._connect(connection)
        except (OSError, SSHException):
            connection.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


class Login:
    """What paramiko's SSHClient takes as `auth_strategy`: logs in to one host, or raises NotLoggedIn."""

    def __init__(self, target: Target, keyring: Keyring, password: Optional[str] = None) -> None:
        self._target = target
        self._keyring = keyring
        self._password = password
        self._tried: List[str] = []
        self._notes: List[str] = []
        self._allowed: List[str] = []
        self.by_password = password is not None

    def authenticate(self, transport: paramiko.Transport) -> None:
        """By keys; or, given a password, by that alone."""
        more = self._by_password(transport) if self._password is not None else self._by_keys(transport)
        while more:
            more = self._second_proof(transport, more)
        if more is None:
            raise NotLoggedIn(self._tried, self._notes, self._allowed, not transport.is_active())

    def _second_proof(self, transport: paramiko.Transport, wanted: List[str]) -> Optional[List[str]]:
        """The server wants another one after the first: a one-time code mostly."""
        if "keyboard-interactive" in wanted:
            return self._interactive(transport)
        if "password" not in wanted:
            return None
        typed = self._keyring.password(self._target, again=False) or ""
        return self._attempt(transport, lambda: transport.auth_password(self._target.user, typed))

    def _by_keys(self, transport: paramiko.Transport) -> Optional[List[str]]:
        with Agent(self._target.agent) as agent:
            for name, key in self._keys(agent):
                self._tried.append(name)
                more = self._attempt(transport, partial(transport.auth_publickey, self._target.user, key))
                if more is not None or not transport.is_active():
                    return more
                if self._allowed and "publickey" not in self._allowed:
                    return None
        if not self._tried:
            return self._attempt(transport, lambda: transport.auth_none(self._target.user))
        return None

    def _by_password(self, transport: paramiko.Transport) -> Optional[List[str]]:
        self._tried.append("the password")
        return self._attempt(
            transport, lambda: transport.auth_password(self._target.user, self._password or "")
        )

    def _interactive(self, transport: paramiko.Transport) -> Optional[List[str]]:
        if not self._keyring.ask:
            self._notes.append("The server asks a question, and no terminal is there to answer it.")
            return None
        transport.auth_timeout = INTERACTIVE_LIMIT
        return self._attempt(transport, lambda: transport.auth_interactive(self._target.user, self._answers))

    def _answers(self, title: str, instructions: str, prompts: List[Tuple[str, bool]]) -> List[str]:
        where = "%s: " % self._target.where
        return [self._keyring.answer(where + prompt) for prompt, _ in prompts]

    def _attempt(
        self, transport: paramiko.Transport, attempt: Callable[[], List[str]]
    ) -> Optional[List[str]]:
        """What the server wants besides (nothing: logged in); None: it refused."""
        try:
            return attempt()
        except BadAuthenticationType as error:
            self._allowed = list(error.allowed_types)
        except AuthenticationException:
            pass
        except SSHException as error:
            self._notes.append("%s: %s." % (self._tried[-1] if self._tried else "login", error))
        return None

    def _keys(self, agent: Agent) -> Iterator[Tuple[str, paramiko.PKey]]:
        """As OpenSSH orders them: the named keys that the agent holds, the agent's others, the files.

        Files with a passphrase come last, since a person must type it.
        """
        files = {path: found for path in self._target.identities if (found := self._usable(path))}
        held: Dict[bytes, AgentKey] = {key.blob: key for key in agent.get_keys()}
        named: Set[bytes] = {found.blob for found in files.values()}
        for blob in [*(b for b in held if b in named), *(b for b in held if b not in named)]:
            if blob in named or not self._target.identities_only:
                yield "%s of the agent" % (held[blob].comment or held[blob].get_name()), held[blob]
        for path, found in sorted(files.items(), key=lambda item: item[1].locked):
            if found.blob and found.blob in held:
                continue
            key = self._keyring.key(path, found.locked, self._notes)
            if key:
                yield from self._with_certificates(path, key)

    def _usable(self, path: str) -> Optional[KeyFile]:
        found = read_key_file(path)
        if found and found.kind.startswith("sk-"):
            self._notes.append(
                "%s is a FIDO key, which only an agent can use here: `ssh-add %s`." % (path, path)
            )
            return None
        return found

    def _with_certificates(self, path: str, key: paramiko.PKey) -> Iterator[Tuple[str, paramiko.PKey]]:
        """The key with each of the user's certificates for it, then alone."""
        for certificate in (path + "-cert.pub", *self._target.certificates):
            if os.path.exists(certificate):
                certified = copy.copy(key)
                try:
                    certified.load_certificate(certificate)
                except (OSError, ValueError, SSHException):
                    continue  # of another key, or none
                yield certificate, certified
        alone = copy.copy(key)
        alone.public_blob = None
        yield path, alone
