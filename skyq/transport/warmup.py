"""fabric takes longer to import than a handshake takes, so it is begun while something else is waited for."""

from __future__ import annotations

import gc
import threading

_begun = threading.Lock()
_loading = threading.Lock()


def warm_up() -> None:
    """Begin to import what a connection needs; once, and without waiting. load() waits for it."""
    if _begun.acquire(blocking=False):  # never released
        threading.Thread(target=load, name="warm up", daemon=True).start()


def load() -> None:
    """Import it. Without looking for garbage, of which an import makes none: that is a tenth of the time."""
    with _loading:
        collects = gc.isenabled()
        gc.disable()
        try:
            from skyq.transport import opening  # noqa: F401
        finally:
            if collects:
                gc.enable()
