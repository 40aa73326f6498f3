"""A step's log on its way to the head: byte for byte, from wherever the head has come to."""

from __future__ import annotations

import os
from pathlib import Path

from tests.node.agent import JOB, Agent, Message, Node
from tests.waiting import wait_until

BYTES = "head -c 500000 /dev/urandom"


def test_a_log_arrives_byte_for_byte_and_its_end_is_told(node: Node) -> None:
    agent = node.agent()
    agent.start(BYTES, tail={"from": 0, "sizes": False})
    got = _log(agent)
    assert got == Path(node.run().out).read_bytes() and len(got) == 500000


def test_a_quick_step_tells_its_log_before_its_end(node: Node) -> None:
    """So that the job's log is whole when the job is over."""
    agent = node.agent()
    agent.start("echo hi", tail={"from": 0, "sizes": False})
    kinds = []
    while "gone" not in kinds:
        message = agent.hear("log", "log-end", "gone")
        kinds.append(message["is"])
    assert kinds == ["log", "log-end", "gone"]


def test_a_log_goes_on_where_the_head_has_come_to(node: Node) -> None:
    first = node.agent()
    first.start("echo one; until [ -e %s/go ]; do sleep 0.02; done; echo two" % node.root)
    first.hear("running")
    wait_until(lambda: node.log() == "one\n", "it wrote")
    first.kill()
    second = node.agent()
    second.start("", tail={"from": 2, "sizes": False})
    (node.root / "go").touch()
    assert _log(second, 2) == b"e\ntwo\n"


def test_a_log_of_a_step_that_is_gone_can_still_be_had(node: Node) -> None:
    agent = node.agent()
    agent.start("echo hi")
    agent.hear("gone")
    agent.say({"do": "tail", "job": JOB, "attempt": 1, "step": "run-0", "from": 1})
    assert _log(agent, 1) == b"i\n"


def test_a_log_that_is_nowhere_has_ended(node: Node) -> None:
    agent = node.agent()
    agent.say({"do": "tail", "job": JOB, "attempt": 7, "step": "run-0", "from": 0})
    assert agent.hear("log-end")["size"] == 0


def test_where_only_the_size_is_wanted_no_bytes_come(node: Node) -> None:
    agent = node.agent()
    agent.start("echo hello", log=str(node.root / "log"), tail={"from": 0, "sizes": True})
    assert agent.hear("grew", "log")["size"] == 6
    assert agent.hear("log-end", "log")["size"] == 6


def test_news_overtake_a_log_that_nobody_reads(node: Node) -> None:
    """A flood of text must not keep another step's start or end from being told."""
    agent = node.agent()
    agent.start("yes | head -c 30000000; sleep 600", tail={"from": 0, "sizes": False})
    agent.hear("log")
    agent.start("exit 3", step="run-1")
    run = node.run("run-1")
    # Nobody reads meanwhile.
    wait_until(lambda: os.path.exists(run.started) and not os.path.exists(run.script), "it has ended")
    between = 0
    while True:
        message = agent.hear("log", "gone")
        if message["is"] == "gone":
            break
        between += len(message["data"])
    assert between < 2_000_000  # what lay in the pipe, and some more
    agent.stop()


def test_an_agent_whose_log_is_not_read_still_ends_with_its_connection(node: Node) -> None:
    agent = node.agent()
    agent.start("yes | head -c 3000000", tail={"from": 0, "sizes": False})
    wait_until(lambda: os.path.exists(node.run().exit), "it wrote all")
    assert agent.leave() == 0


def _log(agent: Agent, offset: int = 0) -> bytes:
    """All bytes until their end is told; each piece follows the one before."""
    start, got = offset, b""
    while True:
        message: Message = agent.hear("log", "log-end")
        if message["is"] == "log-end":
            assert message["size"] == start + len(got)
            return got
        assert message["offset"] == start + len(got)
        got += message["data"]
