"""tick.lock: at most one dispatcher per cluster, however it is started or killed.

The only importer of filelock, and imported only by who takes the lock: it costs 38 ms.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

from filelock import FileLock, Timeout


@contextmanager
def tick_lock(path: str, wait: float) -> Iterator[bool]:
    """Hold the lock if it can be had within `wait` seconds; yields whether it is held.

    The kernel frees it at the holder's death, whatever kills it.
    """
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
