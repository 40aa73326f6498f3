"""The journal: a second copy of the queue, beside the database, as lines that are only ever added.

Each transaction adds the rows that it has changed, before it commits, under the database's own lock: so the
lines are in the order of the commits. What was added and not committed does no harm: whoever changes the row
again adds it again, and the next dispatcher begins the file anew. `skyq recover` makes a database of it.

One line is JSON, [kind, value]: ["jobs", row], ["spec", [id, text]], ["attempts", row]; and of the small
tables the whole: ["nodes", rows], ["meta", rows], ["owed_logs", rows], ["quarantine", rows]. The file isn't
synced: what a power cut takes of it, the next dispatcher adds.
"""

from __future__ import annotations

import errno
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, Optional, Tuple, TypeAlias

Entry: TypeAlias = "Tuple[str, Any]"
_TAIL = 4 * 1024 * 1024  # bytes: more than the longest lines that follow a job's
ROOM = 1024 * 1024  # bytes that the journal may always have
GROWTH = 4  # times as long as the database, then it begins anew


class Journal:
    """Of one database. Raises OSError where the disk does."""

    def __init__(self, database: str, path: str) -> None:
        self._database = database
        self.path = path

    def exists(self) -> bool:
        """Whether there is anything in it."""
        return self._size(self.path) > 0

    def append(self, entries: Iterable[Entry]) -> Optional[int]:
        """Add these, all or none; where the file ended before, for cut(). None: there was nothing to add."""
        data = b"".join(map(_line, entries))
        if not data:
            return None
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                data = b"\n" + data  # somebody was killed in the middle of a line
            if os.write(file, data) < len(data):
                os.ftruncate(file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            return size
        finally:
            os.close(file)

    def cut(self, size: int) -> None:
        """Take back what append() has added."""
        try:
            os.truncate(self.path, size)
        except OSError:
            pass  # it is as if this process had been killed

    def replace(self, entries: Iterable[Entry]) -> None:
        """Begin anew with these."""
        aside = self.path + ".new"
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(file, "wb") as out:
            out.writelines(map(_line, entries))
            out.flush()
            os.fsync(file)
        os.rename(aside, self.path)

    def is_behind(self, rev: int) -> bool:
        """Whether it doesn't end with that change of a job, or has become much longer than it need be."""
        if self._size(self.path) > GROWTH * self._size(self._database) + ROOM:
            return True
        last = 0
        for kind, value in self._entries(_TAIL):
            last = int(value["rev"]) if kind == "jobs" else last
        return last != rev

    def read(self) -> Iterator[Entry]:
        """All of it, but for lines that were torn."""
        return self._entries(1 << 62)

    def _entries(self, most: int) -> Iterator[Entry]:
        try:
            with open(self.path, "rb") as file:
                file.seek(max(0, self._size(self.path) - most))
                for line in file:
                    try:
                        kind, value = json.loads(line)
                    except ValueError:
                        continue
                    yield str(kind), value
        except FileNotFoundError:
            return

    @staticmethod
    def _size(path: str) -> int:
        try:
            return os.stat(path).st_size
        except OSError:
            return 0


def _line(entry: Entry) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
