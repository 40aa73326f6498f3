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
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import paramiko
from paramiko.agent import AgentKey, AgentSSH
from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType, SSHException

from skyq.transport.hosts import Target

AGENT_LIMIT = 30.0  # seconds; it may ask its user to confirm
INTERACTIVE_LIMIT = 120.0  # seconds to type a one-time code
PROMPTS = 3
"""How often a passphrase is asked for."""
PASSWORD_KINDS = ("password", "keyboard-interactive")
MAGIC = b"openssh-key-v1\0"
"""What the text of an OpenSSH private key decodes to begins with."""


class NotLoggedIn(Exception):
    """The server took nothing of what there is."""

    def __init__(self, login: Login, over: bool) -> None:
        super().__init__("not logged in")
        self.tried = tuple(login.tried)
        """Names of keys, for people."""
        self.notes = tuple(login.notes)
        """Sentences about what couldn't be used."""
        self.locked = tuple(login.locked)
        """Key files that a passphrase would open."""
        self.allowed = tuple(login.allowed)
        """What the server would take, as far as it said."""
        self.over = over
        """Whether the server had enough and hung up."""

    @property
    def wants_password(self) -> bool:
        """Whether a password may help."""
        return not self.allowed or bool(set(self.allowed) & set(PASSWORD_KINDS))


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
        self._keys: Dict[str, paramiko.PKey] = {}
        self._notes: Dict[str, str] = {}
        """Of key files that can't be used: why."""
        self._passwords: Dict[Tuple[str, str, int], str] = {}

    def key(self, path: str) -> Optional[paramiko.PKey]:
        """The key of a file; None: note() says why not, or it must be unlocked first."""
        with self._one_at_a_time:
            if path not in self._keys and path not in self._notes:
                found = read_key_file(path)
                if found is None:
                    self._notes[path] = ""
                elif found.kind.startswith("sk-"):
                    self._notes[path] = "a FIDO key, which only an agent can use here: `ssh-add %s`" % path
                elif not found.locked:
                    self._load(path, None)
            return self._keys.get(path)

    def note(self, path: str) -> str:
        """Why a key file can't be used; empty: it can, or isn't there."""
        return self._notes.get(path, "")

    def locked(self, path: str) -> bool:
        """Whether a passphrase would open it."""
        return path not in self._keys and path not in self._notes and os.path.exists(path)

    def unlock(self, paths: Sequence[str]) -> bool:
        """Ask for the passphrases of key files until one opens; False: none did."""
        with self._one_at_a_time:
            for path in paths:
                if path in self._keys:
                    return True  # another thread has asked meanwhile
                if path not in self._notes and self._unlock(path):
                    return True
        return False

    def _unlock(self, path: str) -> bool:
        for _ in range(PROMPTS):
            phrase = self.ask("Passphrase of %s: " % path) if self.ask else None
            if not phrase:
                break
            if self._load(path, phrase):
                return True
        self._notes.setdefault(path, "locked by a passphrase: `ssh-add %s` first" % path)
        return False

    def _load(self, path: str, phrase: Optional[str]) -> bool:
        try:
            key = paramiko.PKey.from_path(path, phrase.encode() if phrase else None)
            key.public_blob = None  # it comes with the certificate beside it, if there is one
            self._keys[path] = key
        except paramiko.pkey.UnknownKeyType:
            self._notes[path] = "of a kind that can't be used here: load it into an agent (ssh-add)"
        except OSError as error:
            self._notes[path] = "not readable: %s" % error.strerror
        except Exception as error:  # cryptography has many: wrong passphrase, unknown cipher, no key at all
            if not phrase:
                self._notes[path] = "not usable: %s" % (str(error).rstrip(".") or type(error).__name__)
            return False
        return path in self._keys

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


class Agent(AgentSSH):  # type: ignore[misc]
    """The SSH agent at a socket, for as long as one login takes; without keys if it doesn't answer."""

    def __init__(self, path: str) -> None:
        super().__init__()
        if not path:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(AGENT_LIMIT)
        try:
            connection.connect(path)
            self._connect(connection)
        except (OSError, SSHException):
            connection.close()
            self._close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


