"""Sixteen escapes at four ends on both rungs of containment: none is left when the node says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skyq.node import proc
from skyq.transport import cgroup, mark
from tests import escapes
from tests.node.agent import Node, killed, written
from tests.program import ROOT
from tests.waiting import wait_until


@pytest.mark.parametrize("rung", escapes.RUNGS)
@pytest.mark.parametrize("end", escapes.ENDS)
def test_nothing_gets_away(tmp_path: Path, rung: str, end: str) -> None:
    if why := escapes.why_not(rung):
        pytest.skip("NOT TESTED: %s: %s" % (rung, why))

    assert escapes.survivors(tmp_path / "node", rung, end) == set()


def test_the_table_of_escapes_is_the_one_that_was_tried() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()

    assert escapes.table(lambda rung, end: set()) in text


# Groups.


@pytest.fixture
def grouping() -> None:
    """Only where the kernel groups."""
    if why := escapes.why_not(escapes.RUNGS[0]):
        pytest.skip("NOT TESTED: cgroup v2: %s" % why)


def groups(node: Node) -> list[str]:
    """Those of its steps that are there."""
    return [
        name
        for name in os.listdir(node.runs)
        if os.path.exists(os.path.join(cgroup.base(), cgroup.PREFIX + name))
    ]


@pytest.mark.usefixtures("grouping")
def test_a_group_goes_with_its_step(node: Node) -> None:
    agent = node.agent()
    agent.start("sleep 600 & echo hi")
    agent.hear("gone")

    assert groups(node) == []


@pytest.mark.usefixtures("grouping")
def test_a_step_that_was_prepared_in_vain_leaves_no_group(node: Node) -> None:
    agent = node.agent()
    agent.start("echo never", hold=60)
    agent.hear("prepared")
    assert len(groups(node)) == 1
    agent.stop()
    agent.hear("gone")

    assert groups(node) == []


@pytest.mark.usefixtures("grouping")
def test_the_next_agent_sweeps_the_groups_of_the_dead_and_of_nobody_else(node: Node) -> None:
    agent = node.agent()
    agent.start("sleep 600")
    agent.shim()
    deserted = cgroup.make(cgroup.base(), cgroup.PREFIX + "deserted.%d" % os.getpid())
    agent.kill()
    node.agent()

    assert not os.path.exists(deserted)
    assert len(groups(node)) == 1


@pytest.mark.usefixtures("grouping")
def test_what_moves_to_another_group_is_known_by_its_mark(node: Node) -> None:
    agent, file = node.agent(), node.file()
    moves = "sh -c 'echo 0 >%s/cgroup.procs; echo $$ >%s; exec sleep 600'" % (cgroup.base(), file)
    agent.start("env -i setsid %s </dev/null >/dev/null 2>&1 & sleep 600" % moves)
    shim = agent.shim()
    pid = int(written(file)[0])
    start = proc.stat(pid)
    agent.kill()
    killed(shim)
    agent = node.agent()
    agent.start("echo never")
    agent.hear("gone")

    assert start is not None and not proc.lives(pid, start.start)


HEADLESS = """
import ctypes, threading
libc = ctypes.CDLL(None)
pause, leave = libc.pause, libc.pthread_exit  # while no other thread can hold a lock
threading.Thread(target=pause).start()
print(flush=True)
leave(None)
"""


@pytest.mark.usefixtures("grouping")
@pytest.mark.parametrize("kill", [cgroup.kill, cgroup._kill_frozen])
def test_a_group_is_killed_with_the_process_whose_first_thread_has_ended(
    kill: Callable[[str], object], tmp_path: Path
) -> None:
    group, ready = cgroup.make(cgroup.base(), cgroup.PREFIX + "test.%d" % os.getpid()), tmp_path / "ready"
    pid = cgroup.fork(group)
    if pid == 0:
        words = "setsid sleep 600 & exec '%s' -I -S -c '%s' >'%s'" % (sys.executable, HEADLESS, ready)
        os.execv("/bin/sh", ["sh", "-c", words])
    try:
        headless = Path("/proc/%d/status" % pid)
        wait_until(lambda: "State:\tZ" in headless.read_text() and ready.read_text(), "only its thread lives")
        kill(group)
        wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, "it is dead", within=10)
        wait_until(lambda: not cgroup.lives(group), "so is the other one")
    finally:
        proc.signal_all([found for found in map(proc.stat, cgroup.pids(group)) if found], signal.SIGKILL)
        wait_until(lambda: not cgroup.lives(group), "all are dead")
        cgroup.remove(group)
    assert not os.path.exists(group)


# Marks.


def test_a_mark_stays_whatever_is_cleared_and_can_be_shed() -> None:
    line = "import sys; from skyq.transport import mark; mark.bear('a.1.run-0'); %s; sys.stdin.read()"
    for then, expected in (("0", True), ("mark.shed()", False)):
        words = ["python3", "-c", line % ("%s; print(flush=True)" % then)]
        with subprocess.Popen(words, stdin=-1, stdout=-1, cwd=ROOT) as process:
            assert process.stdout and process.stdout.readline()
            assert mark.bears(process.pid, "a.1.run-0") == expected
            assert not mark.bears(process.pid, "a.1.run-1")
            process.communicate()
