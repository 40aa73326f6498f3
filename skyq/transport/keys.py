"""SSH keys: making one, and naming one for people. Knows no host."""

from __future__ import annotations

import base64
import binascii
import hashlib

from skyq.transport.aside import write_whole


def make_key(path: str, comment: str = "") -> str:
    """An ed25519 key at `path`, 0600, and its public line beside it (.pub); returns the line.

    A key that is there stays, so that who was killed half-way may come again.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        with open(path, "rb") as file:
            key = serialization.load_ssh_private_key(file.read(), None)
    except FileNotFoundError:
        key = Ed25519PrivateKey.generate()
        write_whole(
            path,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            ),
        )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    line = (public.decode() + " " + comment).strip()
    write_whole(path + ".pub", line.encode() + b"\n")
    return line


def fingerprint(line: str) -> str:
    """SHA256:… as ssh-keygen prints it. `line`: "ssh-ed25519 AAAA…", a comment may follow."""
    words = line.split()
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (IndexError, binascii.Error):
        raise ValueError("no public key: %r" % line) from None
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
