"""`skyq cancel`: which jobs, what it says, and that nothing of them is left."""

from __future__ import annotations

import pytest

from tests.cluster import LocalQueue, dead


def running(queue: LocalQueue, *options: str) -> int:
    """A job that runs until it is cancelled."""
    job_id = queue.submit(*options, "sleep 600")
    queue.wait(job_id, "RUNNING")
    return job_id


def test_cancel_ends_the_jobs_that_are_named(queue: LocalQueue) -> None:
    for _ in range(3):
        running(queue)
    result = queue.ok("cancel", "local", "1", "3", "-y")

    assert result.out == ("Cancelling jobs (1, 3) on cluster 'local'...\nCancelled job ID(s): 3, 1\n")
    assert queue.states() == {1: "CANCELLED", 2: "RUNNING", 3: "CANCELLED"}
    assert queue.job(1)["reason"] == "cancelled by me"


def test_without_ids_the_latest_running_job_is_cancelled(queue: LocalQueue) -> None:
    running(queue, "--gpus", "H100:2")
    running(queue, "--gpus", "H100:2")
    queue.submit("--gpus", "H100:4", "sleep 600")
    running(queue)
    queue.ok("cancel", "local", "-y")
    result = queue.ok("cancel", "local", "-y")

    first_line = "No job IDs or --all/--all-users provided; cancelling the latest running job."
    assert result.lines == [
        first_line,
        "Cancelling jobs (2) on cluster 'local'...",
        "Cancelled job ID(s): 2",
    ]
    assert queue.states() == {1: "RUNNING", 2: "CANCELLED", 3: "PENDING", 4: "CANCELLED"}


def test_all_means_mine_and_all_users_means_everybodys(queue: LocalQueue) -> None:
    running(queue)
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.submit("--gpus", "H100:4", "sleep 600")
    theirs = queue.submit("sleep 600", env={"SKYQ_USER": "you"})
    queue.wait(theirs, "RUNNING")

    queue.ok("cancel", "local", "-a", "-y")
    assert queue.states() == {1: "CANCELLED", 2: "CANCELLED", 3: "CANCELLED", 4: "RUNNING"}
    queue.ok("cancel", "local", "-u", "-y")
    assert queue.states()[4] == "CANCELLED"


def test_no_ids_never_means_somebody_elses_job(queue: LocalQueue) -> None:
    theirs = queue.submit("sleep 600", env={"SKYQ_USER": "you"})
    queue.wait(theirs, "RUNNING")
    result = queue.ok("cancel", "local", "-y")

    assert result.lines[-1] == "No jobs cancelled. They may be in terminal states."
    assert queue.states() == {1: "RUNNING"}


def test_jobs_can_be_named_by_name_and_pattern_but_only_mine(queue: LocalQueue) -> None:
    for name in ("sweep-1", "sweep-2", "other"):
        running(queue, "-n", name)
    theirs = queue.submit("-n", "sweep-3", "sleep 600", env={"SKYQ_USER": "you"})
    queue.wait(theirs, "RUNNING")
    queue.ok("cancel", "local", "sweep-*", "-y")
    assert queue.states() == {1: "CANCELLED", 2: "CANCELLED", 3: "RUNNING", 4: "RUNNING"}

    queue.ok("cancel", "local", "other", "-y")
    assert queue.states()[3] == "CANCELLED"


def test_what_has_ended_or_never_was_is_no_error(queue: LocalQueue) -> None:
    queue.submit("true")
    queue.wait(1, "SUCCEEDED")
    result = queue.ok("cancel", "local", "1", "99", "9" * 30, "-y")

    assert result.lines[-1] == "No jobs cancelled. They may be in terminal states."
    assert queue.states() == {1: "SUCCEEDED"}


@pytest.mark.parametrize(("answer", "state"), [("y\n", "CANCELLED"), ("\n", "CANCELLED"), ("n\n", "RUNNING")])
def test_it_asks_first_and_yes_is_the_default(queue: LocalQueue, answer: str, state: str) -> None:
    running(queue)
    result = queue.run("cancel", "local", "1", input=answer)

    assert result.out.startswith("Cancelling job 1 on cluster(s): local. Proceed? [Y/n]: ")
    assert result.code == (0 if state == "CANCELLED" else 1)
    assert queue.states() == {1: state}


def test_without_anybody_to_answer_nothing_is_cancelled(queue: LocalQueue) -> None:
    running(queue)
    result = queue.run("cancel", "local", "1")

    assert (result.code, result.err) == (1, "Aborted!\n")
    assert queue.states() == {1: "RUNNING"}


@pytest.mark.parametrize(
    ("options", "question"),
    [
        ([], "the latest running job"),
        (["-a"], "all your jobs"),
        (["-u"], "all users' jobs"),
        (["1", "2"], "jobs 1 2"),
    ],
)
def test_the_question_says_what_it_is_about(queue: LocalQueue, options: list[str], question: str) -> None:
    result = queue.run("cancel", "local", *options, input="n\n")

    assert "Cancelling %s on cluster(s): local. Proceed? [Y/n]: " % question in result.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing argument 'CLUSTER'."),
        (["local", "x"], "Invalid value for '[JOBS]...': 'x' is not a valid integer."),
        (["local", "-1"], "Invalid value for '[JOBS]...': '-1' is not a valid integer."),
        (["local", "1", "--nope"], "No such option: --nope"),
    ],
)
def test_wrong_usage_exits_with_2(queue: LocalQueue, words: list[str], said: str) -> None:
    result = queue.run("cancel", *words)

    assert result.code == 2
    assert "Error: " + said in result.err


