"""Taking the logs of jobs from the head of a cluster, file by file, into a folder of this machine.

The head is not trusted: what it names must lie below the job's own folder, and no link is followed there.
What is here already of the same attempt of the same job is not sent again.

    job     id folder mark files steps index     → the answer: how much of which file is here
    file    path offset size                     a file begins, or goes on
    (bytes) offset
    fetched
"""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager

from skyq.core.errors import ProtocolError, SkyqError
from skyq.core.logtext import plain
from skyq.core.protocol import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator

MARK = ".skyq-job"
"""Whose logs a folder holds."""
MOST_FILES = 100_000
DEEPEST = 8  # folders
LONGEST = 255  # bytes of a name


class Receiver:
    """Takes what the head says, job after job."""

    def __init__(self, root: str, fetched: Callable[[Message, str], None]) -> None:
        """`root`: where the folders of jobs are. `fetched` gets what a job's message was, and its folder."""
        self._root = root
        self._fetched = fetched
        self._job: Message = {}
        self._folder = -1
        self._file = -1
        self._size = self._at = 0
        self._here: dict[str, int] = {}
        self.progress: Callable[[int], None] = lambda count: None
        """Gets how many more bytes have come."""
        self.begin: Callable[[int], None] = lambda count: None
        """Gets how many bytes are to come for a job."""

    def take(self, message: Message) -> str | None:
        """One message; the answer, where one is due."""
        what = message.get("is")
        if "data" in message:
            self._write(int(message.get("offset", -1)), message["data"])
        elif what == "job":
            return json.dumps(self._begin(message))
        elif what == "file":
            self._open(str(message["path"]), int(message["offset"]), int(message["size"]))
        elif what == "fetched":
            self._end()
        return None

    def close(self) -> None:
        """Whatever was open, isn't."""
        for name in ("_file", "_folder"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def _begin(self, job: Message) -> dict[str, int]:
        """What is here already."""
        self.close()
        folder = str(job["folder"])
        if not re.match(r"[0-9]+-", folder) or not _is_name(folder):
            raise _refused(folder)
        if len(job["files"]) > MOST_FILES:
            raise ProtocolError("The head has %d files for one job." % len(job["files"]))
        sizes = {check_path(str(path)): int(size) for path, size in job["files"]}
        os.makedirs(self._root, 0o700, exist_ok=True)
        with _told(os.path.join(self._root, folder)):
            self._folder = _folder(folder, None, self._root)
        same = _text_of(MARK, self._folder) == str(job["mark"])
        self._here = {path: self._found(path, size) if same else 0 for path, size in sizes.items()}
        self._job = job
        _write_text(MARK, self._folder, str(job["mark"]))
        self.begin(sum(sizes.values()) - sum(self._here.values()))
        return self._here

    def _found(self, path: str, size: int) -> int:
        """How much of a file is here; nothing where more is here than there is."""
        try:
            found = os.stat(path, dir_fd=self._folder, follow_symlinks=False).st_size
        except OSError:
            return 0
        return found if found <= size else 0

    def _open(self, path: str, offset: int, size: int) -> None:
        check_path(path)
        if not 0 <= offset <= self._here.get(path, 0):
            raise _out_of_order()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        *folders, name = path.split("/")
        with _told(os.path.join(self._root, str(self._job["folder"]), path)):
            inner = os.dup(self._folder)
            for folder in folders:
                outer, inner = inner, _folder(folder, inner, "")
                os.close(outer)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                self._file = os.open(name, flags, 0o600, dir_fd=inner)
            finally:
                os.close(inner)
            os.ftruncate(self._file, offset)
        self._size, self._at = size, offset

    def _write(self, offset: int, data: bytes) -> None:
        if self._file < 0 or offset != self._at or offset + len(data) > self._size:
            raise _out_of_order()
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._file, rest, self._at)
            rest, self._at = rest[written:], self._at + written
        self.progress(len(data))

    def _end(self) -> None:
        self.close()
        self._fetched(self._job, os.path.join(self._root, str(self._job["folder"])))


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What can't be opened for writing is told of by its path."""
    try:
        yield
    except OSError as error:
        text = "%s can't be written: %s. Move away what is there, and try again."
        raise SkyqError(text % (plain(path), error.strerror)) from None


def check_path(path: str) -> str:
    """The path. Raises ProtocolError for what isn't the name of a file below a folder."""
    parts = path.split("/")
    if len(parts) > DEEPEST or not all(map(_is_name, parts)) or path == MARK:
        raise _refused(path)
    return path


def _is_name(part: str) -> bool:
    plain_text = part.isprintable() and "/" not in part
    return plain_text and part not in ("", ".", "..") and len(os.fsencode(part)) <= LONGEST


def _refused(path: str) -> ProtocolError:
    return ProtocolError("The head names a file that is none of a job's logs: %s" % plain(path[:200]))


def _out_of_order() -> ProtocolError:
    return ProtocolError("The head sent a piece of a log that doesn't follow the one before.")


def _folder(name: str, inside: int | None, root: str) -> int:
    """Open a folder, which is made if need be; not a link to one."""
    path = os.path.join(root, name)
    try:
        os.mkdir(path, 0o700, dir_fd=inside)
    except FileExistsError:
        pass
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)


def _text_of(name: str, folder: int) -> str:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return ""
    with open(file, encoding="utf-8", errors="replace") as opened:
        return opened.read(4096)


def _write_text(name: str, folder: int, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=folder), "w", encoding="utf-8") as opened:
        opened.write(text)
