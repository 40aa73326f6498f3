"""The wall clock of one machine of a lab. The kernel has one for all, and that is not ours to set.

So the machine's own /etc/ld.so.preload names a small library that adds what /etc/clock says: all programs
that start there have it, whatever environment they get, and see a jump at once.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from tests.machine import which

SOURCE = Path(__file__).resolve().parent / "clock.c"


def why_not() -> str:
    """Why no clock can be set here; empty: it can."""
    return "" if which("cc") else "missing here: cc (apt install gcc)"


def install(etc: Path) -> None:
    """For the programs that start from now on. `etc`: the machine's own."""
    set_ahead(etc, 0)
    built = [which("cc"), "-shared", "-fPIC", "-O1", "-o", str(etc / "clock.so"), str(SOURCE)]
    subprocess.run(built, check=True)
    (etc / "ld.so.preload").write_text("/etc/clock.so\n")


def set_ahead(etc: Path, seconds: int) -> None:
    """It is so much later there than here, for what runs, too: the file is changed in its place."""
    path = etc / "clock"
    path.touch()
    with open(path, "r+b") as file:
        file.write(struct.pack("=q", seconds))