def test_ids_together_with_all_are_refused(queue: LocalQueue) -> None:
    running(queue)
    result = queue.run("cancel", "local", "1", "-a", "-y")

    assert result.code == 2
    assert "Cannot specify both --all and job IDs." in result.err
    assert queue.states() == {1: "RUNNING"}


def test_a_waiting_job_is_cancelled_and_never_starts(queue: LocalQueue) -> None:
    running(queue, "--gpus", "H100:4")
    waiting = queue.submit("--gpus", "H100:4", "touch ~/ran")
    queue.ok("cancel", "local", str(waiting), "-y")

    assert queue.states()[waiting] == "CANCELLED"
    queue.ok("cancel", "local", "1", "-y")
    queue.ok("exec", "local", "--gpus", "H100:4", "true")
    assert not (queue.user_home / "ran").exists()
    assert queue.job(waiting)["start_at"] is None


def test_a_job_that_sets_up_is_cancelled_and_never_runs(queue: LocalQueue) -> None:
    queue.file("task.yaml", "setup: echo there; sleep 600\nrun: touch ~/ran\n")
    queue.ok("launch", "-c", "local", "task.yaml", "-d")
    queue.until(lambda: queue.log(1, "setup.log") == "there\n", "setup runs")
    queue.ok("cancel", "local", "1", "-y")

    assert queue.wait(1, "CANCELLED")["start_at"] is None
    assert queue.job_processes() == []
    assert not (queue.user_home / "ran").exists()


HIDING_PLACES = {
    "a background process": "sleep 600 & ",
    "nohup": "nohup sleep 600 >/dev/null 2>&1 & ",
    "a session of its own": "setsid sleep 600 & ",
    "a double fork": "(setsid sleep 600 & ) ; ",
    "a cleared environment": "env -i setsid sleep 600 </dev/null >/dev/null 2>&1 & cd /; ",
    "a subshell that ignores TERM": "(trap '' TERM; while :; do sleep 1; done) & ",
}


def test_when_it_is_cancelled_nothing_that_it_started_is_alive(queue: LocalQueue) -> None:
    neighbour = queue.submit("--gpus", "H100:1", "echo ready; exec sleep 600")
    queue.until(lambda: queue.log(neighbour) == "ready\n", "the neighbour runs")
    theirs = {process.pid for process in queue.job_processes()}
    script = "".join(HIDING_PLACES.values()) + "trap '' TERM; echo hidden; while :; do sleep 1; done"
    queue.submit("--gpus", "H100:1", script)
    queue.until(lambda: queue.log(2) == "hidden\n", "all have hidden")
    started = [process for process in queue.job_processes() if process.pid not in theirs]
    assert len(started) > len(HIDING_PLACES)
    queue.run("cancel", "local", "2", "-y")
    queue.wait(2, "CANCELLED")

    assert [process for process in started if not dead(process)] == []
    assert theirs <= {process.pid for process in queue.job_processes()}
    assert queue.states()[neighbour] == "RUNNING"


def test_devices_are_given_out_again_only_when_the_processes_are_gone(queue: LocalQueue) -> None:
    stubborn = "trap '' TERM; echo set; while :; do sleep 0.1; done"
    queue.submit("--gpus", "H100:4", stubborn, env={"SKYQ_GRACE_S": "60"})
    queue.until(lambda: queue.log(1) == "set\n", "it ignores TERM")
    old = queue.job_processes()
    waiting = queue.submit("--gpus", "H100:4", "true")
    queue.run("cancel", "local", "1", "-y")

    assert queue.states() == {1: "RUNNING", waiting: "PENDING"}
    shell = next(process for process in old if "--norc" in process.cmdline())
    shell.kill()
    queue.wait(1, "CANCELLED")
    queue.wait(waiting, "SUCCEEDED")


def test_a_job_may_clean_up_and_is_cancelled_even_if_it_exits_with_0(queue: LocalQueue) -> None:
    queue.submit("trap 'echo saved; exit 0' TERM; echo set; while :; do sleep 0.05; done")
    queue.until(lambda: queue.log(1) == "set\n", "it listens")
    queue.ok("cancel", "local", "1", "-y")
    queue.wait(1, "CANCELLED")

    assert queue.log(1).endswith("saved\n")


def test_a_job_that_ended_by_itself_keeps_its_result(queue: LocalQueue) -> None:
    queue.submit("exit 0")
    queue.wait(1, "SUCCEEDED")
    queue.submit("exit 4")
    queue.wait(2, "FAILED")
    queue.ok("cancel", "local", "1", "2", "-y")

    assert queue.states() == {1: "SUCCEEDED", 2: "FAILED"}


def test_a_job_that_is_cancelled_in_its_bashrc_never_runs(queue: LocalQueue) -> None:
    """A ~/.bashrc that ends the shell is left out at a second try; a cancel is no such end."""
    queue.bashrc("touch ~/in-bashrc; sleep 600")
    job = queue.submit("touch ~/ran; sleep 600")
    queue.until((queue.user_home / "in-bashrc").exists, "~/.bashrc is read")
    queue.ok("cancel", "local", "-y", str(job))
    queue.wait(job, "CANCELLED")
    assert not (queue.user_home / "ran").exists()
