"""Limits on waits: what takes longer is cut off. One thread watches all of them, and sleeps until one is due.

paramiko waits for ever in several places (a reply to exec, a write to a dead peer); what ends such a wait is
that its socket is shut down by somebody else.
"""

from __future__ import annotations

import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Set


class Limit:
    """`with Limit(20, session.cut) as limit:` `cut` is called from another thread when it takes longer."""

    def __init__(self, seconds: float, cut: Callable[[], None]) -> None:
        self.due = time.monotonic() + seconds
        self.cut = cut
        self.passed = False
        """Whether it was cut."""

    def __enter__(self) -> Limit:
        _watch.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        _watch.remove(self)


class _Watch:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limits: Set[Limit] = set()
        self._wakes: Optional[float] = None
        """When the thread looks next; None: it sleeps until told, or isn't there yet."""
        self._thread: Optional[threading.Thread] = None

    def add(self, limit: Limit) -> None:
        with self._changed:
            self._limits.add(limit)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="limits", daemon=True)
                self._thread.start()
            elif self._wakes is None or limit.due < self._wakes:
                self._changed.notify()

    def remove(self, limit: Limit) -> None:
        with self._changed:
            self._limits.discard(limit)

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                late = [limit for limit in self._limits if limit.due <= now]
                self._limits.difference_update(late)
                if not late:
                    self._wakes = min((limit.due for limit in self._limits), default=None)
                    self._changed.wait(None if self._wakes is None else self._wakes - now)
                    continue
            for limit in late:
                limit.passed = True
                limit.cut()


_watch = _Watch()
