"""Files of `--env-file` and `--secret-file`: NAME=value lines, as python-dotenv reads them.

Standard library only, Python 3.8: on the way of `exec` of a command. No message shows any of the
text: it may be a secret, and a broken line is often the middle of one.
"""

from __future__ import annotations

import re

from skyq.core.errors import UsageError
from skyq.core.request import MAX_ENV, MAX_SPEC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Optional

_BLANK = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_ENTRY = re.compile(
    r"""[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=
    (?: [ \t]*'(?P<literal>[^']*)'[ \t]*(?:\#[^\n]*)?
      | [ \t]*"(?P<quoted>[^"\\]*(?:\\.[^"\\]*)*)"[ \t]*(?:\#[^\n]*)?
      | (?![ \t]*['"])(?P<bare>[^\n]*)
    )(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"[ \t]#.*")
_VARIABLE = r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
_IN_BARE = re.compile(_VARIABLE)
_IN_QUOTES = re.compile(r"\\(?P<escape>.)|" + _VARIABLE, re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\", "$": "$"}


def parse_dotenv(text: str, source: str, environ: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The entries in order; a later one of the same name wins.

    `export ` may precede; quotes are stripped; a `#` begins a comment after a space or a closing quote.
    Between single quotes all is literal; between double quotes \\n, \\t, \\" and the like are escapes;
    both may span lines. `${A}` and `${A:-default}` outside single quotes stand for an earlier entry,
    else for `environ`, else for nothing; `$A` and `$(…)` are never touched. UsageError, with the line,
    for the rest.
    """
    if len(text) > MAX_SPEC:
        raise UsageError("%s is larger than 1 MiB: not a dotenv file." % source)
    text = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    entries: Dict[str, str] = {}
    known = dict(environ or {})
    at = 0
    while at < len(text):
        blank = _BLANK.match(text, at)
        if blank:
            at = blank.end()
            continue
        try:
            entry = _entry(text, at)
            known[entry["name"]] = entries[entry["name"]] = _value(entry, known)
        except UsageError as error:
            line = text.count("\n", 0, at) + 1
            raise UsageError("%s, line %d: %s" % (source, line, error)) from None
        at = entry.end()
    return entries


def _entry(text: str, at: int) -> re.Match[str]:
    entry = _ENTRY.match(text, at)
    if entry:
        return entry
    if "=" not in text[at:].split("\n", 1)[0]:
        raise UsageError("no '='. Write NAME=value, or NAME= for an empty value.")
    raise UsageError(
        "not of the form NAME=value. A name has letters, digits and _, and doesn't begin with a digit; "
        "a quoted value ends with its quote, and only a # comment may follow."
    )


def _value(entry: re.Match[str], known: Mapping[str, str]) -> str:
    if entry["literal"] is not None:
        value = entry["literal"]
    elif entry["quoted"] is not None:
        value = _expanded(_IN_QUOTES, entry["quoted"], known)
    else:
        value = _expanded(_IN_BARE, _COMMENT.sub("", entry["bare"]).strip(" \t"), known)
    if "\0" in value:
        raise UsageError("the value holds a NUL byte. Remove it.")
    return value


def _expanded(pattern: re.Pattern[str], text: str, known: Mapping[str, str]) -> str:
    """The text with its escapes and variables replaced, one pass: what comes in is not read again."""
    pieces: List[str] = []
    size = at = 0
    for match in pattern.finditer(text):
        found = match.groupdict()
        escape = found.get("escape")
        if escape:
            piece = _ESCAPES.get(escape, "\\" + escape)
        else:
            piece = known.get(found["name"], "") or found["default"] or ""
        pieces += [text[at : match.start()], piece]
        at = match.end()
        size += len(piece)
        if size > MAX_ENV:  # ${A}${A} line after line doubles each time
            raise UsageError("the value grows beyond %d bytes." % MAX_ENV)
    return "".join(pieces) + text[at:]
