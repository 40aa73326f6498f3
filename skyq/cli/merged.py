"""The logs of a job's steps as one text, in the order in which their pieces came.

The raw files are the truth. The index of a job of several ranks tells the order: a line for each piece, step,
offset, length. What it doesn't name comes after what it does, in the order of the steps.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import chain

from skyq.core.logtext import tail_offset
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Callable, Iterator, Mapping

CHUNK = 1024 * 1024  # bytes of text at a time
_BLOCK = 64 * 1024  # bytes of the index at a time


class Piece(NamedTuple):
    """Some of one step's text: the bytes from `begin` to `end` of its raw log."""

    step: str
    begin: int
    end: int


class Merged:
    """Reads on from where it was, however the files have grown."""

    def __init__(self, logs: Mapping[str, str], index: str) -> None:
        self.logs = logs
        """Step → path of its raw log, in the order of display. The files need not be there yet."""
        self.offsets: dict[str, int] = {}
        """Step → how much of it was read."""
        self._index = index
        self._index_at = 0
        self._pieces: deque[Piece] = deque()

    def read(self, ready: Callable[[str], bool] = lambda step: True) -> Iterator[tuple[str, bytes]]:
        """What is new, a chunk of it at most: (step, text). What isn't ready is waited for."""
        room = CHUNK
        while room > 0 and self._look_into_index():
            step, _, end = self._pieces[0]
            text = b""
            if step in self.logs and self._at(step) < end:
                if not ready(step):
                    return
                text = self._next(step, min(room, end - self._at(step)))
                yield step, text
            room -= len(text)
            if not text or self._at(step) >= end:
                self._pieces.popleft()
        for step in list(self.logs):
            if room > 0 and ready(step):
                text = self._next(step, room)
                yield step, text
                room -= len(text)

    def _next(self, step: str, length: int) -> bytes:
        text = _read(self.logs[step], self._at(step), length)
        self.offsets[step] = self._at(step) + len(text)
        return text

    def _at(self, step: str) -> int:
        return self.offsets.get(step, 0)

    def _look_into_index(self) -> bool:
        """Whether the index names a piece that was not looked at."""
        if not self._pieces and self._index:
            block = _read(self._index, self._index_at, _BLOCK)
            block = block[: block.rfind(b"\n") + 1]  # a line may be half written
            self._index_at += len(block)
            self._pieces.extend(filter(None, map(_parsed, block.splitlines())))
        return bool(self._pieces)

    def skip_to_tail(self, lines: int) -> None:
        """Leave out all but the last lines. What isn't written yet comes all the same."""
        sizes = {step: _size(path) for step, path in self.logs.items()}
        self.offsets = dict(sizes)
        for step, begin, end in self._backwards(sizes):
            end = min(end, self.offsets.get(step, 0))
            if lines <= 0 or begin >= end:
                continue
            with open(self.logs[step], "rb", buffering=0) as file:
                self.offsets[step], shown = tail_of(file, lines, begin, end)
            lines -= shown

    def _backwards(self, sizes: Mapping[str, int]) -> Iterator[Piece]:
        """All pieces, the last one first."""
        indexed: dict[str, int] = {}
        for piece in _pieces_backwards(self._index):
            indexed.setdefault(piece.step, piece.end)
            if len(indexed) == len(sizes):
                break
        rest = (Piece(step, indexed.get(step, 0), sizes[step]) for step in reversed(list(sizes)))
        return chain(rest, _pieces_backwards(self._index))


def _pieces_backwards(index: str) -> Iterator[Piece]:
    try:
        with open(index, "rb", buffering=0) as file:
            for line in _lines_backwards(file):
                piece = _parsed(line)
                if piece is not None:
                    yield piece
    except OSError:
        return


def _lines_backwards(file: BinaryIO) -> Iterator[bytes]:
    at, rest = os.fstat(file.fileno()).st_size, b""
    while at > 0:
        length = min(_BLOCK, at)
        at -= length
        first, *lines = (os.pread(file.fileno(), length, at) + rest).split(b"\n")
        yield from reversed(lines)
        rest = first
    yield rest


def _parsed(line: bytes) -> Piece | None:
    """None for a line that is none: the dispatcher may be killed in the middle of one."""
    try:
        step, offset, length = line.decode("ascii").split()
        return Piece(step, int(offset), int(offset) + int(length))
    except ValueError:
        return None


def tail_of(file: BinaryIO, lines: int, begin: int, end: int) -> tuple[int, int]:
    """(offset of the last lines of a part of a file, how many those are)"""
    if lines <= 0:
        return end, 0

    def read(at: int, length: int) -> bytes:
        return os.pread(file.fileno(), length, begin + at)

    start = begin + tail_offset(read, end - begin, lines)
    count, last, at = 0, b"\n", start
    while at < end and (chunk := os.pread(file.fileno(), min(CHUNK, end - at), at)):
        count, last, at = count + chunk.count(b"\n"), chunk[-1:], at + len(chunk)
    return start, count + (last != b"\n")


def _read(path: str, offset: int, length: int) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(length) or b""
    except FileNotFoundError:
        return b""


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
