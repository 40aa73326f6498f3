"""A job that the kernel kills for memory says so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster import LocalQueue, kill
from tests.faults.test_containment import nested


@pytest.fixture
def limited() -> Iterator[Path]:
    """A memory cgroup of 40 MB: its cgroup.procs."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    parent = Path("/sys/fs/cgroup") if unified.exists() else Path("/sys/fs/cgroup/memory")
    group = parent / ("skyq-test-%d" % os.getpid())
    try:
        group.mkdir()
        limit = "memory.max" if unified.exists() else "memory.limit_in_bytes"
        (group / limit).write_text(str(40 << 20))
    except OSError as error:
        pytest.skip("NOT TESTED: no memory cgroup can be made here (%s)" % error)
    yield group / "cgroup.procs"
    group.rmdir()


def test_out_of_memory_is_the_reason(queue: LocalQueue, limited: Path) -> None:
    job = queue.submit("echo $$ >%s && exec python3 -c 'len(bytearray(400 << 20))'" % limited)
    reason = queue.wait(job, "FAILED")["reason"]

    assert reason.startswith("exit code 137") and "out of memory: the kernel killed a process" in reason
    assert "out of memory" in queue.ok("why", str(job)).out


def test_a_child_that_is_killed_for_memory_is_told_of_whatever_the_exit_code(
    queue: LocalQueue, limited: Path
) -> None:
    child = "bash -c 'echo $$ >%s && exec python3 -c \"len(bytearray(400 << 20))\"'" % limited
    reason = queue.wait(queue.submit(child + " || exit 3"), "FAILED")["reason"]

    assert reason == "exit code 3; meanwhile the kernel killed a process of this machine to get memory"


def test_the_kernel_takes_a_job_before_what_looks_after_it(queue: LocalQueue) -> None:
    job = queue.submit("cat /proc/self/oom_score_adj; %s" % queue.until_open())
    queue.until(lambda: queue.log(job), "it tells")
    above = [queue.dispatcher(), queue.node_agent(), *psutil.Process(shim(queue)).parents()]
    own = [score(process.pid) for process in above]

    assert int(queue.log(job)) == score(shim(queue)) + 200 == max(own) + 200
    queue.open_gate()


def test_a_dispatcher_that_a_job_starts_is_not_taken_before_the_jobs(queue: LocalQueue) -> None:
    first, then = queue.until_open("first"), queue.until_open()
    queue.wait(queue.submit("%s; %s; touch ~/nested; %s" % (first, nested(queue), then)), "RUNNING")
    mine = score(queue.dispatcher().pid)
    kill(queue.dispatcher())
    queue.open_gate("first")
    queue.until((queue.user_home / "nested").exists, "the job has typed a command")

    assert score(queue.dispatcher().pid) == score(queue.node_agent().pid) == mine
    queue.open_gate()


def score(pid: int) -> int:
    return int(Path("/proc/%d/oom_score_adj" % pid).read_text())


def shim(queue: LocalQueue) -> int:
    """Its pid, of the only job."""
    (record,) = queue.state_dir.glob("run/*.run-0/started")
    return int(json.loads(record.read_text())["shim"][0])
