"""A user's own key, installed where a password let them in: the next time none is asked for."""

from __future__ import annotations

from skyq.core.errors import Unreachable
from skyq.transport.hosts import Target
from skyq.transport.session import Session

LIMIT = 20.0  # seconds
ADD = (
    '/bin/sh -c \'umask 077; read -r line && mkdir -p "$HOME/.ssh" && cd "$HOME/.ssh" && '
    'touch authorized_keys && if grep -qxF -e "$line" authorized_keys; then echo there; else '
    'if [ -n "$(tail -c 1 authorized_keys)" ]; then echo >>authorized_keys; fi; '
    'printf "%s\\n" "$line" >>authorized_keys && echo added; fi\''
)
"""Reads the line from its input. For any login shell: csh, fish too."""


def own_public_key(target: Target) -> str:
    """The line of the first key that is tried at that host and has its public half beside it; empty: none."""
    for path in target.identities:
        try:
            with open(path + ".pub", encoding="utf-8") as file:
                words = file.readline().split()
        except (OSError, UnicodeDecodeError):
            continue
        if len(words) >= 2 and not words[0].startswith("sk-"):
            return " ".join(words)
    return ""


def install(session: Session, line: str) -> bool:
    """Let the key log in there from now on; False: it could already. Raises Unreachable."""
    stream = session.run(ADD)
    said = b""
    try:
        stream.write(line.encode() + b"\n")
        while data := stream.read(LIMIT):
            said += data
    except TimeoutError:
        raise session.lost(" (no answer within %d s)" % LIMIT) from None
    finally:
        stream.close()
    word = said.split()[-1:]
    if word not in ([b"added"], [b"there"]):
        raise Unreachable(
            "The key couldn't be installed on %s: %s\nAdd it there to ~/.ssh/authorized_keys: %s"
            % (session.target.where, stream.stderr().strip() or "it didn't say why", line)
        )
    return word == [b"added"]
