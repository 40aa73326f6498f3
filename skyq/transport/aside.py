"""Files that are there whole or not at all: written aside, then renamed. And the end of what never was. And
short names for sockets."""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

WRITING = 60.0  # seconds; nobody needs so long to write a small file


def aside(path: str) -> str:
    """A free name beside `path`, to write under."""
    sweep(path)
    return "%s.%s.new" % (path, os.urandom(4).hex())


def sweep(path: str, age: float = WRITING) -> None:
    """Remove what killed processes left under such names. Nobody else does, so call it now and then.

    What is `age` seconds old (0: for who holds a lock without which nobody writes), and what has another
    name by now: that one is meant, and keeps both young.
    """
    folder, name = os.path.split(path)
    such = re.compile(re.escape(name) + r"\.[0-9a-f]{8}\.new")
    for found in filter(such.fullmatch, os.listdir(folder)):
        left = os.path.join(folder, found)
        try:
            seen = os.lstat(left)
            done = seen.st_nlink > 1 or not age or seen.st_mtime < time.time() - age
            if seen.st_uid == os.getuid() and done:
                os.unlink(left)
        except OSError:
            pass  # another process was faster


def write_whole(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a small file, durably. Its mode is that one, whatever the umask."""
    new = aside(path)
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, mode)
            file.flush()
            os.fsync(fd)
        os.rename(new, path)
    except BaseException:
        if os.path.lexists(new):
            os.unlink(new)
        raise


@contextmanager
def short_name(path: str) -> Iterator[str]:
    """A name for a socket that fits the 107 bytes which the kernel allows, however long the path is."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        yield "/proc/self/fd/%d/%s" % (directory, os.path.basename(path))
    finally:
        os.close(directory)
