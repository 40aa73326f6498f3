"""Another machine that is none: its login shell runs here, in a home of its own."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path


class Process:
    """A command line, as sshd would run it; what a Stream is for who may wait."""

    def __init__(self, line: str, home: Path, shell: str = "/bin/sh", **environment: str) -> None:
        self.errors = home / "stderr"
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [shell, "-c", line],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                cwd=home,
                env={
                    "HOME": str(home),
                    "PATH": os.environ["PATH"],
                    "SKYQ_CLAIM_DIR": str(home),
                    **environment,
                },
            )

    def read(self, timeout: float) -> bytes:
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            raise TimeoutError
        return os.read(self.process.stdout.fileno(), 65536)

    def write(self, data: bytes) -> None:
        assert self.process.stdin
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.process.stdin.fileno(), view) :]
        except BrokenPipeError:
            pass  # it has ended: read() tells

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()

    def stderr(self) -> str:
        return self.errors.read_text()

    def exit_code(self) -> int | None:
        return self.process.poll()
