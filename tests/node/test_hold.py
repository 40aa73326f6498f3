"""Steps that get ready and wait for the word to go: who gets none never starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from skyq.core import protocol
from skyq.head.dispatcher import GIVE_UP
from skyq.head.specs import HOLD
from skyq.node.agent import LATE
from tests.node.agent import JOB, Agent, Node, is_locked, killed, written
from tests.program import ROOT
from tests.waiting import wait_until

TELL = "echo $$ >> %s; "


def test_a_held_step_runs_once_it_may(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran + "exit 4", hold=HOLD)
    agent.hear("prepared")
    assert not ran.exists() and not os.path.exists(node.run().started)

    _go(agent)
    assert agent.hear("gone")["code"] == 4
    assert len(written(ran)) == 1


def test_a_held_step_that_is_stopped_never_runs_again(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran, hold=HOLD)
    agent.hear("prepared")
    agent.stop()
    end = agent.hear("gone")
    assert end["stopped"] and not end["unstarted"]

    agent.start(TELL % ran, hold=HOLD)
    assert agent.hear("gone")["code"] == -1
    assert not ran.exists()


def test_another_agent_finds_a_held_step_and_lets_it_go(node: Node) -> None:
    first, ran = node.agent(), node.file()
    first.start(TELL % ran + "exit 5", hold=HOLD)
    first.hear("prepared")
    first.kill()
    second = node.agent()
    second.start(TELL % ran + "exit 5", hold=HOLD)
    second.hear("prepared")

    _go(second)
    assert second.hear("gone")["code"] == 5
    assert len(written(ran)) == 1


def test_a_held_step_whose_shim_is_killed_can_be_started_again(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran, hold=HOLD)
    agent.hear("prepared")
    killed(_shim(agent))
    assert agent.hear("gone")["unstarted"]
    assert not ran.exists()


@pytest.mark.parametrize("boot", ["this one", "another one"])
def test_the_word_reaches_who_waits_for_it_and_not_a_shim_that_was_killed_before(
    node: Node, boot: str
) -> None:
    """As when the machine lost its power: the run directory still says that somebody is ready."""
    first, ran, run = node.agent(), node.file(), node.run()
    first.start(TELL % ran + "exit 6", hold=HOLD)
    first.hear("prepared")
    shim = _shim(first)
    first.kill()
    killed(shim)
    stale = Path(run.prepared).read_text()
    if boot == "another one":
        stale = stale.replace(first.boot, boot)
    Path(run.prepared).write_text(stale)
    os.unlink(run.script)
    os.mkfifo(run.script)  # the next shim waits in the middle of getting ready
    second = node.agent()
    second.start(TELL % ran + "exit 6", hold=HOLD)
    wait_until(lambda: is_locked(run.alive), "there is another shim")
    for _ in range(3):  # each time it looks what the run directory says
        assert second.quiet() == [{"is": "pong"}]
    script = Path(run.script).read_text()
    os.unlink(run.script)
    Path(run.script).write_text(script)
    second.hear("prepared")
    _go(second)

    assert second.hear("gone")["code"] == 6
    assert len(written(ran)) == 1


def test_a_word_that_is_too_late_lets_nothing_go(node: Node) -> None:
    """An agent that slept doesn't know what the head has decided meanwhile."""
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran, hold=HOLD)
    agent.hear("prepared")
    with agent.frozen():
        time.sleep(LATE + 1)
        _go(agent)
    assert agent.hear("late")["step"] == "run-0"
    agent.stop()
    agent.hear("gone")
    assert not ran.exists()


def test_who_gets_no_word_in_time_never_starts(node: Node) -> None:
    """Whether or not there is an agent; the head has given it up by then."""
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran, hold=0.2)
    agent.hear("prepared")
    end = agent.hear("gone")
    assert end["unstarted"] and "did not come" in end["why"]
    _go(agent)
    agent.start(TELL % ran, hold=HOLD)
    agent.hear("gone")
    assert not ran.exists()


def test_the_dispatcher_gives_up_before_that() -> None:
    assert GIVE_UP + LATE <= HOLD


def test_what_a_node_still_has_is_told_in_its_hello(node: Node) -> None:
    first = node.agent()
    first.start("sleep 600", step="run-0")
    first.hear("running")
    first.start("exit 0", step="run-1")
    first.hear("gone")
    first.kill()
    assert [key[2] for key in _hello(node)["alive"]] == ["run-0"]


def test_what_was_buried_is_not_told_again(node: Node) -> None:
    agent = node.agent()
    agent.start("sleep 600")
    killed(agent.shim())
    agent.hear("gone")
    agent.leave()
    assert _hello(node)["alive"] == []


def _go(agent: Agent, step: str = "run-0") -> None:
    agent.say({"do": "go", "job": JOB, "attempt": 1, "step": step})


def _shim(agent: Agent) -> psutil.Process:
    return psutil.Process(agent.process.pid).children()[0]


def _hello(node: Node) -> dict[str, object]:
    env = {"PATH": os.environ["PATH"], "HOME": str(node.home), "SKYQ_CLAIM_DIR": str(node.claims)}
    words = [sys.executable, "-m", "skyq", "_node", str(node.runs)]
    said = subprocess.run(
        words,
        input=protocol.greeting(),
        env={**env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    return next(message for message in protocol.Decoder().feed(said.stdout) if message["is"] == "hello")
