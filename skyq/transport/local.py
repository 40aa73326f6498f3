"""Channels to processes of this machine: to a node agent by two pipes, to a terminal by a socket."""

from __future__ import annotations

import os
import socket
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

READ_SIZE = 256 * 1024  # bytes at a time
GOODBYE = 5.0  # seconds that the agent gets to end after its input has


class LocalChannel:
    """`argv` started as a child; it ends with this process, since its input does."""

    def __init__(self, argv: List[str]) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdin and self._process.stdout
        self._into, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._into.fileno(), False)

    def fileno(self) -> int:
        """Of the agent's output."""
        return self._out.fileno()

    def read(self) -> bytes:
        """See Channel."""
        return os.read(self._out.fileno(), READ_SIZE)

    def write(self, data: bytes) -> int:
        """See Channel."""
        try:
            return os.write(self._into.fileno(), data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """See Channel."""
        self._into.close()
        try:
            self._process.wait(GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()


class SocketChannel:
    """A connected Unix socket; see Channel."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        line.setblocking(False)

    def fileno(self) -> int:
        """See Channel."""
        return self._line.fileno()

    def read(self) -> bytes:
        """See Channel."""
        return self._line.recv(READ_SIZE)

    def write(self, data: bytes) -> int:
        """See Channel."""
        try:
            return self._line.send(data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """See Channel."""
        self._line.close()
