"""tick.lock: at most one dispatcher per cluster, however it is started or killed.

Each dispatcher takes it as it starts, mostly with nobody else there: then it is one flock(2). The import of
filelock would be over half of such a start: it is for those who wait, or whose file system has no flock.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Optional


@contextmanager
def tick_lock(path: str, wait: float) -> Iterator[bool]:
    """Hold the lock if it can be had within `wait` seconds; yields whether it is held.

    The kernel frees it at the holder's death, whatever kills it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        taken = _take(file)
        if taken or (taken is False and not wait):
            yield taken
            return
    finally:
        os.close(file)
    with _patiently(path, wait) as held:
        yield held


def _take(file: int) -> Optional[bool]:
    """Whether the lock is ours now; None: this file system can't tell."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return os.fstat(file).st_nlink > 0  # else it was removed with its cluster, and guards nothing


@contextmanager
def _patiently(path: str, wait: float) -> Iterator[bool]:
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=0o600, thread_local=False)
    try:
        lock.acquire(timeout=wait, poll_interval=0.02)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
