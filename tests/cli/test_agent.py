"""The agent on the head, spoken to directly: by skyqs of other versions, by the dead, and by nonsense."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from skyq.core.protocol import GREETING, Decoder, Message, encode, greeting
from tests.cli.laptop import Far
from tests.program import ROOT

WITH_SILENCE = (
    "import sys; sys.argv[1:] = ['_agent']; from skyq.cli import agent, main; agent.SILENCE = %g; main.main()"
)


class Agent:
    """One agent, and what it said."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.decoder = Decoder()

    def say(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def ask(self, verb: str, *words: str, **more: Any) -> None:
        request = {"do": "verb", "verb": verb, "words": words, "user": "ada", "tty": [False] * 3, **more}
        self.say(greeting() + encode(request))

    def until(self, what: str) -> list[Message]:
        """What it says, as far as a message of that kind."""
        found: list[Message] = []
        deadline = time.monotonic() + 60
        while not any(message.get("is") == what for message in found):
            assert time.monotonic() < deadline, found
            data = self.read()
            assert data, found
            found += self.decoder.feed(data)
        return found

    def read(self) -> bytes:
        assert self.process.stdout
        select.select([self.process.stdout], [], [], 60)
        return os.read(self.process.stdout.fileno(), 65536)


@contextmanager
def agent(head: Far, argv: list[str] | None = None) -> Iterator[Agent]:
    process = subprocess.Popen(
        argv or [*head.program, "_agent"],
        env={**head.env, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield Agent(process)
    finally:
        process.kill()
        process.communicate()


def text(messages: list[Message], fd: int) -> str:
    return b"".join(message["data"] for message in messages if message.get("fd") == fd).decode()


def test_it_greets_answers_and_ends(head: Far) -> None:
    with agent(head) as it:
        it.ask("queue", "lab")
        found = it.until("exit")
        assert text(found, 1).startswith("Job queue of current user on cluster lab\n")
        assert found[-1] == {"is": "exit", "code": 0}
        assert it.process.wait(10) == 0


def test_what_a_newer_laptop_adds_does_no_harm(head: Far) -> None:
    with agent(head) as it:
        it.ask("queue", "lab", future={"a": 1}, place={"stage": 1, "future": 2})
        it.say(encode({"do": "future"}))
        assert it.until("exit")[-1]["code"] == 0


def test_a_verb_of_a_newer_laptop_is_refused_in_a_sentence(head: Far) -> None:
    with agent(head) as it:
        it.ask("future", "lab")
        found = it.until("exit")
        assert found[-1]["code"] == 2
        assert "knows no command future" in text(found, 2)


def test_a_cluster_that_is_not_there_goes_on_to_no_third_machine(head: Far) -> None:
    (head.home / "pools.yaml").write_text("mars: {hosts: [mars.example.org]}\n")
    with agent(head) as it:
        it.ask("queue", "mars")
        found = it.until("exit")
        assert found[-1]["code"] == 1
        assert "Cluster 'mars' does not exist on" in text(found, 2)


def test_pings_are_answered_while_a_verb_is_busy(head: Far) -> None:
    head.submit("sleep 600")
    with agent(head) as it:
        it.ask("logs", "lab")
        it.until("at")
        it.say(encode({"do": "ping"}))
        it.until("pong")


@pytest.mark.parametrize("said", [b"\1\0\0\0\2{]", b"\7nonsense", b"\1\xff\xff\xff\xff"])
def test_nonsense_ends_it(head: Far, said: bytes) -> None:
    head.submit("sleep 600")
    with agent(head) as it:
        it.ask("logs", "lab")
        it.until("at")
        it.say(said)
        it.process.wait(10)


@pytest.mark.parametrize("said", [b"", b"nonsense", greeting(), GREETING.encode() + b" 99 9.9\n"])
def test_it_ends_where_nobody_says_what_to_do(head: Far, said: bytes) -> None:
    with agent(head) as it:
        it.say(said)
        assert it.process.stdin
        it.process.stdin.close()
        it.process.stdin = None
        assert it.process.wait(20) != 0
        assert it.process.stderr
        assert b"Traceback" not in it.process.stderr.read()


def test_silence_ends_it(head: Far) -> None:
    head.submit("sleep 600")
    with agent(head, [sys.executable, "-c", WITH_SILENCE % 5.0]) as it:
        it.ask("logs", "lab")
        it.until("at")
        it.process.wait(15)


def test_its_end_ends_nothing_of_a_job(head: Far) -> None:
    with agent(head) as it:
        order = {"task": {"run": "echo x; sleep 600"}, "uuid": "ab" * 16, "launch": False}
        it.ask("exec", "lab", order=order)
        it.until("at")
        head.wait(1, "RUNNING")
        it.process.kill()
        it.process.wait()
        assert head.job(1)["status"] == "RUNNING"
        assert [process for process in head.job_processes() if process.status() != psutil.STATUS_ZOMBIE]


def test_the_same_order_twice_is_one_job(head: Far) -> None:
    for _ in range(2):
        with agent(head) as it:
            order = {"task": {"run": "true"}, "uuid": "cd" * 16, "launch": False, "detach": True}
            it.ask("exec", "lab", order=order)
            found = it.until("exit")
            assert "Job submitted, ID: 1" in text(found, 1)
    assert len(head.jobs()) == 1
