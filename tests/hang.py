"""A file system that never answers, as of an NFS server that went away: who looks into it can't be killed.

    with Hang(folder) as hang:
        cat FOLDER/anything     # hangs, and survives KILL
    hang.let_go()               # ... and now dies of it

Root is needed, and /dev/fuse.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SERVE = """\
import ctypes, os, struct, sys
os.mkdir(sys.argv[1])
fuse = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fuse
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"hang", os.fsencode(sys.argv[1]), b"fuse", 0, options):
    raise OSError(ctypes.get_errno(), "it can't be mounted")
print("mounted", flush=True)
while True:
    _, what, number = struct.unpack_from("<IIQ", os.read(fuse, 1 << 20))
    if what == 26:  # who are you? One who takes several at a time, and never answers anything else
        us = struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 1 << 18, 12, 10, 65536, 1, 16, 0, 0)
        os.write(fuse, struct.pack("<IiQ", 16 + len(us), 0, number) + us)
"""


class Hang:
    """Mounted while it lasts."""

    def __init__(self, folder: Path, prefix: Sequence[str] = ()) -> None:
        """`prefix`: what makes a command run on another machine, in whose tree the folder then is."""
        self.folder = folder
        self.prefix = prefix

    def __enter__(self) -> Hang:
        python = "python3" if self.prefix else sys.executable
        words = [*self.prefix, python, "-I", "-S", "-c", SERVE, str(self.folder)]
        self.server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.server.stdout and self.server.stderr
        if self.server.stdout.readline() != "mounted\n":
            self.server.wait()
            raise OSError(self.server.stderr.read().strip().splitlines()[-1])
        return self

    def let_go(self) -> None:
        """Every question is answered, with an error."""
        self.server.kill()
        self.server.communicate()

    def __exit__(self, *_: object) -> None:
        self.let_go()
        if not self.prefix:
            ctypes.CDLL(None).umount2(os.fsencode(self.folder), 2)


def why_not() -> str:
    """Why there can't be one here; "": there can."""
    import tempfile

    try:
        with tempfile.TemporaryDirectory() as folder, Hang(Path(folder, "hang")):
            return ""
    except OSError as error:
        return str(error)
