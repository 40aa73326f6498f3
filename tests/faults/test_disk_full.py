"""A full disk under the queue: nothing corrupt, running jobs unaffected, all goes on when there is room."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import LocalQueue, kill


@pytest.fixture
def small(queue: LocalQueue) -> Iterator[Path]:
    """The queue's state lies on a disk of 8 MB that only its own processes see; returns the folder on it."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can mount a small disk for the queue")
    script = 'mount -t tmpfs -o size=8m,mode=0700 none "$1" && echo ready && exec sleep infinity'
    (queue.home / "clusters").mkdir(mode=0o700, exist_ok=True)
    keeper = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", str(queue.home / "clusters")],
        stdout=subprocess.PIPE,
    )
    assert keeper.stdout is not None
    if keeper.stdout.readline() != b"ready\n":
        keeper.communicate()
        pytest.skip("NOT TESTED: this machine doesn't let root mount a small disk")
    enter = ["nsenter", "-t", str(keeper.pid), "-m", "--wd=" + str(queue.user_home)]
    queue.program = [*enter, *queue.program]
    yield Path("/proc/%d/root" % keeper.pid + str(queue.home / "clusters"))
    queue.close()
    keeper.send_signal(signal.SIGKILL)
    keeper.communicate()


def fill(folder: Path) -> Path:
    """Leave no room there."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return ballast


def test_a_full_disk_refuses_submits_and_harms_nothing_else(queue: LocalQueue, small: Path) -> None:
    first = queue.submit("--gpus", "H100:4", queue.until_open() + "; exit 5")
    second = queue.submit("--gpus", "H100:1", queue.until_open("later") + "; echo ran")
    queue.wait(first, "RUNNING")
    ballast = fill(small)
    refused = queue.run("exec", "local", "-d", "x" * 100_000)
    with_secret = queue.run("exec", "local", "-d", "--secret", "TOKEN=" + "y" * 50_000, "true")
    queue.open_gate()

    for result in (refused, with_secret):
        assert result.code == 1 and str(queue.home) in result.err and "Traceback" not in result.err, result
    ballast.unlink()
    queue.open_gate("later")
    assert queue.wait(first, "FAILED")["exit_codes"] == [5]
    queue.wait(second, "SUCCEEDED")
    assert (small / "local/logs/2-sky-cmd/tasks/run.log").read_text() == "ran\n"
    assert list((small / "local").glob("secrets/*")) == []
    assert len(queue.jobs()) == 2
    queue.ok("exec", "local", "true")


def test_a_job_that_failed_on_a_full_disk_is_told_so(queue: LocalQueue, small: Path) -> None:
    job = queue.submit(queue.until_open() + "; exit 1")
    queue.wait(job, "RUNNING")
    ballast = fill(small)
    queue.open_gate()
    queue.until(
        lambda: list(small.glob("local/run/*/exit")), "how it ended is on record, full as the disk is"
    )
    ballast.unlink()

    reason = queue.wait(job, "FAILED")["reason"]
    assert reason.startswith("exit code 1; the disk of ") and reason.endswith(" is full")


def test_the_queue_goes_on_by_itself_when_there_is_room(queue: LocalQueue, small: Path) -> None:
    queue.submit("--gpus", "H100:4", queue.until_open())
    queue.submit("--gpus", "H100:1", "touch ~/ran")
    queue.wait(1, "RUNNING")
    ballast = fill(small)
    queue.open_gate()
    queue.until(lambda: list(small.glob("local/run/*/exit")), "the first one ends")
    ballast.unlink()

    queue.until((queue.user_home / "ran").exists, "no command is needed to start the second one")
    queue.wait_all([1, 2], "SUCCEEDED")


def test_a_dispatcher_that_dies_on_a_full_disk_is_replaced_there(queue: LocalQueue, small: Path) -> None:
    running = queue.submit("--gpus", "H100:4", queue.until_open() + "; exit 3")
    waiting = queue.submit("--gpus", "H100:1", "touch ~/ran")
    queue.wait(running, "RUNNING")
    ballast = fill(small)
    kill(queue.dispatcher())
    asked = queue.run("queue", "local")
    queue.open_gate()
    queue.until(lambda: list(small.glob("local/run/*/exit")), "the first one ends")
    queue.run("queue", "local")
    serves = queue.own_processes()
    ballast.unlink()

    assert asked.code == 0 or str(queue.home) in asked.err, asked
    assert "Traceback" not in asked.err + (small / "local/dispatcher.log").read_text()
    assert serves, "nobody serves"
    queue.until((queue.user_home / "ran").exists, "no command is needed to start the second one")
    queue.wait_all([running, waiting], "FAILED", "SUCCEEDED")
    assert queue.job(running)["exit_codes"] == [3]