class Login:
    """What paramiko's SSHClient takes as `auth_strategy`: logs in to one host, or raises NotLoggedIn.

    It never asks for a passphrase or password: while somebody types, the server would wait, and hang up.
    """

    def __init__(self, target: Target, keyring: Keyring, password: Optional[str] = None) -> None:
        self._target = target
        self._keyring = keyring
        self._password = password
        self.by_password = password is not None
        self.tried: List[str] = []
        self.notes: List[str] = []
        self.locked: List[str] = []
        self.allowed: List[str] = []

    def authenticate(self, transport: paramiko.Transport) -> None:
        """By keys; or, given a password, by that alone."""
        more = self._by_keys(transport) if self._password is None else self._by_password(transport)
        while more:
            more = self._second_proof(transport, more)
        if more is None:
            raise NotLoggedIn(self, over=not transport.is_active())

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
                self.tried.append(name)
                more = self._attempt(transport, partial(transport.auth_publickey, self._target.user, key))
                if more is not None or not transport.is_active():
                    return more
                if self.allowed and "publickey" not in self.allowed:
                    return None
        if not self.tried:
            return self._attempt(transport, lambda: transport.auth_none(self._target.user))
        return None

    def _by_password(self, transport: paramiko.Transport) -> Optional[List[str]]:
        self.tried.append("the password")
        return self._attempt(
            transport, lambda: transport.auth_password(self._target.user, self._password or "")
        )

    def _interactive(self, transport: paramiko.Transport) -> Optional[List[str]]:
        if not self._keyring.ask:
            self.notes.append("The server asks a question, and no terminal is there to answer it.")
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
            self.allowed = list(error.allowed_types)
        except AuthenticationException as error:
            if "timeout" in str(error):
                raise
            if not transport.is_active() and len(self.tried) < 2:
                raise EOFError from None  # so early it isn't about too many keys
        except SSHException as error:
            if not transport.is_active():
                raise
            self.notes.append("%s: %s." % (self.tried[-1] if self.tried else "login", error))
        return None

    def _keys(self, agent: Agent) -> Iterator[Tuple[str, paramiko.PKey]]:
        """As OpenSSH orders them: the named keys that the agent holds, the agent's others, the files."""
        named = {found.blob: path for path in self._target.identities if (found := read_key_file(path))}
        held: Dict[bytes, AgentKey] = {key.blob: key for key in agent.get_keys()}
        for blob, path in named.items():
            if blob in held:
                yield from self._with_certificates(path, held[blob])
        for blob, key in held.items():
            if blob not in named and not self._target.identities_only:
                yield "%s of the agent" % (key.comment or key.get_name()), key
        for path in self._target.identities:
            if not any(blob in held and path == one for blob, one in named.items()):
                yield from self._of_file(path)

    def _of_file(self, path: str) -> Iterator[Tuple[str, paramiko.PKey]]:
        key = self._keyring.key(path)
        if key:
            yield from self._with_certificates(path, key)
        elif self._keyring.locked(path):
            self.locked.append(path)
        elif self._keyring.note(path):
            self.notes.append("%s is %s." % (path, self._keyring.note(path)))

    def _with_certificates(self, path: str, key: paramiko.PKey) -> Iterator[Tuple[str, paramiko.PKey]]:
        """The key with each of the user's certificates for it, then alone."""
        for certificate in (path + "-cert.pub", *self._target.certificates):
            if os.path.exists(certificate):
                certified = _copy(key)
                try:
                    certified.load_certificate(certificate)
                except (OSError, ValueError, SSHException):
                    continue  # of another key, or none
                yield certificate, certified
        yield path, key


def _copy(key: paramiko.PKey) -> paramiko.PKey:
    if isinstance(key, AgentKey):
        return AgentKey(key.agent, key.blob, key.comment)
    return copy.copy(key)
