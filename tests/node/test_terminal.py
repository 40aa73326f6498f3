"""The terminal of a step, as its node has it: who may come to it, until when, and what is left of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from skyq.core import protocol
from skyq.node import terminal
from tests.node.agent import JOB, Message, Node, living
from tests.waiting import PATIENCE, wait_until

NOBODY = 65534
LINE = {"job": JOB, "attempt": 1, "step": "run-0"}
OPEN = {"do": "open", "tty": False, "rows": 24, "columns": 80}


class Visit:
    """Somebody at the terminal of a step."""

    def __init__(self, node: Node) -> None:
        self.line = wait_until(lambda: _line(node), "the terminal is there")
        self.line.settimeout(PATIENCE)
        self.decoder = terminal.decoder_of_visit()

    def say(self, message: Message, data: bytes | None = None) -> None:
        self.line.sendall(protocol.encode(message) if data is None else protocol.encode_data(message, data))

    def all(self) -> list[Message]:
        """What is said until the other end closes."""
        said: list[Message] = []
        while data := self.line.recv(65536):
            said += self.decoder.feed(data)
        return said


def _line(node: Node) -> socket.socket | None:
    try:
        return terminal.connect(node.run())
    except OSError:
        return None


@contextmanager
def visiting(node: Node) -> Iterator[Visit]:
    found = Visit(node)
    try:
        yield found
    finally:
        found.line.close()


def test_a_step_to_whose_terminal_nobody_comes_ends_with_that_reason(node: Node) -> None:
    agent = node.agent()
    agent.start("touch ran", terminal=0.3, cwd=str(node.root))
    gone = agent.hear("gone")

    assert (gone["code"], gone["why"]) == (129, "nobody came to its terminal within 0.3 s")
    assert not (node.root / "ran").exists()
    assert not os.path.exists(node.run().terminal)


def test_a_cancel_ends_what_nobody_has_come_to_yet(node: Node) -> None:
    agent = node.agent()
    agent.start("true", terminal=600.0)
    pid = agent.hear("running")["pid"]
    wait_until(lambda: os.path.exists(node.run().terminal), "it listens")
    agent.stop()

    assert agent.hear("gone")["stopped"]
    assert not living([pid])


def test_the_terminal_is_for_this_account_alone(node: Node) -> None:
    if os.getuid() != 0:
        pytest.skip("there is no other account to be")
    agent = node.agent()
    agent.start("true", terminal=600.0)
    wait_until(lambda: os.path.exists(node.run().terminal), "it listens")
    assert os.stat(node.run().root).st_mode & 0o777 == 0o700

    os.chmod(node.run().root, 0o777)  # whatever befalls the folder: the one who comes is asked for
    os.chmod(node.run().terminal, 0o777)
    with socket.socket(socket.AF_UNIX) as line:
        child = os.fork()
        if child == 0:
            try:
                os.chdir(node.run().root)
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                line.connect("terminal")
                line.sendall(protocol.encode(OPEN))
                os._exit(len(line.recv(1)))
            except ConnectionError:
                os._exit(0)  # hung up on
            finally:
                os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with visiting(node) as mine:
        mine.say(OPEN)
        assert mine.all()[-1] == {"is": "ended", "code": 0, "stopped": False}


def test_who_says_nothing_or_nonsense_or_goes_away_takes_nobodys_place(node: Node) -> None:
    agent = node.agent()
    agent.start("cat", terminal=600.0)
    for nonsense in (b"", b"GET / HTTP/1.0\r\n\r\n", protocol.encode({"do": "ping"})):
        with visiting(node) as stranger:
            stranger.line.sendall(nonsense)
    with visiting(node) as visit:
        visit.say(OPEN)
        visit.say({"do": "in"}, b"hello")
        visit.say({"do": "eof"})
        said = visit.all()

    assert b"".join(message.get("data", b"") for message in said) == b"hello"
    assert agent.hear("gone")["code"] == 0


def test_what_a_visitor_must_not_say_harms_nobody(node: Node) -> None:
    agent = node.agent()
    agent.start("trap '' HUP; cat >/dev/null; sleep 600", terminal=600.0)
    with visiting(node) as visit:
        visit.say({**OPEN, "tty": True, "rows": -1, "columns": 10**9, "term": "x\0$(id)"})
        for message in (
            *({"do": "took", "count": count} for count in (-1, 1 << 80, "x", None)),
            *({"do": "signal", "number": number} for number in (9, -1, "KILL", None)),
            {"do": "size", "rows": [], "columns": "x"},
            {"do": "in"},
            {"do": 7},
            {"do": "ping"},
        ):
            visit.say(message)
        while {"is": "pong"} not in list(visit.decoder.feed(visit.line.recv(65536))):
            pass
    gone = agent.hear("gone")

    assert (gone["code"], gone["why"]) == (129, "the connection to its terminal was lost")


def test_a_connection_becomes_the_line_to_it_and_tells_where_there_is_none(node: Node) -> None:
    agent = node.agent()
    agent.start("cat; exit 3", terminal=600.0)
    agent.hear("running")
    other = node.agent(claimed=False)
    other.say({"do": "enter", **LINE, "attempt": 2})
    assert other.hear("not-entered")["why"] == "No such file or directory"
    wait_until(lambda: os.path.exists(node.run().terminal), "it listens")
    other.say({"do": "enter", **LINE})
    other.hear("entered")
    other.into.write(protocol.encode(OPEN) + protocol.encode_data({"do": "in"}, b"far"))
    other.into.write(protocol.encode({"do": "eof"}))

    assert other.hear("out")["data"] == b"far"
    assert other.hear("ended")["code"] == 3
    assert agent.hear("gone")["code"] == 3
    assert other.process.wait(PATIENCE) == 0


def test_when_that_connection_ends_so_does_the_step(node: Node) -> None:
    agent = node.agent()
    agent.start("sleep 600", terminal=600.0)
    wait_until(lambda: os.path.exists(node.run().terminal), "it listens")
    other = node.agent(claimed=False)
    other.say({"do": "enter", **LINE})
    other.hear("entered")
    other.into.write(protocol.encode({**OPEN, "tty": True}))
    other.into.close()

    assert agent.hear("gone")["why"] == "the connection to its terminal was lost"
