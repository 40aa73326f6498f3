"""Logging in, once the host's key is accepted: agent, key files, password. Secrets are asked once.

Imported only where a connection is opened: it needs paramiko.
"""

from __future__ import annotations

import copy
import os
import socket
from functools import partial

import paramiko
from paramiko.agent import AgentKey, AgentSSH
from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType, SSHException

from skyq.transport.hosts import Target
from skyq.transport.keyring import Keyring, read_key_file
from skyq.transport.trouble import NotLoggedIn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterator, List, Optional, Tuple

AGENT_LIMIT = 30.0  # seconds; it may ask its user to confirm
INTERACTIVE_LIMIT = 120.0  # seconds to type a one-time code


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
        self._refusal = NotLoggedIn()

    def authenticate(self, transport: paramiko.Transport) -> None:
        """By keys; or, given a password, by that alone."""
        more = self._by_keys(transport) if self._password is None else self._by_password(transport)
        while more:
            more = self._second_proof(transport, more)
        if more is None:
            raise self._refusal

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
                self._refusal.tried.append(name)
                more = self._attempt(transport, partial(transport.auth_publickey, self._target.user, key))
                if more is not None or not transport.is_active():
                    self._refusal.over = more is None
                    return more
                if self._refusal.allowed and "publickey" not in self._refusal.allowed:
                    return None
        return self._by_nothing(transport)

    def _by_nothing(self, transport: paramiko.Transport) -> Optional[List[str]]:
        """So the server says what it takes: else somebody would be asked for a password that it doesn't."""
        try:
            more: List[str] = transport.auth_none(self._target.user)
            return more
        except BadAuthenticationType as error:
            self._refusal.allowed = list(error.allowed_types)
        except (SSHException, EOFError, OSError):
            pass
        return None

    def _by_password(self, transport: paramiko.Transport) -> Optional[List[str]]:
        self._refusal.tried.append("the password")
        return self._attempt(
            transport, lambda: transport.auth_password(self._target.user, self._password or "")
        )

    def _interactive(self, transport: paramiko.Transport) -> Optional[List[str]]:
        if not self._keyring.ask:
            self._refusal.notes.append("The server asks a question, and no terminal is there to answer it.")
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
            self._refusal.allowed = list(error.allowed_types)
        except AuthenticationException as error:
            if "timeout" in str(error):
                raise
            if not transport.is_active() and len(self._refusal.tried) < 2:
                raise EOFError from None  # so early it isn't about too many keys
        except SSHException as error:
            if not transport.is_active():
                raise
            self._refusal.notes.append(
                "%s: %s." % (self._refusal.tried[-1] if self._refusal.tried else "login", error)
            )
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
            self._refusal.locked.append(path)
        elif self._keyring.note(path):
            self._refusal.notes.append("%s is %s." % (path, self._keyring.note(path)))

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
