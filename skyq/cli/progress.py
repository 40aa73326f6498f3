"""How far something long has come, on a terminal."""

from __future__ import annotations

import sys
import time


class Progress:
    """A bar on the terminal, once it has lasted a second."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.next = time.monotonic() + 1.0
        self.shown = False

    def __call__(self, done: int) -> None:
        """So many more bytes are done."""
        self.done += done
        now = time.monotonic()
        if now < self.next or not sys.stderr.isatty():
            return
        self.next, self.shown = now + 0.1, True
        part = min(1.0, self.done / max(1, self.total))
        bar = "#" * int(part * 30)
        text = "\r  [%-30s] %s of %s" % (bar, size_text(self.done), size_text(self.total))
        print(text, end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line clean."""
        if self.shown:
            print("\r" + " " * 70 + "\r", end="", file=sys.stderr, flush=True)


def size_text(count: float) -> str:
    """1.5 GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024 or unit == "GB":
            return "%.0f %s" % (count, unit) if unit == "B" else "%.1f %s" % (count, unit)
        count /= 1024
    raise AssertionError
