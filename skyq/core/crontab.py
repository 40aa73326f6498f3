"""The text of a user's crontab: skyq's lines in it, one block for each cluster. Pure.

Bytes, because the other lines stay as they are, whatever they are. The block comes first, where no SHELL= or
PATH= of the user's applies to it, and where a last line without its newline does no harm. Each of its lines
ends with the block's id, so that skyq's own lines are known again however the user moved or changed them:

    # skyq begin 3f2a
    * * * * * /bin/sh /home/ada/.skyq/bin/skyq tick local >/dev/null 2>&1 # skyq 3f2a
    # skyq end 3f2a
"""

from __future__ import annotations

import re
import shlex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

LINE_LIMIT = 990  # bytes that every cron takes as a command (Debian's: 999)

_LINES = re.compile(rb"[^\n]*\n|[^\n]+")


class NoLine(Exception):
    """The command can't be written as a line of a crontab; the text says why."""


def tick_line(words: Sequence[str], block_id: str) -> bytes:
    """The line that runs a command every minute. Raises NoLine."""
    command = " ".join(map(_quoted, words)) + " >/dev/null 2>&1 # skyq " + block_id
    if "\n" in command:
        raise NoLine("its path has a newline")
    line = command.encode("utf-8", "surrogateescape")  # os.fsencode, where core has no os
    if len(line) > LINE_LIMIT:
        raise NoLine("its path is too long for a line of a crontab")
    return b"* * * * * " + line + b"\n"


def with_block(text: bytes, block_id: str, words: Sequence[str]) -> bytes:
    """The crontab with the block, whole and once; the same bytes where it is so already. Raises NoLine."""
    begin, end = (b"# skyq %s %s\n" % (word, block_id.encode()) for word in (b"begin", b"end"))
    block = begin + tick_line(words, block_id) + end
    others = without_block(text, block_id)
    whole = text.startswith(block) or b"\n" + block in text
    return text if whole and len(text) == len(block) + len(others) else block + others


def without_block(text: bytes, block_id: str) -> bytes:
    """The crontab without the block, or what is left of it."""
    own = re.compile(rb"# skyq (begin |end )?%s\s*$" % re.escape(block_id.encode()))
    return b"".join(line for line in _LINES.findall(text) if not own.search(line))


def _quoted(word: str) -> str:
    r"""For sh, in a crontab. There `%` ends the command, and `\%` is one; some crons make `\\` one `\`, too.

    So `\%` stands outside of quotes, where it is one for sh too if cron changes nothing (busybox's), and no
    two `\` stand side by side.
    """
    quoted = r"\%".join(shlex.quote(part) if part else "" for part in word.split("%")) or "''"
    return re.sub(r"(?<=\\)(?=\\)", "''", quoted)
