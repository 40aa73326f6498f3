"""What the dispatcher needs of a connection to a node agent, whatever carries it."""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """Bytes both ways; nothing here blocks."""

    def fileno(self) -> int:
        """Readable when there is something to read, or the other side is gone."""

    def read(self) -> bytes:
        """What there is; b"" when the other side is gone."""

    def write(self, data: bytes) -> int:
        """How many bytes were taken; 0 when none can be now. Raises OSError when the other side is gone."""

    def close(self) -> None:
        """End the conversation, and see the other side off."""
