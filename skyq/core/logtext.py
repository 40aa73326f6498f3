"""What a log looks like to a reader: prefixes, and escapes made harmless. Bytes in, bytes out; no I/O.

The raw logs never pass through here. Everything works on chunks of any size, cut anywhere, in constant
memory, and a whole chunk at a time: a log of 1 GB is looked at, too.
"""

from __future__ import annotations

import codecs
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Optional, Set

CYAN = b"\x1b[36m"
RESET = b"\x1b[0m"


def prefix(
    name: Optional[str], step: str, pid: Optional[int], host: str = "", ip: str = "", colour: bool = False
) -> bytes:
    """What stands before each line of one step's log, without the space that follows it.

    `host` ("head", "worker1") and `ip` are given on a cluster of several nodes, and only there.
    """
    kind, _, rank = step.partition("-")
    facts = []
    if host and kind != "setup":
        facts.append("rank=" + (rank or "0"))
    if pid is not None:
        facts.append("pid=%d" % pid)
    if ip and host not in ("", "head"):
        facts.append("ip=" + plain(ip))
    if kind == "setup":
        text = " ".join(["setup", ", ".join(facts)]) if facts else "setup"
    else:
        text = ", ".join([plain(host or name or "task"), *facts])
    shown = ("(%s)" % text).encode()
    return CYAN + shown + RESET if colour else shown


class Prefixer:
    """Merges the logs of several streams, each line with its stream's prefix.

    Text goes out as it comes, unfinished lines too. When another stream speaks up in the middle of a line
    a newline parts the two; the line's own newline, if that is what comes next of it, is then not shown
    again (an unbuffered `print` writes text and newline apart).
    """

    def __init__(self, redraw: bool = False, unfinished: Optional[bytes] = None) -> None:
        """`redraw`: after a lone carriage return the prefix is written anew (for terminals).

        `unfinished`: the prefix of the line that another Prefixer left unfinished on the screen.
        """
        self._redraw = redraw
        self._open = unfinished
        """The stream whose line is on the screen, unfinished."""
        self._parted: Set[bytes] = set()
        """Streams whose unfinished line was ended by another stream."""
        self._held: Dict[bytes, bytes] = {}
        """Streams that stopped at a carriage return: it shows as nothing if a newline follows."""

    def feed(self, prefix: bytes, chunk: bytes) -> bytes:
        """What to show for the next chunk of the stream that has this prefix (empty: its lines have none)."""
        text = self._own_lines(prefix, self._held.pop(prefix, b"") + chunk)
        if not text:
            return b""
        mark = prefix + b" " if prefix else b""
        start = b"" if self._open == prefix else mark
        if self._open is not None and self._open != prefix:
            self._parted.add(self._open)
            start = b"\n" + mark
        self._open = None if text.endswith(b"\n") else prefix
        return start + self._marked(text, mark)

    @property
    def unfinished(self) -> Optional[bytes]:
        """The prefix of the line that is on the screen without its end."""
        return self._open

    def held_back(self, prefix: bytes) -> int:
        """How many of the stream's last bytes have not come out yet."""
        return len(self._held.get(prefix, b""))

    def finish(self) -> bytes:
        """Ends the line that is open."""
        end = b"" if self._open is None else b"\n"
        self._open = None
        self._parted.clear()
        self._held.clear()
        return end

    def _own_lines(self, prefix: bytes, text: bytes) -> bytes:
        """The stream's text with \\n for \\r\\n, but for what can't be judged yet or has been shown."""
        if text.endswith(b"\r"):
            self._held[prefix] = b"\r"
            text = text[:-1]
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        if text and prefix in self._parted:
            self._parted.remove(prefix)
            if text.startswith(b"\n"):
                text = text[1:]
        return text

    def _marked(self, text: bytes, mark: bytes) -> bytes:
        if not mark:
            return text
        marked = text.replace(b"\n", b"\n" + mark)
        if self._redraw and b"\r" in text:
            marked = marked.replace(b"\r", b"\r" + mark)
        return marked[: -len(mark)] if text.endswith(b"\n") else marked


