"""So many handshakes with one host are in flight at most: sshd drops connections beyond its MaxStartups.

Lock files, because several processes of one account may connect at once. The kernel frees them when their
holder dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Optional

SLOTS = 8
PATIENCE = 30.0  # seconds; then it goes on without a slot: they are a courtesy
PAUSE = 0.05  # seconds


@contextlib.contextmanager
def slot(folder: str, hostname: str, port: int) -> Iterator[None]:
    """Held during one handshake. `folder`: where the lock files are; empty: nothing is held."""
    held = _take(folder, "%s:%d" % (hostname, port)) if folder else None
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def _take(folder: str, host: str) -> Optional[int]:
    name = os.path.join(folder, hashlib.sha256(host.encode()).hexdigest()[:16])
    give_up = time.monotonic() + PATIENCE
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        while time.monotonic() < give_up:
            for number in random.sample(range(SLOTS), SLOTS):
                held = _try("%s.%d" % (name, number))
                if held is not None:
                    return held
            time.sleep(PAUSE * (0.5 + random.random()))
    except OSError:
        pass  # a full or read-only disk, or one without locks, is no reason not to connect
    return None


def _try(path: str) -> Optional[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
