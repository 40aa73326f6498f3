"""A connection at whose other end nobody is: it says what it was given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Said:
    """A Stream; what comes may have no end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)

    def read(self, timeout: float) -> bytes:
        return next(self._pieces, b"")

    def write(self, data: bytes) -> None:
        """Nobody hears it."""

    def close(self) -> None:
        """It isn't open."""

    def stderr(self) -> str:
        return ""

    def exit_code(self) -> int | None:
        return None
