"""A killed shim: how the script ended is never guessed, and nothing of it lives when the node says so."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.node.agent import Node, killed, living, written
from tests.waiting import wait_until

PYTHON_DAEMON = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2):
            os.dup2(os.open("/dev/null", os.O_RDWR), fd)
        print(os.getpid(), file=open(%r, "a"), flush=True)
        os.execve("/bin/sleep", ["sleep", "600"], %s)
"""
KINDS = {
    "background": "sleep 600 & echo $! >> %s",
    "nohup": "nohup sleep 600 >/dev/null 2>&1 & echo $! >> %s",
    "session": "setsid bash -c 'echo $$ >> %s; exec sleep 600' &",
    "silent session": "setsid bash -c 'echo $$ >> %s; exec sleep 600' </dev/null >/dev/null 2>&1 &",
    "no environment": "env -i setsid bash -c 'echo $$ >> %s; exec sleep 600' &",
    "ignores TERM": "bash -c 'trap \"\" TERM; echo $$ >> %s; while :; do sleep 1; done' &",
    "stopped": "bash -c 'echo $$ >> %s; kill -STOP $$' &",
}


def zoo(pids: Path, folder: Path, escape_all: bool) -> str:
    """A script that starts one process of each kind."""
    lines = [line % pids for line in KINDS.values()]
    daemon = folder / "daemon.py"
    # With an environment it is known by that. Without one only its parent knows it: the shim, or who got it.
    daemon.write_text(PYTHON_DAEMON % (str(pids), "{}" if escape_all else "os.environ"))
    lines.append("/usr/bin/env python3 %s" % daemon)
    return "\n".join([*lines, "echo $$ >> %s" % pids, "sleep 600"])


@pytest.mark.parametrize("whose", ["the agent's", "adopted", "adopted after both were killed"])
def test_everything_it_started_is_dead_when_the_node_says_so(node: Node, whose: str) -> None:
    agent, pids = node.agent(), node.file()
    agent.start(zoo(pids, node.root, escape_all=whose == "the agent's"))
    shim = agent.shim()
    started = [int(line) for line in written(pids, len(KINDS) + 2)]
    assert len(living(started)) == len(KINDS) + 2
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
