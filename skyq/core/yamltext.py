"""YAML text in, plain values out: bounded, without surprises, with the line of everything.

PyYAML scans and parses; what a text means is decided here, not by PyYAML's YAML 1.1 rules: only
true/false, null and decimal numbers are more than text, so `no`, `0777`, `12:30:45` and 2024-01-01
stay as written. No tag makes an object. Messages show no values and no excerpt of the text: it may
hold secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Union

import yaml

from skyq.core.errors import InventoryError, SkyqError, TaskError
from skyq.core.request import MAX_SPEC, show, unfit

MAX_DEPTH = 32
MAX_VALUES = 50_000
"""Values of one document, each use of an alias counted anew."""
MAX_EXPANDED = 4 * MAX_SPEC
"""Characters of one document once aliases are written out: 271 bytes can become 25 MB."""
MAX_DOCUMENTS = 100

Path = tuple[Union[str, int], ...]
"""Keys and list positions from the top: ("resources", "any_of", 0, "cpus")."""

_TITLES = {TaskError: "Invalid task YAML", InventoryError: "Invalid inventory"}
_TAG = "tag:yaml.org,2002:"
_PLAIN = "plain"  # the tag given to a scalar without quotes or tag, which alone may be more than text
_AS_PLAIN = frozenset({_PLAIN, *(_TAG + name for name in ("int", "float", "bool", "null"))})
_KNOWN_TAGS = _AS_PLAIN | {_TAG + name for name in ("str", "map", "seq", "set")}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,99})")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,4})?")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class Document:
    """One YAML document as plain dicts (keys are text), lists, str, int, float, bool and None."""

    value: object = field(default=None, repr=False)
    lines: dict[Path, int] = field(default_factory=dict)
    """Where a key or list entry stands, 1-based; () is the document's begin."""
    texts: dict[Path, str] = field(default_factory=dict, repr=False)
    """What was written where the value is no text any more: 3.10, true, ~."""

    def written(self, path: Path, value: object) -> object:
        """A number as its text as written; any other value as it is."""
        return self.texts[path] if isinstance(value, (int, float)) and path in self.texts else value

    def line(self, path: Path) -> int:
        """The line of the path, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def fault(kind: type[SkyqError], message: str, source: str, line: int | None = None) -> SkyqError:
    """The error of that kind, with where it is."""
    where = source if line is None else f"{source}, line {line}"
    return kind(f"{_TITLES[kind]}: {message} ({where})")


def similar(key: str, known: Iterable[str]) -> str | None:
    """The known key that was probably meant, if there is one."""
    import difflib  # 5 ms, only for a mistake

    return next(iter(difflib.get_close_matches(key[:100].lower(), sorted(known), n=1)), None)


def load(text: str, source: str, kind: type[SkyqError] = TaskError) -> Document:
    """The only document of the text; an empty text gives a Document of None. Errors are of that kind."""
    documents = load_all(text, source, kind)
    if len(documents) > 1:
        raise fault(kind, "Several documents (---), where one is expected.", source, documents[1].lines[()])
    return documents[0] if documents else Document()


def load_all(text: str, source: str, kind: type[SkyqError] = TaskError) -> list[Document]:
    """All documents of the text. What is not YAML, or too much of it, raises an error of that kind."""
    if len(text) > MAX_SPEC or len(text.encode("utf-8", "surrogatepass")) > MAX_SPEC:
        raise fault(kind, "The file is larger than 1 MiB.", source)
    try:
        return list(_documents(text))
    except _Fault as error:
        raise fault(kind, error.message, source, error.line) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"Character U+{ord(text[error.position]):04X} is not allowed in YAML. Remove it."
        raise fault(kind, message, source, line) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise fault(kind, _problem(error), source, mark.line + 1 if mark else None) from None
    except (ValueError, OverflowError):  # PyYAML: "\UFFFFFFFF", or a %YAML version of 5000 digits
        raise fault(kind, "A number or an escape is out of range.", source) from None


class _Fault(Exception):
    def __init__(self, message: str, line: int) -> None:
        self.message, self.line = message, line


def _problem(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's words without what they quote of the text: an alias may be a password that begins with *."""
    problem = (error.problem or error.context or "Not YAML").replace(r"'\x00'", "the end of the file")
    if problem == "second occurrence":
        problem = "an &anchor is given twice"
    if problem.startswith(("found undefined", "duplicate tag")):
        problem = problem.partition(" '")[0]
    hint = ""
    if "\\t" in problem:
        hint = " Indent with spaces, not tabs."
    elif "alias" in problem or "anchor" in problem or "tag" in problem or "cannot start" in problem:
        hint = " Put a value that begins with * & ! % @ or ` in quotes."
    return problem[0].upper() + problem[1:] + "." + hint


