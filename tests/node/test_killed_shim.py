"""A killed shim: how the script ended is never guessed, and nothing of it lives when the node says so."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil
import pytest

from tests.node.agent import Node, killed, living, written
from tests.waiting import wait_until
from tests.zoo import SIZE, zoo


@pytest.mark.parametrize("whose", ["the agent's", "adopted", "adopted after both were killed"])
def test_everything_it_started_is_dead_when_the_node_says_so(node: Node, whose: str) -> None:
    agent, pids = node.agent(), node.file()
    agent.start(zoo(pids, node.file(), known_to_its_parent_only=whose == "the agent's"))
    shim = agent.shim()
    started = [int(line) for line in written(pids, SIZE)]
    assert len(living(started)) == SIZE
    if whose != "the agent's":
        agent.kill()
    if whose == "adopted":
        agent = node.agent()
        agent.start("echo never")
        agent.hear("running")
    killed(shim)
    if whose == "adopted after both were killed":
        agent = node.agent()
        agent.start("echo never")

    message = agent.hear("gone")
    assert living(started) == []
    assert message["code"] == -1
    assert message["why"] == "exit status unknown: its shim was killed"


def test_what_its_shim_was_still_seeing_off_is_dead_and_the_exit_code_is_the_real_one(node: Node) -> None:
    agent, pids = node.agent(), node.file()
    stays = "bash -c 'trap \"\" TERM; echo $$ >> %s; while :; do sleep 1; done' &\n" % pids
    agent.start(stays + "until [ -s %s ]; do sleep 0.05; done; exit 4" % pids)
    shim = agent.shim()
    survivor = int(written(pids)[0])
    wait_until(lambda: os.path.exists(node.run().exit), "the script is over")
    killed(shim)

    message = agent.hear("gone")
    assert living([survivor]) == []
    assert message["code"] == 4


def test_a_person_who_watches_the_log_lives_on(node: Node) -> None:
    agent = node.agent()
    agent.start("echo hi; sleep 600")
    shim = agent.shim()
    with subprocess.Popen(["tail", "-f", node.run().out], stdout=subprocess.PIPE) as watching:
        assert watching.stdout and watching.stdout.readline() == b"hi\n"
        killed(shim)
        agent.hear("gone")

        assert watching.poll() is None
        watching.kill()


def test_the_neighbours_of_a_killed_shim_live_on(node: Node) -> None:
    agent = node.agent()
    for number in range(3):
        agent.start("sleep 600 & wait", step="run-%d" % number)
    shims = [agent.shim("run-%d" % number) for number in range(3)]
    others = [process for shim in (shims[0], shims[2]) for process in [shim, *shim.children(recursive=True)]]
    killed(shims[1])
    agent.hear("gone", step="run-1")

    assert [process.pid for process in others if not process.is_running()] == []


def test_two_shims_killed_at_once_are_both_reported(node: Node) -> None:
    agent, pids = node.agent(), node.file()
    for number in range(2):
        agent.start("setsid sleep 600 & echo $! >> %s; wait" % pids, step="run-%d" % number)
    shims = [agent.shim("run-%d" % number) for number in range(2)]
    started = [int(line) for line in written(pids, 2)]
    for shim in shims:
        shim.kill()

    assert {agent.hear("gone")["step"], agent.hear("gone")["step"]} == {"run-0", "run-1"}
    assert living(started) == []


def test_a_shim_that_ends_properly_is_not_taken_for_a_killed_one(node: Node) -> None:
    """Also by an agent that comes later, and must not look for leftovers of each step in all of /proc."""
    agent = node.agent()
    agent.start("sleep 600 & exit 6")
    assert agent.hear("gone")["code"] == 6

    assert not os.path.exists(node.run().script)


def test_orphans_of_a_live_step_are_its_shims_and_no_zombies_stay(node: Node) -> None:
    agent, done = node.agent(), node.file()
    agent.start("for i in $(seq 50); do (setsid sleep 0.01 &); done; sleep 0.3; echo >> %s; sleep 600" % done)
    shim = agent.shim()
    written(done)

    wait_until(lambda: not _zombies(shim), "the shim reaps what it inherits")
    agent.stop()
    agent.hear("gone")
    wait_until(lambda: not _zombies(psutil.Process(agent.process.pid)), "the agent reaps the shim")


def _zombies(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if child.status() == psutil.STATUS_ZOMBIE]


def test_signals_that_are_not_meant_for_a_shim_do_not_harm_the_exit_code(node: Node) -> None:
    agent = node.agent()
    agent.start("sleep 0.5; exit 8")
    shim = agent.shim()
    shim.send_signal(signal.SIGCHLD)
    shim.send_signal(signal.SIGUSR1)

    assert agent.hear("gone")["code"] == 8
