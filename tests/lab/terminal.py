"""A program that talks to somebody at a terminal: what it shows, what is typed."""

from __future__ import annotations

import os
import pty
import select
import time

from tests.lab.inside import Program
from tests.waiting import PATIENCE

CTRL_C = "\x03"
GLANCE = 0.1  # seconds for one look at the screen


class Terminal:
    """Made by Host.terminal(). `screen` is all that came so far, as bytes came; lines end with \\r\\n."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        self._screen = bytearray()
        self.program: Program | None = None

    def holds(self, program: Program) -> None:
        """From now on only the program has the other end."""
        self.program = program
        os.close(self.slave)

    @property
    def screen(self) -> str:
        return self._screen.decode(errors="replace")

    def expect(self, text: str, within: float = PATIENCE) -> None:
        """Waits until this is on the screen; AssertionError when it doesn't come, or can't any more."""
        deadline = time.monotonic() + within
        while text not in self.screen:
            assert self._look(), "it ended without %r:\n%s" % (text, self.screen)
            assert time.monotonic() < deadline, "not within %g s: %r in\n%s" % (within, text, self.screen)

    def type(self, keys: str) -> None:
        """As on a keyboard: Enter is \\r, and CTRL_C is a signal."""
        os.write(self._master, keys.encode())

    def wait(self, within: float = PATIENCE) -> int:
        """Its exit code, once it ended."""
        assert self.program is not None
        deadline = time.monotonic() + within
        while self._look():
            assert time.monotonic() < deadline, "not within %g s: its end, after\n%s" % (within, self.screen)
        return self.program.wait(within)

    def close(self) -> None:
        """The terminal is gone, as when its window is closed."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _look(self) -> bool:
        """Takes what there is; False when nobody has the other end any more."""
        if not select.select([self._master], [], [], GLANCE)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the last one left
            return False
        self._screen += data
        return bool(data)
