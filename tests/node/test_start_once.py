"""A step is started once, whoever dies while it is; what was not started is never started later."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from skyq.node.shim import try_lock
from tests.node.agent import Node, gone, killed, start, written
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


def test_a_start_that_is_asked_for_again_attaches(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran + "sleep 600")
    pid = agent.hear("running")["pid"]
    agent.kill()

    agent = node.agent()
    agent.start("echo never")

    assert agent.hear("running")["pid"] == pid
    assert len(written(ran)) == 1


def test_a_step_that_has_ended_meanwhile_reports_its_real_exit_code(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.start(TELL % ran + "exit 9")
    shim = agent.process
    written(ran)
    agent.kill()
    assert shim.poll() is not None
    wait_until(lambda: os.path.exists(node.run().exit), "the shim writes the exit record without an agent")

    agent = node.agent()
    agent.start("echo never")

    assert agent.hear("gone") == {
        **{"job": "job", "attempt": 1, "step": "run-0", "is": "gone"},
        **{"code": 9, "stopped": False, "why": "", "unstarted": False},
    }
    assert len(written(ran)) == 1


def test_what_was_stopped_before_it_started_never_starts(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    agent.stop()
    assert agent.hear("gone")["stopped"]

    agent.start(TELL % ran)

    assert agent.hear("gone")["stopped"]
    assert not ran.exists()


def test_a_stop_in_one_breath_with_the_start_ends_it(node: Node) -> None:
    agent = node.agent()
    agent.say(start("sleep 600"), {"do": "stop", "job": "job", "attempt": 1, "step": "run-0"})

    assert agent.hear("gone")["stopped"]
    wait_until(lambda: not _scripts(node), "no process of the step lives")


def test_a_start_that_the_agent_slept_over_is_dropped(node: Node) -> None:
    """The head may have given the node up, and have started the job elsewhere. Also the second 64 kB of it."""
    agent, ran = node.agent(), node.file()
    late = [start(TELL % ran + "#" * 50_000, step="run-%d" % n) for n in range(4)]
    _age_by(agent.process.pid, 16, lambda: agent.say(*late[:1]))

    assert agent.hear("late", "running", "gone")["is"] == "late"
    agent.start("exit 3", step="run-9")
    assert agent.hear("gone", step="run-9")["code"] == 3
    assert not ran.exists()


def test_a_refused_start_leaves_nothing_that_could_start_later(node: Node) -> None:
    """A shim that was stopped between its fork and its lock wakes up after the job was queued again."""
    agent, ran = node.agent(), node.file()
    node.runs.joinpath("job.1.run-0").mkdir()
    node.runs.joinpath("job.1.run-0", "script").mkdir()  # nothing can be written there
    agent.start(TELL % ran)

    message = agent.hear("gone")
    assert message["unstarted"]
    assert "script" in message["why"]
    assert not os.path.exists(node.run().root)


def test_a_killed_shim_that_had_started_nothing_can_be_asked_for_again(node: Node) -> None:
    agent, ran = node.agent(), node.file()
    with _lock_held(node.run().root, node):
        agent.start(TELL % ran)
        shim = wait_until(lambda: _children(agent.process.pid), "the shim is forked")[0]
        os.kill(shim, signal.SIGKILL)
        agent.quiet()
    assert agent.hear("gone")["unstarted"]

    agent.start(TELL % ran, attempt=2)
    assert agent.hear("gone")["code"] == 0
    assert len(written(ran)) == 1


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


def _age_by(pid: int, seconds: float, then) -> None:  # type: ignore[no-untyped-def]
    raise NotImplementedError


def _scripts(node: Node) -> list[int]:
    agents = {agent.process.pid for agent in node.agents}
    return [process.pid for process in node.processes() if process.pid not in agents]


def _children(pid: int) -> list[int]:
    from skyq.node import proc

    return [entry.pid for entry in proc.all_stats() if entry.parent == pid and entry.state not in "ZX"]


def _edit(path: str, **changes: object) -> None:
    record = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps({**record, **changes}))


class _lock_held:  # noqa: N801
    """Somebody looks at a run directory for longer than usual."""

    def __init__(self, root: str, node: Node) -> None:
        os.makedirs(root)
        self.path = node.run().alive

    def __enter__(self) -> None:
        lock = try_lock(self.path)
        assert lock is not None
        self.lock = lock

    def __exit__(self, *_: object) -> None:
        os.close(self.lock)
