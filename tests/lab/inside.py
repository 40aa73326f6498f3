"""A program inside a machine of the lab, handled from outside."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import IO, Any

import psutil

from tests.waiting import wait_until


class Program(subprocess.Popen[Any]):
    """What nsenter started: signals reach the program itself, and its exit code is that of this process."""

    def send_signal(self, sig: int) -> None:
        """To the program, not to the nsenter that waits for it."""
        inner = wait_until(lambda: self.poll() is not None or self._inside(), "nsenter starts the program")
        if isinstance(inner, psutil.Process):
            with contextlib.suppress(psutil.NoSuchProcess):
                inner.send_signal(sig)

    def kill_all(self) -> None:
        """It and what it started, which might hold its output open."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.outer_signal(signal.SIGCONT)  # nsenter stops together with its child, and then collects nobody

    def outer_signal(self, sig: int) -> None:
        """To nsenter itself."""
        if self.poll() is None:
            super().send_signal(sig)

    def bury(self) -> None:
        """It is dead or dies with its machine: collect it, and close what it wrote to."""
        self.outer_signal(signal.SIGCONT)
        self.wait(30)
        stream: IO[Any] | None
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _inside(self) -> psutil.Process | None:
        try:
            return next(iter(psutil.Process(self.pid).children()), None)
        except psutil.NoSuchProcess:
            return None
