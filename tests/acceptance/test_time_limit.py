"""A job with a time limit ends when that is reached, and is planned for as one that does."""

from __future__ import annotations

import pytest

from tests.cluster import LocalQueue, kill

SAVES = "trap 'echo saved >> ~/notes; exit 0' TERM; echo on; while :; do sleep 0.05; done"
LIMIT = "4s"
"""Enough for bash to come to its trap, on a busy machine too."""


def test_a_job_that_reaches_its_limit_has_failed_and_says_so(queue: LocalQueue) -> None:
    shown = queue.run("exec", "local", "--time", LIMIT, SAVES)
    assert shown.code == 100
    shown.line(r"ERROR: Job 1 failed with return code list: \[0\] \(time limit of 4s reached\)")

    record = queue.job(1)
    assert (record["status"], record["reason"]) == ("FAILED", "time limit of 4s reached")
    assert (record["exit_codes"], record["time_limit"]) == ([0], 4)
    assert "├── ended: time limit of 4s reached" in queue.ok("why", "1").lines
    assert queue.until_file("notes") == "saved\n"


def test_who_ends_in_time_has_succeeded(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "--time", "1h", "--signal", "USR1@5m", "echo hi")

    assert queue.job(1)["status"] == "SUCCEEDED"


def test_the_signal_comes_first_and_who_leaves_at_it_ends_as_it_likes(queue: LocalQueue) -> None:
    script = "trap 'echo asked; exit 0' USR1; while :; do sleep 0.05; done"
    queue.ok("exec", "local", "--time", "10m", "--signal", "USR1@597", script)

    assert queue.job(1)["status"] == "SUCCEEDED"
    assert "asked" in queue.log(1)


def test_a_task_file_has_its_limit_and_its_signal(queue: LocalQueue) -> None:
    queue.file("t.yaml", "time_limit: 4s\nsignal: SIGUSR1@2s\nrun: |\n  trap 'echo asked' USR1\n  " + SAVES)
    assert queue.run("exec", "local", "t.yaml").code == 100
    assert queue.job(1)["reason"] == "time limit of 4s reached"
    assert "asked" in queue.log(1)

    queue.file("t.yaml", "time_limit: 90\nrun: a")
    refused = queue.run("exec", "local", "t.yaml")
    assert refused.code == 1 and "can be read in two ways" in refused.err and "line 1" in refused.err


def test_a_setup_has_the_same_limit_on_its_own(queue: LocalQueue) -> None:
    queue.file("t.yaml", "setup: sleep 3\nrun: sleep 3; echo ran")
    queue.ok("launch", "-c", "local", "t.yaml", "-y", "--time", "5s")
    queue.file("t.yaml", "setup: sleep 600\nrun: echo ran")
    shown = queue.run("launch", "-c", "local", "t.yaml", "-y", "--time", "2s")
    assert shown.code == 100 and ", time limit of 2s reached)." in shown.out

    record = queue.job(2)
    assert (record["status"], record["reason"]) == ("FAILED_SETUP", "setup failed: time limit of 2s reached")


def test_who_has_had_its_time_is_not_run_again_but_rerun_gives_it_as_much(queue: LocalQueue) -> None:
    queue.run("exec", "local", "--time", "1s", "--retries", "3", "--requeue", "sleep 600")
    record = queue.job(1)
    assert (record["status"], record["attempt"]) == ("FAILED", 1)
    queue.ok("rerun", "local", "1")
    assert queue.wait(2, "FAILED")["reason"] == "time limit of 1s reached"


def test_who_leaves_before_its_limit_with_a_code_that_asks_for_it_goes_on_in_another_attempt(
    queue: LocalQueue,
) -> None:
    queue.file(
        "t.yaml",
        "time_limit: 10m\nsignal: USR1@597\nresources: {job_recovery: {recover_on_exit_codes: [33]}}\n"
        "run: |\n  trap 'exit 33' USR1\n  [ $SKYQ_ATTEMPT = 2 ] && exit 0\n  while :; do sleep 0.05; done",
    )
    queue.ok("exec", "local", "t.yaml")

    assert queue.job(1)["attempt"] == 2