class _Loader(yaml.BaseLoader):
    """Text to nodes, stopping early where it gets too deep or too much; constructs nothing."""

    depth = 0
    count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.count += 1
        if self.count > MAX_VALUES:
            raise _Fault(f"More than {MAX_VALUES} values.", self.line + 1)
        if self.depth >= MAX_DEPTH:
            raise _Fault(f"Nested deeper than {MAX_DEPTH} levels.", self.line + 1)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: type[yaml.Node], value: object, implicit: object) -> str:
        if kind is yaml.ScalarNode and isinstance(implicit, tuple) and implicit[0]:
            return _PLAIN
        return _TAG + {yaml.ScalarNode: "str", yaml.SequenceNode: "seq", yaml.MappingNode: "map"}[kind]


def _documents(text: str) -> Iterator[Document]:
    loader = _Loader(text)
    number = 0
    while loader.check_node():
        number += 1
        if number > MAX_DOCUMENTS:
            raise _Fault(f"More than {MAX_DOCUMENTS} documents.", loader.line + 1)
        node = loader.get_node()
        if node is not None:
            yield _Reading().document(node)


class _Reading:
    """Nodes to values. An alias's node is walked again at each use, within a budget."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.texts: dict[Path, str] = {}
        self.around: list[int] = []
        self.values = self.characters = 0

    def document(self, node: yaml.Node) -> Document:
        self.lines[()] = node.start_mark.line + 1
        return Document(self.value(node, ()), self.lines, self.texts)

    def value(self, node: yaml.Node, path: Path) -> object:
        if node.tag not in _KNOWN_TAGS:
            raise _Fault(
                "A tag (!...) is not supported. Put a value that begins with ! in quotes.", _line(node)
            )
        with self.inside(node):
            if isinstance(node, yaml.ScalarNode):
                return self.scalar(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.child(item, (*path, at), _line(item)) for at, item in enumerate(node.value)]
            if not isinstance(node, yaml.MappingNode):
                return None  # there is no fourth kind
            pairs = self.pairs(node).items()
            return {key: self.child(item, (*path, key), line) for key, (line, item) in pairs}

    def child(self, node: yaml.Node, path: Path, line: int) -> object:
        self.lines[path] = line
        return self.value(node, path)

    def scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        text = self.text(node)
        value = _meaning(text) if node.tag in _AS_PLAIN else text
        if value is not text:
            self.texts[path] = text
        return value

    def text(self, node: yaml.ScalarNode) -> str:
        text: str = node.value
        if unfit(text):
            raise _Fault("A text holds a NUL or half a character. Remove it.", _line(node))
        self.characters += len(text)
        if self.characters > MAX_EXPANDED:
            raise _Fault("Too large once the aliases (*name) are written out.", _line(node))
        return text

    def pairs(self, node: yaml.MappingNode) -> dict[str, tuple[int, yaml.Node]]:
        """Key → (its line, its value's node), merge keys (<<) resolved: own keys win, then earlier bases."""
        own: dict[str, tuple[int, yaml.Node]] = {}
        bases: yaml.Node | None = None
        for key_node, item in node.value:
            key, line = self.key(key_node), _line(key_node)
            if key in own:
                raise _Fault(
                    f"Duplicate key {show(key)} in YAML at line {line} (also defined at line {own[key][0]}). "
                    "Remove one of the entries so the intended value is unambiguous.",
                    line,
                )
            own[key] = (line, item)
            if key == "<<" and key_node.tag == _PLAIN:
                bases = item
        if bases is None:
            return own
        del own["<<"]
        for base in bases.value if isinstance(bases, yaml.SequenceNode) else [bases]:
            for key, pair in self.inherited(base).items():
                own.setdefault(key, pair)
        return own

    def inherited(self, base: yaml.Node) -> dict[str, tuple[int, yaml.Node]]:
        if not isinstance(base, yaml.MappingNode):
            raise _Fault("A merge key (<<) takes a mapping, or a list of mappings.", _line(base))
        with self.inside(base):
            return self.pairs(base)

    def key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _KNOWN_TAGS:
            raise _Fault("A key must be a word. Put one with special characters in quotes.", _line(node))
        with self.inside(node):
            return self.text(node)

    @contextmanager
    def inside(self, node: yaml.Node) -> Iterator[None]:
        """Counts the node, and refuses one that is inside itself: an alias may name what it stands in."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise _Fault(f"More than {MAX_VALUES} values, each use of an alias (*name) counted.", _line(node))
        if id(node) in self.around:
            raise _Fault("An alias (*name) stands inside what it names.", _line(node))
        if len(self.around) >= MAX_DEPTH:
            raise _Fault(f"Nested deeper than {MAX_DEPTH} levels.", _line(node))
        self.around.append(id(node))
        yield
        self.around.pop()


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _meaning(text: str) -> object:
    """A scalar without quotes: null, true, false and decimal numbers as in YAML 1.2, all else as written."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and ("." in text or "e" in text.lower()):
        return float(text)
    return text
