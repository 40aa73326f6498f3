"""Processes that no KILL ends: their job ends all the same, their devices go to nobody, the queue goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import LocalQueue, kill
from tests.hang import Hang, why_not

LIMIT = 120.0  # seconds: a process counts as stuck 30 s after its first KILL
DEVICES = ("--gpus", "H100:1")


@pytest.fixture
def hang(tmp_path: Path) -> Iterator[Hang]:
    """A file system that never answers."""
    if why := why_not():
        pytest.skip("NOT TESTED: no file system that hangs can be had here: %s" % why)
    with Hang(tmp_path / "hang") as found:
        yield found


class Stuck:
    """A job one process of which is stuck before its script goes on."""

    def __init__(self, queue: LocalQueue, hang: Hang, *options: str, then: str = "sleep 600") -> None:
        name = "pid-" + os.urandom(4).hex()
        words = "bash -c 'echo $$ >~/%s; exec cat %s' & until [ -s ~/%s ]; do sleep 0.05; done; " % (
            *(name, hang.folder / name, name),
        )
        wait = "until grep -q request_wait /proc/$(cat ~/%s)/wchan; do sleep 0.05; done; " % name
        env = {"SKYQ_GRACE_S": "0.2"}
        self.id = queue.submit(*options, words + wait + "touch ~/%s.stuck; " % name + then, env=env)
        self.pid = int(queue.until_file(name))
        self.who = "pid %d (cat)" % self.pid
        self.words = "; %s on localhost can't be killed" % self.who
        queue.until((queue.user_home / (name + ".stuck")).exists, "it is stuck")


def quarantine(queue: LocalQueue) -> list[str]:
    """What `status` tells of each device; "" where nothing."""
    (node,) = queue.ok("status", "local", "-o", "json").json()["local"]
    return [str(device["quarantine"]) for device in node["devices"]]


def kill_shim(queue: LocalQueue, job: int) -> None:
    """kill -9, as its start record names it."""
    for started in queue.state_dir.glob("run/*/started"):
        record = json.loads(started.read_text())
        if "/logs/%d-" % job in record["log"]:
            os.kill(record["shim"][0], signal.SIGKILL)


def test_what_is_stuck_keeps_its_device_and_nothing_else(queue: LocalQueue, hang: Hang) -> None:
    cancelled = Stuck(queue, hang, *DEVICES)
    succeeded = Stuck(queue, hang, "--gpus", "H100:0.5", then="exit 0")
    failed = Stuck(queue, hang, then="exit 3")
    lost = Stuck(queue, hang, *DEVICES)
    kill_shim(queue, lost.id)
    queue.run("cancel", "local", str(cancelled.id), "-y")
    jobs = [cancelled, succeeded, failed, lost]
    ended = queue.wait_all([job.id for job in jobs], within=LIMIT)
    three = queue.submit("--gpus", "H100:3", "true")
    one = queue.submit(*DEVICES, "true")
    queue.wait(one, "SUCCEEDED")

    states = [ended[job.id]["status"] for job in jobs]
    assert states == ["CANCELLED", "SUCCEEDED", "FAILED", "FAILED_DRIVER"]
    assert ended[cancelled.id]["reason"].endswith(cancelled.words + ", so device 0 is in quarantine")
    assert ended[succeeded.id]["reason"] == "finished" + succeeded.words + ", so device 1 is in quarantine"
    assert ended[failed.id]["reason"] == "exit code 3" + failed.words
    assert ended[lost.id]["reason"].startswith("exit status unknown: its shim was killed" + lost.words)
    told = ["%s of job %d can't be killed" % (job.who, job.id) for job in (cancelled, succeeded, lost)]
    assert quarantine(queue) == [*told, ""]
    assert "\nlocalhost: device 0 is in quarantine since " in queue.ok("status", "local").out
    assert queue.job(three)["reason"] == "needs 3 H100 on one node; 1 free, in quarantine: 3 on localhost"
    assert queue.ok("why", str(three)).out.count("in quarantine") == 1
    for process in queue.own_processes():
        kill(process)  # and all that they knew
    assert quarantine(queue) == [*told, ""]
    hang.let_go()
    queue.wait(three, "SUCCEEDED")
    queue.until(lambda: quarantine(queue) == [""] * 4, "each device comes back")


def test_quarantine_ends_by_hand_too(queue: LocalQueue, hang: Hang) -> None:
    stuck = Stuck(queue, hang, "--gpus", "H100:4", then="exit 0")
    queue.wait(stuck.id, "SUCCEEDED", within=LIMIT)
    waiting = queue.submit(*DEVICES, "true")
    assert queue.states()[waiting] == "PENDING"
    said = queue.ok("resume", "local", "localhost").out

    assert "Device 0 is given out again, though %s of job 1 may still use it.\n" % stuck.who in said
    queue.wait(waiting, "SUCCEEDED")
    queue.until(lambda: not queue.own_processes(), "dispatcher and node agent leave")
    assert len(list(queue.claims.glob("*.claim"))) == 1, "another queue could have its devices"


def test_quarantine_that_ended_while_nobody_looked_is_not_shown(queue: LocalQueue, hang: Hang) -> None:
    stuck = Stuck(queue, hang, *DEVICES, then="exit 0")
    queue.wait(stuck.id, "SUCCEEDED", within=LIMIT)
    queue.until(lambda: not queue.own_processes(), "dispatcher and node agent leave")
    assert quarantine(queue)[0] != ""
    queue.until(lambda: not queue.own_processes(), "dispatcher and node agent leave")
    hang.let_go()
    queue.until(lambda: not queue.job_processes(), "it dies, and its shim goes")

    assert quarantine(queue) == [""] * 4


def test_what_is_only_slow_to_die_is_waited_for(queue: LocalQueue, hang: Hang) -> None:
    slow = Stuck(queue, hang, *DEVICES)
    queue.run("cancel", "local", str(slow.id), "-y")
    state = Path("/proc/%d/status" % slow.pid)
    queue.until(lambda: "State:\tD" in state.read_text(), "it has had its KILL")
    assert queue.states()[slow.id] == "RUNNING"
    hang.let_go()

    assert queue.wait(slow.id, "CANCELLED")["reason"].startswith("cancelled by ")
    assert quarantine(queue) == [""] * 4
