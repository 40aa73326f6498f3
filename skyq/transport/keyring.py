"""Keys and passwords of one run of skyq. Light to import: paramiko comes with the first key that is tried."""

from __future__ import annotations

import base64
import binascii
import os
import struct
import threading

from skyq.core.typed import NamedTuple
from skyq.transport.hosts import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Optional, Sequence, Tuple

    import paramiko

PROMPTS = 3
"""How often a passphrase is asked for."""
MAGIC = b"openssh-key-v1\0"
"""What the text of an OpenSSH private key decodes to begins with."""


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
    try:
        cipher, at = _string(data, len(MAGIC))
        for _ in range(2):  # how the passphrase is stretched
            _, at = _string(data, at)
        blob, _ = _string(data, at + 4)  # after the number of keys
        return KeyFile(_string(blob, 0)[0].decode("ascii", "replace"), blob, cipher != b"none")
    except struct.error:
        return KeyFile("", b"", False)  # torn; whoever loads it will say so


def _string(data: bytes, at: int) -> Tuple[bytes, int]:
    """SSH's strings: length, bytes. Returns it, and where the next begins."""
    (length,) = struct.unpack_from(">I", data, at)
    return data[at + 4 : at + 4 + length], at + 4 + length


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
        import paramiko

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