@pytest.mark.parametrize("who", ["dispatcher", "node agent", "both"])
def test_it_ends_in_time_whoever_is_killed(queue: LocalQueue, who: str) -> None:
    job = queue.submit("--time", LIMIT, SAVES)
    queue.wait(job, "RUNNING")
    found = {"dispatcher": queue.dispatcher(), "node agent": queue.node_agent()}
    for name, process in found.items():
        if who in (name, "both"):
            kill(process)
    queue.until_file("notes")  # nobody asks the queue for anything before that

    assert queue.wait(job, "FAILED")["reason"] == "time limit of 4s reached"


def test_a_cancel_ends_it_before(queue: LocalQueue) -> None:
    job = queue.submit("--time", "1h", SAVES)
    queue.wait(job, "RUNNING")
    queue.ok("cancel", "local", "-y", str(job))

    assert queue.wait(job, "CANCELLED")["reason"] == "cancelled by me"


def test_what_makes_no_sense_is_refused_and_nothing_is_queued(queue: LocalQueue) -> None:
    for words in (
        ("--time", "90"),
        ("--time", "soon"),
        ("--signal", "USR1"),
        ("--time", "1m", "--signal", "KILL"),
    ):
        refused = queue.run("exec", "local", *words, "true")
        assert refused.code == 1 and "Traceback" not in refused.err, refused
    assert queue.jobs() == {}


# What others plan by it.


def test_why_tells_when_it_starts_at_the_latest_also_after_the_dispatcher_was_killed(
    queue: LocalQueue,
) -> None:
    queue.submit("--gpus", "H100:4", "--time", "2h", "sleep 600")
    queue.submit("--gpus", "H100:4", "--time", "1h", "sleep 600")
    queue.submit("--gpus", "H100:1", "sleep 600")
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.wait(1, "RUNNING")

    def told(job_id: int) -> str:
        return queue.ok("why", str(job_id)).lines[-1]

    def is_known() -> bool:
        return told(3).startswith("└── starts in 3h 1m if all that is before it lasts")

    queue.until(is_known, "it is told when job 3 starts")
    assert told(2).startswith("└── starts in 2h 1m if ")
    assert told(4).startswith("└── waits: needs 4 H100")  # job 3 may last for ever
    assert "├── asked for 1x[H100:4], 1h at most" in queue.ok("why", "2").out
    running = queue.ok("why", "1")
    running.line(r"├── its time limit ends it in (2h|1h 59m)")
    kill(queue.dispatcher())
    queue.until(is_known, "it is told again")

    def is_forecast() -> bool:  # the new dispatcher knows it from the node, a moment later
        dry = queue.ok("exec", "local", "--dryrun", "--gpus", "H100:1", "true")
        return " It would start in 3h 1m if " in dry.out

    queue.until(is_forecast, "it is told to who only asks, too")
    queue.ok("pause", "local")
    assert "starts in" not in queue.ok("why", "3").out


def test_who_ends_in_time_may_use_what_is_kept_for_another(queue: LocalQueue) -> None:
    queue.ok("config", "local", "reserve_after=0s")
    queue.declare(H100=2)
    queue.submit("--gpus", "H100:1", "--time", "1h", queue.until_open())
    large = queue.submit("--gpus", "H100:2", "true")
    queue.wait(queue.submit("--gpus", "H100:1", "--time", "1h", "true"), "SUCCEEDED")
    long = queue.submit("--gpus", "H100:1", "--time", "2h", "true")
    endless = queue.submit("--gpus", "H100:1", "true")
    short = queue.submit("--gpus", "H100:1", "--time", "30m", "true")

    queue.wait(short, "SUCCEEDED")
    kept = "localhost is kept for job %d, which others have overtaken" % large
    assert (queue.job(long)["reason"], queue.job(endless)["reason"]) == (kept, kept)
    kill(queue.dispatcher())  # the next one learns of the nodes how long job 1 may still last
    queue.wait(queue.submit("--gpus", "H100:1", "--time", "30m", "true"), "SUCCEEDED")
    assert queue.job(long)["reason"] == kept
    queue.open_gate()
    queue.wait_all([large, long, endless], "SUCCEEDED")
    assert queue.job(long)["start_at"] >= queue.job(large)["end_at"]
