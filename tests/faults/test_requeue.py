"""What a node could not start is tried again, from the beginning, and says why it waits."""

from __future__ import annotations

from tests.cluster import LocalQueue, kill
from tests.faults.truth import Truth


def obstacle(queue: LocalQueue, job: str) -> str:
    """What makes it impossible to start a job's script: a folder where its log should be."""
    folder = queue.state_dir / "logs" / job / "tasks" / "run.log"
    folder.mkdir(parents=True)
    return str(folder)


def test_a_job_that_can_not_start_waits_says_why_and_starts_when_it_can(queue: LocalQueue) -> None:
    truth = Truth(queue)
    queue.ok("exec", "local", "true")
    folder = obstacle(queue, "2-sky-cmd")
    job = queue.submit("--gpus", "H100:1", truth.script("exit 3"))
    queue.until(lambda: queue.job(job)["reason"], "it says why it waits")

    record = queue.job(job)
    assert record["reason"] == "Is a directory: %s" % folder
    assert (record["status"], record["start_at"]) == ("PENDING", None)
    queue.run("exec", "local", "rmdir %s" % folder)
    assert queue.wait(job, "FAILED")["exit_codes"] == [3]
    assert truth.starts() == {job: 1}


def test_what_runs_is_not_taken_for_unstarted_while_it_can_not_be_asked_for(queue: LocalQueue) -> None:
    """The node agent was killed, and the head's disk doesn't allow what comes before the question."""
    truth = Truth(queue)
    job = queue.submit("--gpus", "H100:1", truth.script(queue.until_open() + "; exit 3"))
    queue.until(lambda: truth.starts() == {job: 1}, "it runs")
    folder = queue.log_folder(job) / "tasks"
    aside = folder.rename(folder.with_name("aside"))
    folder.touch()
    kill(queue.node_agent())
    queue.until(lambda: "unable to start jobs" in queue.ok("status", "local").out, "it can't be asked for")
    folder.unlink()
    aside.rename(folder)
    queue.open_gate()

    assert queue.wait(job, "FAILED")["exit_codes"] == [3]
    assert (truth.starts(), truth.violations()) == ({job: 1}, [])


def test_one_job_that_can_never_start_keeps_no_other_from_starting(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")
    obstacle(queue, "2-sky-cmd")
    queue.submit("true")
    others = [queue.submit("true") for _ in range(5)]

    queue.wait_all(others, "SUCCEEDED")
    assert queue.job(2)["status"] != "SUCCEEDED"
    queue.ok("cancel", "local", "-y", "2")
    queue.wait(2, "CANCELLED")


def test_the_daemons_of_both_attempts_at_a_setup_end_with_the_job(queue: LocalQueue) -> None:
    """The word that the job is over is said to each attempt."""
    folder = queue.state_dir / "logs" / "1-task" / "tasks" / "run.log"
    setup = "setsid sleep 600 & [ -e ~/tried ] && rmdir %s || mkdir -p %s ~/tried" % (folder, folder)
    queue.file("task.yaml", "name: task\nsetup: %r\nrun: exit 4\n" % setup)
    queue.ok("launch", "-c", "local", "task.yaml", "-y", "-d")

    assert queue.wait(1, "FAILED")["exit_codes"] == [4]
    assert queue.job_processes() == []


def test_a_cancel_reaches_a_job_that_can_not_start(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")
    obstacle(queue, "2-sky-cmd")
    job = queue.submit("echo never")
    queue.until(lambda: queue.job(job)["reason"], "it has been tried")
    queue.ok("cancel", "local", "-y", str(job))

    assert queue.wait(job, "CANCELLED")["reason"] == "cancelled by me"
