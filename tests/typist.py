"""Somebody at a terminal of this machine, who types a command of skyq."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import termios

from tests.cluster import LocalQueue
from tests.lab.terminal import Terminal
from tests.waiting import PATIENCE, wait_until


class Typist(Terminal):
    """A command at a terminal of this machine."""

    def __init__(self, queue: LocalQueue, *words: str) -> None:
        super().__init__()
        self.modes = termios.tcgetattr(self.slave)
        self._kept = os.dup(self.slave)  # who looks at its modes keeps it open
        self.size(30, 100)
        self.process = subprocess.Popen(
            [*queue.program, *words],
            env={**queue.env, "TERM": "xterm-256color"},
            cwd=queue.user_home,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(self.slave)

    def size(self, rows: int, columns: int) -> None:
        """The window has that size from now on."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def ended(self) -> int:
        """The exit code, once it has ended; and the terminal is as it was."""
        wait_until(lambda: self._look() and self.process.poll() is not None, "it ends", evidence=self.told)
        assert termios.tcgetattr(self._kept) == self.modes
        self._look()
        return self.process.returncode

    def look(self) -> None:
        """Take what has come."""
        self._look()

    def told(self) -> str:
        return self.screen

    def close(self) -> None:
        os.close(self._kept)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        super().close()
