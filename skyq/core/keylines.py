r"""The text of a user's authorized_keys: the lines by which clusters' heads reach this account. Pure.

Bytes, because the other lines stay as they are, whatever they are. Ours comes first, where a last line
without its newline does no harm. It is known again by its last word, which names the cluster and its id:

    restrict,command="/bin/sh -c 'exec /bin/sh \"$HOME/.skyq/bin/skyq\" _node @lab'" ssh-ed25519 … skyq:lab:3f

What sshd lets such a key do is that command, and nothing else: no shell, no files, no forwarding.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
_HARMFUL = re.compile("[\x00-\x1f\x7f'\"$`!\\\\\ud800-\udfff]")
"""Within '…"…"…' all else is itself to sh, csh, fish and zsh."""
_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/=]+")
_WORD = re.compile(r"[A-Za-z0-9._-]+")
DEFAULT_LAUNCHER = "~/.skyq/bin/skyq"


class NoLine(Exception):
    """The command can't be written as a line; the text says why."""


def shell_line(launcher: str, words: str, needs: Sequence[str] = (), else_say: str = "") -> str:
    """What starts skyq's launcher, for any login shell: sh, csh, fish. `words` are harmless. Raises NoLine.

    `launcher`: its path, or DEFAULT_LAUNCHER, which each account finds in its own home. It is given to sh, as
    a home may be mounted so that nothing in it can be executed. Where that isn't there, or none of the files
    of which it `needs` one, a word is said instead, if one is given.
    """
    path = "$HOME" + launcher[1:] if launcher == DEFAULT_LAUNCHER else launcher
    for each in (launcher, *needs):
        if _HARMFUL.search(each):
            raise NoLine("%s holds characters that mean something to a shell" % each)
    first = ""
    if else_say:
        any_of = " || ".join('test -e "%s"' % each for each in needs or (path,))
        first = 'test -e "%s" && { %s; } || { echo %s; exit 0; }; ' % (path, any_of, else_say)
    return "/bin/sh -c '%sexec /bin/sh \"%s\" %s'" % (first, path, words)


def marker(cluster: str, cluster_id: str) -> str:
    """The last word of a cluster's line."""
    return "skyq:%s:%s" % (cluster, cluster_id)


def key_line(key: str, cluster: str, cluster_id: str, launcher: str) -> bytes:
    """The line that lets a key be the head of a cluster. `key`: kind and base64. Raises NoLine."""
    command = shell_line(launcher, "_node @" + cluster).replace('"', '\\"')
    if not (_KEY.fullmatch(key) and _WORD.fullmatch(cluster) and _WORD.fullmatch(cluster_id)):
        raise NoLine("the head's key or the cluster's name holds what no line can")
    kind, blob = key.split(" ")[:2]
    return ('restrict,command="%s" %s %s %s\n' % (command, kind, blob, marker(cluster, cluster_id))).encode()


def with_line(text: bytes, line: bytes) -> bytes:
    """The file with our line, whole and once; the same bytes where it is so already."""
    mark = line.split()[-1]
    if [one for one in _LINES.findall(text) if _is_ours(one, mark)] == [line]:
        return text
    return line + without_line(text, mark)


def without_line(text: bytes, mark: bytes) -> bytes:
    """The file without the cluster's line."""
    return b"".join(line for line in _LINES.findall(text) if not _is_ours(line, mark))


def _is_ours(line: bytes, mark: bytes) -> bool:
    return line.split()[-1:] == [mark] and not line.lstrip().startswith(b"#")
