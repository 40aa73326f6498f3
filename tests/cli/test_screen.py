"""What a head prints reaches a terminal as text and colours, and a file or pipe as it is."""

from __future__ import annotations

import io
import sys

import pytest

from skyq.cli.many import _print
from skyq.cli.remote import Answer, Screen

EVIL = (
    b"\x1b]0;title\a\x1b]52;c;Y2FuYXJ5\x1b\\\x1bP$qm\x1b\\\x1b[6n\x1b[c\x1b[?1049h\x1b[3J\x1bc\x1b_x\x1b\\\x1b^x\x1b\\"
    b"\xc2\x9b6n\x9b6n\x07\x0e\x05"
)
FINE = "\x1b[36m(task, pid=1)\x1b[0m 数 50%\r60%\x1b[K\n".encode()


class Stream(io.TextIOWrapper):
    def __init__(self, tty: bool, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding)
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


def shown(monkeypatch: pytest.MonkeyPatch, stream: Stream, fd: int, *pieces: bytes) -> bytes:
    monkeypatch.setattr(sys, "stderr" if fd == 2 else "stdout", stream)
    screen = Screen()
    for piece in pieces:
        screen.write(fd, piece)
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue()


@pytest.mark.parametrize("fd", [1, 2])
def test_a_terminal_gets_nothing_that_it_would_obey_or_answer(
    monkeypatch: pytest.MonkeyPatch, fd: int
) -> None:
    found = shown(monkeypatch, Stream(tty=True), fd, FINE + EVIL + FINE)

    assert found.startswith(FINE) and found.endswith(FINE)
    between = found[len(FINE) : -len(FINE)].decode()
    assert all(char.isprintable() for char in between), between


def test_so_it_is_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    text = FINE + EVIL + FINE
    whole = shown(monkeypatch, Stream(tty=True), 1, text)

    assert shown(monkeypatch, Stream(tty=True), 1, *(bytes([byte]) for byte in text)) == whole


def test_a_pipe_gets_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Stream(tty=False), 1, EVIL, b"\xff") == EVIL + b"\xff"


def test_a_terminal_of_another_encoding_keeps_its_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "数\x1b]0;x\a据".encode("gbk")

    assert shown(monkeypatch, Stream(True, "gbk"), 1, text[:1], text[1:]) == "数据".encode("gbk")


def test_the_answers_of_several_heads_are_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Stream(tty=True), Stream(tty=True)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    _print(Answer(0, EVIL, EVIL))

    for stream in (out, err):
        assert isinstance(stream.buffer, io.BytesIO) and b"\x1b" not in stream.buffer.getvalue()