# Escape sequences. What may stay: colours (SGR), cursor movement and erasing as progress bars use them, with
# plain numbers for parameters. What must go: whatever a terminal answers (the answer is typed into the user's
# shell), or that sets a title, a mode or a key, prints, repeats, or erases the scrollback (3J).
_KEPT = rb"\[(?:[0-9;:]{0,60}[A-HKdfmsu]|[0-2]?J)"
_STRING = rb"[\]PX^_][^\x07\x18\x1a\x1b\n]*"
"""OSC, DCS, SOS, PM, APC. A newline ends them: what has none of its own end mustn't swallow the log."""
_ANY = rb"(?:\[[ -?]*[@-~]?|" + _STRING + rb"[\x07\x18\x1a]?|[ -/]*[0-~]?)"
_UNWANTED = rb"\x1b(?!" + _KEPT + rb")" + _ANY
_CUT = rb"\x1b(?:\[[ -?]*|" + _STRING + rb"|[ -/]*)\Z"
_LONGEST = 64
"""No sequence that stays is longer."""
_REMEMBERED = {b"[": b"\x1b[?", **{bytes([kind]): b"\x1b]" for kind in b"]PX^_"}}
"""Of a longer one that is cut the kind is kept: second byte → a short start that can't stay either."""


_CONTROLS = bytes(b for b in range(0x20) if b not in b"\n\r\t\b\x1b") + b"\x7f"
_C1 = rb"\xc2[\x80-\x9f]"
"""In valid UTF-8. On their own these bytes are continuation bytes, or invalid."""


class Sanitiser:
    """Makes one stream of log text harmless to a terminal, and valid UTF-8."""

    def __init__(self) -> None:
        self._unwanted = re.compile(_UNWANTED)  # here, as most commands show no log
        self._cut = re.compile(_CUT)
        self._cut_escape = b""
        self._cut_character = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may be shown of the next chunk; a sequence or character cut at its end waits for the rest."""
        text = self._cut_escape + chunk
        self._cut_escape = b""
        if b"\x1b" in text:
            text = self._unwanted.sub(b"", self._without_cut(text))
        text = self._cut_character + text.translate(None, _CONTROLS)
        self._cut_character = b""
        if text.isascii():
            return text
        decoded, used = codecs.utf_8_decode(text, "replace", False)
        self._cut_character = text[used:]
        return _without_c1(decoded.encode())

    @property
    def held_back(self) -> int:
        """How many of the last bytes wait for what follows them. (Of an over-long sequence: its kind.)"""
        return len(self._cut_escape) + len(self._cut_character)

    def finish(self) -> bytes:
        """What is left of a cut character; a cut sequence is dropped."""
        rest = self._cut_character.decode("utf-8", "replace").encode()
        self._cut_escape = self._cut_character = b""
        return rest

    def _without_cut(self, text: bytes) -> bytes:
        last = text.rindex(b"\x1b")
        if not self._cut.match(text, last):
            return text
        cut = text[last : last + _LONGEST + 1]
        self._cut_escape = cut if len(cut) <= _LONGEST else _REMEMBERED.get(cut[1:2], b"\x1b ")
        return text[:last]


def _without_c1(text: bytes) -> bytes:
    return re.sub(_C1, b"", text) if b"\xc2" in text else text


def plain(text: str) -> str:
    """One line that can do nothing to a terminal: no escapes, no controls, no direction marks."""
    if text.isprintable():
        return text
    clean = re.sub(rb"\x1b" + _ANY, b"", text.encode("utf-8", "replace")).decode()
    return "".join(c if c.isprintable() else _stand_in(c) for c in clean)


def _stand_in(char: str) -> str:
    if char.isspace():
        return " "
    return "" if char < "\xa0" or char in "\u200c\u200d" else "\ufffd"


_BLOCK = 64 * 1024


def tail_offset(read: Callable[[int, int], bytes], size: int, lines: int) -> int:
    """Where the last `lines` lines begin in a log of `size` bytes; 0 or fewer: the whole log.

    `read(offset, length)` is asked for blocks from the end on; an unfinished last line counts as a line.
    """
    if lines <= 0 or size <= 0:
        return 0
    end = size - 1 if read(size - 1, 1) == b"\n" else size  # the last line's own newline parts nothing
    while end > 0:
        start = max(0, end - _BLOCK)
        block = read(start, end - start)
        found = block.count(b"\n")
        if found >= lines:
            return start + _nth_last_newline(block, lines) + 1
        lines -= found
        end = start
    return 0


def _nth_last_newline(block: bytes, n: int) -> int:
    at = len(block)
    for _ in range(n):
        at = block.rindex(b"\n", 0, at)
    return at
