"""Processes that stand still for a while, as on a machine that swaps: nothing starts twice or is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from skyq.head.links import SILENCE
from tests.cluster import LocalQueue
from tests.faults.truth import Truth


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """Stopped, until it is told to go on or was killed."""
    process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


@pytest.mark.parametrize("who", ["dispatcher", "node agent"])
def test_jobs_do_not_notice_that_dispatcher_or_node_agent_stand_still(queue: LocalQueue, who: str) -> None:
    """For so long that the other side gives it up. A node agent is replaced, whether it wakes up or not."""
    truth = Truth(queue)
    before = queue.submit("--gpus", "H100:1", truth.script(queue.until_open() + "; exit 3"))
    queue.wait(before, "RUNNING")
    with frozen(queue.dispatcher() if who == "dispatcher" else queue.node_agent()):
        meanwhile = queue.submit("--gpus", "H100:1", truth.script("echo done; exit 4"))
        queue.open_gate()
        if who == "dispatcher":
            time.sleep(SILENCE + 2)
        else:
            queue.wait_all([before, meanwhile], "FAILED")
        queue.ok("queue", "local")
    queue.wait_all([before, meanwhile], "FAILED")

    jobs = queue.jobs()
    assert [jobs[number]["exit_codes"] for number in (before, meanwhile)] == [[3], [4]]
    assert queue.log(meanwhile) == "done\n"
    assert truth.starts() == {before: 1, meanwhile: 1}
    assert truth.violations() == []


def test_a_command_asks_no_frozen_dispatcher_for_long(queue: LocalQueue) -> None:
    """It starts another one, which leaves again when it sees that the first has gone on."""
    job = queue.submit(queue.until_open())
    queue.wait(job, "RUNNING")
    with frozen(queue.dispatcher()):
        for words in ("queue local", "status", "logs local --no-follow", "cancel local -y 9"):
            queue.ok(*words.split())
        other = queue.submit("echo hi")
        queue.until(lambda: len(_dispatchers(queue)) > 1, "another dispatcher is started")
    queue.wait(other, "SUCCEEDED")

    queue.until(lambda: len(_dispatchers(queue)) == 1, "one of them leaves")
    queue.open_gate()
    queue.wait(job, "SUCCEEDED")


def _dispatchers(queue: LocalQueue) -> list[psutil.Process]:
    found = []
    for process in queue.own_processes():
        with suppress(psutil.Error):  # it has just ended
            found += [process] if process.cmdline()[-2:-1] == ["_dispatcher"] else []
    return found


def test_a_frozen_job_is_still_a_running_one_and_dies_when_it_is_cancelled(queue: LocalQueue) -> None:
    job = queue.submit("echo $$ > ~/pid; sleep 600 & wait")
    script = psutil.Process(int(queue.until_file("pid")))
    for process in (script, *script.children()):
        process.send_signal(signal.SIGSTOP)
    assert queue.job(job)["status"] == "RUNNING"
    queue.ok("cancel", "local", "-y", str(job))

    queue.wait(job, "CANCELLED")
    assert not script.is_running()
