"""What the kernel tells of processes (its proc connector): who forks whom, and how each one ended.

A job's script takes a name of its own, a Mark such as `x7f0042.1.2` (token, rank, attempt): the kernel tells
of that, too. So it is known which process is a rank's. What that forks is the job's, however it hides.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

CONNECTOR, PROCESSES = 11, 1  # NETLINK_CONNECTOR, CN_IDX_PROC
LISTEN, DONE = 1, 3  # PROC_CN_MCAST_LISTEN, NLMSG_DONE
FORK, COMM, EXIT = 0x1, 0x200, 0x80000000
HEADER = struct.Struct("=IHHII")  # length type flags seq pid
LETTER = struct.Struct("=IIIIHH")  # idx val seq ack len flags
EVENT = struct.Struct("=IIQ")  # what cpu time
DATA = HEADER.size + LETTER.size + EVENT.size
BUFFER = 128 * 1024 * 1024  # bytes of events that wait to be read
RCVBUFFORCE = 33
NAME = 16  # bytes of a process's name, the last one 0


@dataclass(frozen=True)
class Mark:
    """Whose process it is."""

    token: str
    rank: int
    attempt: int

    @classmethod
    def read(cls, name: str) -> Mark | None:
        """None: it is no rank's script."""
        found = re.fullmatch(r"(x\w+(?:-\d+)?)\.(\d+)\.(\d+)", name)
        return cls(found[1], int(found[2]), int(found[3])) if found else None


class Kernel(threading.Thread):
    """Listens from start() on, for the rest of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.exits: dict[Mark, int] = {}
        """Of each rank's script: how it ended, as wait() tells."""
        self.lost = 0
        """How often events were lost: then this is no witness."""
        self._family: dict[int, Mark] = {}
        """Living process → whose it is."""
        self._scripts: dict[int, Mark] = {}
        self._seen: set[int] = set()
        self._awaited = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, CONNECTOR)
        self._socket.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, BUFFER)
        self._socket.bind((0, PROCESSES))
        letter = LETTER.pack(PROCESSES, PROCESSES, 0, 0, 4, 0) + struct.pack("=I", LISTEN)
        self._socket.send(HEADER.pack(HEADER.size + len(letter), DONE, 0, 0, 0) + letter)

    def run(self) -> None:
        """For ever."""
        while True:
            try:
                message = self._socket.recv(4096)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            what, _, _ = EVENT.unpack_from(message, HEADER.size + LETTER.size)
            if what in (FORK, COMM, EXIT):
                self._hear(what, message[DATA:])

    def _hear(self, what: int, data: bytes) -> None:
        if what == FORK:
            parent, child, group = struct.unpack_from("=4xIII", data)
            if parent in self._family and child == group:
                self._family[child] = self._family[parent]
        elif what == COMM:
            pid, group = struct.unpack_from("=II", data)
            mark = Mark.read(data[8 : 8 + NAME].split(b"\0")[0].decode(errors="replace"))
            if mark and pid == group:
                self._family[pid] = self._scripts[pid] = mark
        else:
            pid, group, status = struct.unpack_from("=III", data)
            if pid == group:
                self._family.pop(pid, None)
                if script := self._scripts.pop(pid, None):
                    self.exits[script] = status
                if pid == self._awaited:
                    self._awaited = 0

    def catch_up(self) -> None:
        """All that has happened until now is known afterwards."""
        with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as last:
            self._awaited = last.pid
            last.kill()
        while self._awaited and not self.lost:
            time.sleep(0.001)

    def living(self, token: str = "") -> list[str]:
        """The processes of a job, or of all jobs, that live; with their command lines."""
        found = []
        for pid, mark in list(self._family.items()):
            if token in ("", mark.token):
                found.append("process %d of %s, rank %d: %s" % (pid, mark.token, mark.rank, _words(pid)))
        return found


def _words(pid: int) -> str:
    try:
        with open("/proc/%d/cmdline" % pid) as file:
            return file.read().replace("\0", " ").strip()
    except OSError:
        return "(gone)"


def why_not() -> str:
    """Why nothing can be heard here; empty: it can."""
    if os.geteuid() != 0:
        return "only root hears of all processes"
    try:
        Kernel()._socket.close()
    except OSError as error:
        return "the kernel tells nothing of processes: %s" % error
    return ""
