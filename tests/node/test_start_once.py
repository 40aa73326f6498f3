"""A step is started once, whoever dies while it is; what was not started is never started later."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skyq.node import proc, shim
from skyq.node.agent import LATE
from skyq.node.shim import ALREADY
from tests.node.agent import JOB, Agent, Node, gone, is_locked, killed, start, written
from tests.waiting import wait_until

TELL = "echo $$ >> %s; "


def test_a_step_runs_and_its_exit_code_comes_back(node: Node) -> None:
    agent = node.agent()
    agent.start("echo hi; exit 7")

    assert agent.hear("gone")["code"] == 7
    assert node.log() == "hi\n"


def test_two_starts_in_one_breath_are_one_start(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    message = start(TELL % ran + "sleep 600")
    agent.say(message, message, message)

    agent.hear("running")
    agent.stop()
    assert agent.hear("gone")["stopped"]
    assert len(written(ran)) == 1


def test_the_shim_of_a_step_that_was_asked_for_twice_is_no_orphan(node: Node) -> None:
    """Orphans are killed when another step is buried."""
    agent = node.agent()
    message = start("sleep 600", step="run-0")
    agent.say(message, message)
    first = agent.shim("run-0")
    agent.start("sleep 600", step="run-1")
    killed(agent.shim("run-1"))

    assert agent.hear("gone", step="run-1")["code"] == -1
    assert first.is_running()


def test_a_step_that_shall_not_be_started_is_attached_to_all_the_same(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran + "sleep 600")
    pid = agent.hear("running")["pid"]
    agent.kill()

    agent = node.agent()
    for step in ("run-0", "run-1"):
        message = start("echo never", step=step)
        agent.say({**message, "spec": {"never": "its secrets are lost", "copy": "none"}})

    assert agent.hear("running", step="run-0")["pid"] == pid
    refused = agent.hear("gone", step="run-1")
    assert (refused["unstarted"], refused["why"]) == (True, "its secrets are lost")
    assert len(written(ran)) == 1


@pytest.mark.parametrize("ends", [Agent.kill, Agent.leave])
def test_a_start_that_is_asked_for_again_attaches(node: Node, ends: Callable[[Agent], object]) -> None:
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran + "sleep 600")
    pid = agent.hear("running")["pid"]
    ends(agent)

    agent = node.agent()
    agent.start("echo never")

    assert agent.hear("running")["pid"] == pid
    assert len(written(ran)) == 1


def test_a_step_that_has_ended_meanwhile_reports_its_real_exit_code(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran + "exit 9")
    written(ran)
    agent.kill()
    wait_until(lambda: os.path.exists(node.run().exit), "the shim writes the exit record without an agent")

    agent = node.agent()
    agent.start("echo never")

    message = agent.hear("gone")
    assert (message["code"], message["stopped"], message["unstarted"]) == (9, False, False)
    assert len(written(ran)) == 1


def test_what_was_stopped_before_it_started_never_starts(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.stop()
    assert agent.hear("gone")["stopped"]

    agent.start(TELL % ran)

    assert agent.hear("gone")["unstarted"]
    assert not ran.exists()


def test_a_stop_in_one_breath_with_the_start_ends_it(node: Node) -> None:
    agent = node.agent()
    agent.say(start("sleep 600"), {"do": "stop", "job": JOB, "attempt": 1, "step": "run-0"})

    assert agent.hear("gone")["stopped"]
    wait_until(lambda: len(node.processes()) == 1, "only the agent lives")


def test_a_start_that_the_agent_slept_over_is_dropped(node: Node) -> None:
    """The head may have given the node up, and started the job elsewhere. Also the second 64 kB of it."""
    agent, ran = node.agent(), node.file()
    fcntl.fcntl(agent.into, fcntl.F_SETPIPE_SZ, 1 << 20)
    late = [start(TELL % ran + "#" * 50_000, step="run-%d" % n) for n in range(4)]
    with agent.frozen():
        agent.say(*late)
        time.sleep(LATE + 1)

    assert [agent.hear("late", "running", "gone")["is"] for _ in late] == ["late"] * 4
    agent.start("exit 3", step="run-9")
    assert agent.hear("gone", step="run-9")["code"] == 3
    assert not ran.exists()


def test_a_refused_start_says_why_and_never_starts_later(node: Node) -> None:
    """A shim that hung between its fork and its lock goes on after the job was queued again."""
    agent, ran = node.agent(), node.file()
    os.makedirs(node.run().script)  # a file of that name can't be written
    agent.start(TELL % ran)

    message = agent.hear("gone")
    assert message["unstarted"]
    assert message["why"] == "Is a directory: %s" % node.run().script
    os.rmdir(node.run().script)
    assert _shim_ends_with(ALREADY, node, TELL % ran)
    agent.start(TELL % ran)
    assert agent.hear("gone")["unstarted"]
    assert not ran.exists()


def test_a_step_that_was_stopped_unstarted_is_refused_to_a_late_shim(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.stop()
    agent.hear("gone")

    assert _shim_ends_with(ALREADY, node, TELL % ran)
    assert not ran.exists()


def test_a_shim_that_is_killed_before_it_started_anything_can_be_replaced(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    os.makedirs(node.run().root)
    os.mkfifo(node.run().script)  # whoever writes it waits for a reader
    agent.start(TELL % ran)
    shim = wait_until(lambda: _children(agent.process.pid), "the shim is forked")[0]
    wait_until(lambda: is_locked(node.run().alive), "the shim has its lock")
    os.kill(shim, signal.SIGKILL)

    assert agent.hear("gone")["unstarted"]
    agent.start(TELL % ran, attempt=2)
    assert agent.hear("gone")["code"] == 0
    assert len(written(ran)) == 1


def test_no_word_is_lost_between_the_lock_and_the_start(node: Node) -> None:
    agent = node.agent()
    os.makedirs(node.run().root)
    os.mkfifo(node.run().script)
    agent.start("sleep 600")
    wait_until(lambda: is_locked(node.run().alive), "the shim has its lock")
    agent.stop()
    agent.quiet()
    assert Path(node.run().script).read_text() == "sleep 600"
    os.unlink(node.run().script)
    Path(node.run().script).write_text("sleep 600")

    assert agent.hear("gone")["stopped"]


def test_a_full_disk_or_an_unwritable_folder_is_no_end_of_the_agent(node: Node) -> None:
    agent = node.agent()
    node.runs.rename(node.root / "elsewhere")
    node.runs.write_text("")
    agent.start("exit 0")
    message = agent.hear("gone")
    assert message["unstarted"]
    assert message["why"].startswith("Not a directory: ")
    agent.stop("run-1")
    assert agent.hear("gone")["stopped"]

    node.runs.unlink()
    (node.root / "elsewhere").rename(node.runs)
    agent.start("exit 5", attempt=2)
    assert agent.hear("gone")["code"] == 5


def test_the_start_is_on_disk_before_the_script_runs(node: Node) -> None:
    agent = node.agent()
    agent.start('cat "%s"' % node.run().started)
    agent.hear("gone")

    record = json.loads(node.log())
    assert record["boot"] == agent.boot


def test_a_step_whose_machine_was_booted_meanwhile_says_so(node: Node) -> None:
    agent = node.agent()
    agent.start("sleep 600")
    shim = agent.shim()
    agent.kill()
    _edit(node.run().started, boot="another")
    killed(shim)

    agent = node.agent()
    agent.start("echo never")

    assert agent.hear("gone")["why"] == "node rebooted"


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"code": 512}', b'{"code": "0"}', b"\xff\0" * 200, b"[0]"])
def test_a_damaged_exit_record_is_an_unknown_exit_status(node: Node, damage: bytes) -> None:
    agent = node.agent()
    agent.start("exit 0")
    agent.hear("gone")
    Path(node.run().exit).write_bytes(damage)

    agent.start("echo never")

    message = agent.hear("gone")
    assert message["code"] == -1
    assert "record is damaged" in message["why"]


def test_an_agent_leaves_when_its_dispatcher_is_gone_and_the_step_runs_on(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran + "sleep 600")
    shim = agent.shim()
    assert agent.leave() == 0

    assert shim.is_running()
    agent = node.agent()
    agent.start("echo never")
    agent.hear("running")
    agent.stop()
    agent.hear("gone")
    gone(shim)


# What the tests need.


def _shim_ends_with(status: int, node: Node, script: str) -> bool:
    """A shim that was forked long ago, and only now goes on."""
    spec = {**start(script)["spec"], "base": {}, "shell": "/bin/bash"}
    pid = os.fork()
    if pid == 0:
        shim.main(node.run(), spec, "boot", -1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status


def _children(pid: int) -> list[int]:
    return [entry.pid for entry in proc.all_stats() if entry.parent == pid and entry.lives]


def _edit(path: str, **changes: object) -> None:
    record = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps({**record, **changes}))
