"""The line to a terminal: what it said last is heard, whatever is still on the way to it."""

from __future__ import annotations

import socket

import pytest

from skyq.cli.visit import Ended, Line, Mailbox
from skyq.core import protocol
from skyq.core.protocol import Message
from skyq.transport.local import SocketChannel


class Listener:
    """A visitor that only listens; and types each time it hears something, if it has a box."""

    def __init__(self, box: Mailbox | None = None) -> None:
        self.heard: list[Message] = []
        self.box = box

    def enter(self) -> None:
        pass

    def hear(self, message: Message) -> None:
        self.heard.append(message)
        if self.box:
            self.box.put(protocol.encode({"do": "took", "count": 1}))


def out(text: bytes) -> bytes:
    return protocol.encode_data({"is": "out", "stream": 1}, text)


@pytest.mark.parametrize("typing", [False, True])
def test_all_that_was_said_is_heard_though_it_has_closed_and_hears_nothing_more(typing: bool) -> None:
    ours, theirs = socket.socketpair()
    box = Mailbox()
    listener = Listener(box if typing else None)
    box.put(protocol.encode({"do": "eof"}) * 100)
    said = b"".join(out(b"%d," % number) for number in range(2000))
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
    theirs.sendall(said + protocol.encode({"is": "ended", "code": 7, "stopped": False}))
    theirs.close()

    assert Line(SocketChannel(ours), far=False).attend(listener, box) == Ended(7, False)
    texts = b"".join(message["data"] for message in listener.heard[:-1])
    assert texts == b"".join(b"%d," % number for number in range(2000))
    ours.close()


def test_a_line_that_ends_without_a_word_is_told_as_lost() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(out(b"half"))
    theirs.close()
    listener = Listener()

    assert Line(SocketChannel(ours), far=False).attend(listener, Mailbox()) == Ended(protocol.UNKNOWN, False)
    assert [message["is"] for message in listener.heard] == ["out", "ended"]
    ours.close()


def test_what_makes_no_sense_ends_it() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(protocol.encode({"is": "ended", "code": "x"}))
    listener = Listener()

    assert Line(SocketChannel(ours), far=False).attend(listener, Mailbox()).code == protocol.UNKNOWN
    ours.close()
    theirs.close()
