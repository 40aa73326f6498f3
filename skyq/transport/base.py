"""What others need of a connection, whatever carries it: Channel never waits, Stream is for who may."""

from __future__ import annotations

from skyq.core.typed import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

READ_SIZE = 256 * 1024  # bytes at a time
STDERR_KEPT = 8 * 1024  # bytes


class Channel(Protocol):
    """Bytes both ways; nothing here blocks."""

    def fileno(self) -> int:
        """Readable when there is something to read, or the other side is gone. Ask again before each wait."""

    def read(self) -> bytes:
        """What there is; b"" when the other side is gone. BlockingIOError when there is nothing (yet).

        Unreachable, with the reason, when there was no connection to begin with.
        """

    def write(self, data: bytes) -> int:
        """How many bytes were taken; 0 when none can be now. Raises OSError when the other side is gone."""

    def close(self) -> None:
        """End the conversation, and see the other side off."""


class Stream(Protocol):
    """A program on another machine, for who may wait."""

    def read(self, timeout: float) -> bytes:
        """What there is, at most READ_SIZE bytes; b"" at its end.

        TimeoutError after `timeout` seconds of nothing. Unreachable when the connection is lost.
        """

    def write(self, data: bytes) -> None:
        """All of it. Unreachable when the other side doesn't take it or is gone."""

    def close(self) -> None:
        """End the program's input and the channel."""

    def stderr(self) -> str:
        """What it said there so far (the last STDERR_KEPT bytes)."""

    def exit_code(self) -> Optional[int]:
        """None while it isn't known. Negative: a signal ended it, or the server didn't tell."""
