"""Jobs that wait for others, that are held, a paused queue; waiting for jobs, and running them once more."""

from __future__ import annotations

import shutil

import pytest

from tests.cluster import LocalQueue, kill


@pytest.mark.parametrize(
    "flag, first, runs",
    [
        ("--after", "true", True),
        ("--after", "exit 3", False),
        ("--after-any", "true", True),
        ("--after-any", "exit 3", True),
        ("--after-failed", "true", False),
        ("--after-failed", "exit 3", True),
    ],
)
def test_a_job_starts_after_another_one(queue: LocalQueue, flag: str, first: str, runs: bool) -> None:
    before = queue.submit(queue.until_open() + "; " + first)
    after = queue.submit(flag, str(before), "echo ran")
    queue.wait(before, "RUNNING")
    record = queue.job(after)
    assert record["status"] == "PENDING" and record["reason"].startswith("waits for job %d to " % before)
    queue.open_gate()

    if runs:
        queue.wait(after, "SUCCEEDED")
        assert queue.job(after)["start_at"] >= queue.job(before)["end_at"]
    else:
        reason = queue.wait(after, "CANCELLED")["reason"]
        assert reason.startswith("job %d, which it waits for to " % before)


def test_a_chain_whose_beginning_failed_is_cancelled_to_its_end(queue: LocalQueue) -> None:
    first = queue.submit("-n", "begin", queue.until_open() + "; exit 1")
    second = queue.submit("--after", "begin", "-n", "middle", "true")
    third = queue.submit("--after", "%d,middle" % first, "true")
    cleanup = queue.submit("--after-any", str(third), "echo swept")
    kill(queue.dispatcher())
    queue.open_gate()
    queue.ok("queue", "local")

    queue.wait_all([second, third], "CANCELLED")
    assert queue.job(third)["reason"] == "job %d, which it waits for to succeed, is FAILED" % first
    queue.wait(cleanup, "SUCCEEDED")


def test_what_is_not_there_can_not_be_waited_for(queue: LocalQueue) -> None:
    folder = queue.file("work/file", "").parent
    for word in ("7", "nobody", "9" * 30):
        refused = queue.run("exec", "local", "-d", "--workdir", str(folder), "--after", word, "true")
        assert refused.code == 1 and "There is no job %s to wait for." % word in refused.err
    assert queue.jobs() == {}
    assert not list(queue.state_dir.glob("work/*"))


def test_a_held_job_waits_until_it_is_released(queue: LocalQueue) -> None:
    queue.declare(H100=1)
    runs = queue.submit("--gpus", "H100:1", queue.until_open())
    first, second = (queue.submit("--gpus", "H100:1", "-n", "next-%d" % n, "true") for n in (1, 2))
    assert "Held: job %d." % first in queue.ok("hold", "local", str(first)).out
    queue.open_gate()
    queue.wait(second, "SUCCEEDED")

    record = queue.job(first)
    assert (record["status"], record["reason"][:10]) == ("PENDING", "held by me")
    assert "Released: job %d." % first in queue.ok("release", "local", "next-*").out
    queue.wait(first, "SUCCEEDED")
    assert queue.run("hold", "local", str(runs)).lines == ["Job %d is SUCCEEDED." % runs]
    assert queue.run("hold", "local", "99").code == 1


def test_a_paused_queue_takes_jobs_and_starts_none(queue: LocalQueue) -> None:
    runs = queue.submit(queue.until_open())
    queue.wait(runs, "RUNNING")
    queue.ok("pause", "local", "--reason", "new driver")
    waits = queue.submit("true")
    kill(queue.dispatcher())
    queue.open_gate()
    queue.ok("queue", "local")
    queue.wait(runs, "SUCCEEDED")

    assert queue.job(waits)["status"] == "PENDING"
    assert queue.job(waits)["reason"].startswith("the queue is paused by me since ")
    told = r"The queue is paused by me since .*: new driver\. Nothing starts until: skyq resume local"
    queue.ok("status", "local").line(told)
    assert "starts jobs again" in queue.ok("resume", "local").out
    queue.wait(waits, "SUCCEEDED")


def test_wait_exits_with_the_worst_code(queue: LocalQueue) -> None:
    good, bad, gone = queue.submit("true"), queue.submit("exit 4"), queue.submit("sleep 600")
    assert queue.run("wait", "local", str(good)).code == 0
    failed = queue.run("wait", "local", str(good), str(bad))
    assert (failed.code, failed.lines) == (100, ["Job 2 (sky-cmd): FAILED: exit code 4"])
    waiting = queue.start("wait", "local")
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == b"Waiting for job 3.\n"
    queue.ok("cancel", "local", "-y", str(gone))
    waiting.communicate()
    assert waiting.returncode == 103
    assert queue.run("wait", "local", "1", "3", "2").code == 100
    assert queue.run("wait", "local", "99").code == 102
    assert queue.ok("wait", "local").lines == ["You have no unfinished jobs."]


def test_a_job_is_run_once_more_where_it_ran(queue: LocalQueue) -> None:
    folder = queue.file("work/seed", "").parent
    queue.ok("exec", "local", "-n", "count", "--workdir", str(folder), "--", "echo x >>seen; wc -l <seen")
    assert queue.ok("rerun", "local", "count").lines == ["Job 1 is submitted again, ID: 2"]
    queue.wait(2, "SUCCEEDED")
    assert (queue.log(2), queue.job(2)["job_name"]) == ("2\n", "count")

    held = queue.submit("-n", "last", queue.until_open())
    queue.ok("pause", "local")
    assert queue.ok("rerun", "local", "1").lines == ["Job 1 is submitted again, ID: 4"]
    queue.ok("clean", "local", "--older", "0s", "-y")
    queue.ok("resume", "local")
    queue.wait(4, "SUCCEEDED")
    assert queue.log(4) == "3\n"
    queue.open_gate()
    queue.wait(held, "SUCCEEDED")
    for copy in queue.state_dir.glob("work/*"):
        shutil.rmtree(copy, ignore_errors=True)
    refused = queue.run("rerun", "local", "1")
    assert refused.code == 1 and "The folder that job 1 ran in is gone" in refused.err


def test_a_job_with_secrets_is_not_run_once_more_without_them(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "--secret", "TOKEN=x", "true")
    refused = queue.run("rerun", "local", "1")
    assert refused.code == 1 and "had secrets (TOKEN), which are gone" in refused.err
    assert len(queue.jobs()) == 1
