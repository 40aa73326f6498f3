"""What of a folder goes along with a job: its files, by SkyPilot's rules (rsync with a filter).

`.skyignore` in the folder's root rules if it is there; else each folder's `.gitignore`, and
`.git/info/exclude`. Links stay links. What is no file, folder or link (sockets, devices) is left out.
"""

from __future__ import annotations

import os
import stat

from skyq.core.errors import TaskError
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from pathspec import GitIgnoreSpec

Rules = list[tuple[str, "GitIgnoreSpec"]]
"""(folder, its patterns), outermost first."""


class Entry(NamedTuple):
    """One file, folder or link."""

    path: str
    """Relative to the root; any bytes but NUL, by surrogateescape."""
    mode: int
    """As stat gives it, with the type."""
    size: int
    mtime_ns: int


class Listing(NamedTuple):
    """What a folder holds, each folder before what is in it."""

    root: str
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]
    """What is there but can't go along: sockets, devices, pipes."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries if stat.S_ISREG(entry.mode))

    def largest(self, count: int) -> list[tuple[str, int]]:
        """The entries of the root that weigh most: (name, bytes)."""
        weights: dict[str, int] = {}
        for entry in self.entries:
            if stat.S_ISREG(entry.mode):
                name = entry.path.split("/", 1)[0]
                weights[name] = weights.get(name, 0) + entry.size
        return sorted(weights.items(), key=lambda pair: -pair[1])[:count]


def list_files(root: str) -> Listing:
    """What goes along of a folder; a file alone is an entry named as itself.

    Raises TaskError for what can't be read: a job must not silently lack a file.
    """
    left_out: list[str] = []
    try:
        entries = tuple(_walk(root, left_out))
    except OSError as error:
        raise TaskError(
            "%s can't be read: %s. Mend it, or name it in .skyignore."
            % (error.filename or root, error.strerror)
        ) from None
    return Listing(root, entries, tuple(left_out))


def _walk(root: str, left_out: list[str]) -> Iterator[Entry]:
    skyignore = os.path.join(root, ".skyignore")
    only = os.path.exists(skyignore)
    rules: Rules = _rules_of([skyignore] if only else [os.path.join(root, ".git", "info", "exclude")], "")
    todo: list[tuple[str, Rules]] = [("", rules)]
    while todo:
        folder, rules = todo.pop()
        if not only:
            rules = rules + _rules_of([os.path.join(root, folder, ".gitignore")], folder)
        with os.scandir(os.path.join(root, folder)) as found:
            children = sorted(found, key=lambda child: child.name)
        for child in children:
            path = os.path.join(folder, child.name)
            seen = child.stat(follow_symlinks=False)
            is_folder = stat.S_ISDIR(seen.st_mode)
            if _ignored(path + "/" if is_folder else path, rules):
                continue
            if not (is_folder or stat.S_ISREG(seen.st_mode) or stat.S_ISLNK(seen.st_mode)):
                left_out.append(path)
                continue
            yield Entry(path, seen.st_mode, seen.st_size, seen.st_mtime_ns)
            if is_folder:
                todo.append((path, rules))


def _rules_of(files: list[str], folder: str) -> Rules:
    lines: list[str] = []
    for name in files:
        try:
            with open(name, encoding="utf-8", errors="surrogateescape") as file:
                lines += file.read().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            continue
    if not lines:
        return []
    from pathspec import GitIgnoreSpec  # 30 ms: only for who has rules

    return [(folder, GitIgnoreSpec.from_lines(lines))]


def _ignored(path: str, rules: Rules) -> bool:
    """The innermost folder that says anything decides, as in git; an ignored folder isn't even entered."""
    for folder, spec in reversed(rules):
        verdict = spec.check_file(path[len(folder) + 1 :] if folder else path).include
        if verdict is not None:
            return verdict
    return False
