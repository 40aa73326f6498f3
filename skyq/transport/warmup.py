"""fabric takes longer to import than a handshake takes, so that is begun while something else is waited for."""

from __future__ import annotations

import threading

_begun = threading.Lock()


def warm_up() -> None:
    """Begin to import what a connection needs; once, and without waiting. Who needs it first waits for it."""
    if _begun.acquire(blocking=False):  # never released
        threading.Thread(target=_load, name="warm up", daemon=True).start()


def _load() -> None:
    from skyq.transport import opening  # noqa: F401
