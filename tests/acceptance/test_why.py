"""`skyq why`: why a job waits, where it runs, how it ended."""

from __future__ import annotations

import pytest

from tests.cluster import LocalQueue


def test_a_waiting_job_tells_what_it_needs_and_who_has_it(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:2", "sleep 600")
    queue.submit("-n", "big", "--gpus", "H100:4", "sleep 600")
    queue.submit("--gpus", "H100:3", "sleep 600")
    queue.wait(1, "RUNNING")
    first, second = queue.ok("why", "local", "2"), queue.ok("why", "3")

    assert first.lines[0] == "Job 2 (big): PENDING"
    first.line(r"├── asked for 1x\[H100:4\], submitted .* by me")
    assert "├── 0 waiting jobs ahead of it" in first.lines
    assert first.lines[-1] == "└── waits: needs 4 H100 on one node; 2 free (job 1 holds 2)"
    assert "├── 1 waiting job ahead of it" in second.lines


def test_a_running_job_tells_where_it_runs(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:2", "sleep 600")
    queue.submit("--gpus", "H100:0.5", "--cpus", "2", "sleep 600")
    queue.submit("sleep 600")
    queue.wait_all([1, 2, 3], "RUNNING")

    whole, share, none = (queue.ok("why", str(job_id)) for job_id in (1, 2, 3))
    assert whole.lines[0] == "Job 1 (sky-cmd): RUNNING"
    assert "├── localhost: rank 0, devices 0, 1, 0.5 CPUs" in whole.lines
    assert "├── localhost: rank 0, device 2 (0.5 of it), 2 CPUs" in share.lines
    assert "├── localhost: rank 0, no device, 0.5 CPUs" in none.lines
    assert whole.lines[-1] == "└── logs: %s" % queue.log_folder(1)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("true", "finished"),
        ("exit 3", "exit code 3"),
        ("no-such-command", "exit code 127 (command not found)"),
        ("kill -SEGV $$", "exit code 139 (likely due to Segmentation Fault)"),
        ("kill -KILL $$", "exit code 137 (killed by SIGKILL: often out of memory)"),
        ("kill -USR1 $$", "exit code 138 (killed by signal 10)"),
    ],
)
def test_an_ended_job_tells_how_it_ended(queue: LocalQueue, script: str, said: str) -> None:
    queue.submit(script)
    queue.wait(1)

    assert "├── ended: " + said in queue.ok("why", "local", "1").lines


def test_a_cancelled_job_tells_who_cancelled_it(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.ok("cancel", "local", "2", "-y", env={"SKYQ_USER": "you"})

    assert "├── ended: cancelled by you" in queue.ok("why", "2").lines


def test_an_unknown_job_is_102(queue: LocalQueue) -> None:
    result = queue.run("why", "local", "99")

    assert (result.code, result.out) == (102, "")
    assert result.err == "Job 99 not found (see `skyq queue local -u`).\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing argument 'JOB'."),
        (["local", "x"], "Invalid job ID x. Job ID must be integers."),
        (["local", "1", "2"], "Got unexpected extra argument"),
    ],
)
def test_wrong_usage_exits_with_2(queue: LocalQueue, words: list[str], said: str) -> None:
    result = queue.run("why", *words)

    assert result.code == 2
    assert "Error: " + said in result.err
