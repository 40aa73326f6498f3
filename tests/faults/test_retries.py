"""A job that failed or was lost is run again, where asked for: same id, same folder, its logs kept."""

from __future__ import annotations

import pytest

from tests.cluster import LocalQueue, kill, words_of
from tests.faults.truth import Truth

ENDS_WITH_3_UNTIL = "echo attempt $SKYQ_ATTEMPT; [ $SKYQ_ATTEMPT = %d ] || exit 3"


def test_a_failing_job_is_run_again_until_it_succeeds(queue: LocalQueue) -> None:
    shown = queue.ok("exec", "local", "--retries", "5", "--", ENDS_WITH_3_UNTIL % 3)

    record = queue.job(1)
    assert (record["status"], record["attempt"], record["retries"]) == ("SUCCEEDED", 3, 5)
    assert queue.raw_log(1) == b"attempt 1\n"
    for number in (2, 3):
        text = (queue.log_folder(1) / ("attempt-%d" % number) / "tasks" / "run.log").read_text()
        assert text == "attempt %d\n" % number
    words = [line.split(") ")[-1] for line in shown.lines[1:] if "attempt " in line.lower()]
    first, second = ("Attempt %d ended: exit code 3. Attempt %d follows." % (n, n + 1) for n in (1, 2))
    assert words == [
        *("attempt 1", first + " That is retry 1 of 5."),
        *("attempt 2", second + " That is retry 2 of 5."),
        "attempt 3",
    ]


def test_after_the_last_retry_it_has_failed_and_tells_of_each_attempt(queue: LocalQueue) -> None:
    assert queue.run("exec", "local", "--retries", "1", "--", ENDS_WITH_3_UNTIL % 9).code == 100

    record = queue.job(1)
    assert (record["exit_codes"], record["reason"]) == ([3], "exit code 3, in attempt 2")
    assert "├── attempt 1 ended: exit code 3" in queue.ok("why", "local", "1").lines
    first = queue.run("logs", "local", "1", "--attempt", "1")
    last = queue.run("logs", "local", "1", "--no-follow")
    assert (first.code, last.code) == (100, 100)
    assert "attempt 1" in first.out and "attempt 2" not in first.out and "attempt 2" in last.out
    third = queue.run("logs", "local", "1", "--attempt", "3")
    assert (third.code, third.err.strip()) == (2, "Job 1 has no attempt 3. There are 2.")


def test_its_secrets_and_what_it_wrote_are_there_in_each_attempt(queue: LocalQueue) -> None:
    folder = queue.file("work/seed", "").parent
    script = 'echo "$TOKEN" >>kept; [ $(wc -l <kept) = 2 ] && grep -c hush kept'
    words = ("--retries", "1", "--secret", "TOKEN=hush", "--workdir", str(folder), "--", script)
    queue.ok("exec", "local", *words)

    text = (queue.log_folder(1) / "attempt-2" / "tasks" / "run.log").read_text()
    assert text == "2\n"
    assert not list((queue.state_dir / "secrets").iterdir())


def test_a_failed_setup_is_a_failure_too(queue: LocalQueue) -> None:
    queue.file("t.yaml", "setup: '[ $SKYQ_ATTEMPT = 2 ]'\nrun: echo ran\n")
    queue.ok("launch", "-c", "local", "t.yaml", "-y", "--retries", "1")

    assert (queue.job(1)["status"], queue.job(1)["attempt"]) == ("SUCCEEDED", 2)


def test_skypilots_job_recovery_is_taken_at_its_word(queue: LocalQueue) -> None:
    """Codes that ask for another attempt don't count as restarts on errors."""
    recovery = "{strategy: FAILOVER, max_restarts_on_errors: 1, recover_on_exit_codes: [33]}"
    script = "[ $SKYQ_ATTEMPT -lt 3 ] && exit 33; [ $SKYQ_ATTEMPT -lt 4 ] && exit 1; exit 2"
    queue.file("t.yaml", "resources: {job_recovery: %s}\nrun: '%s'\n" % (recovery, script))
    queue.run("exec", "local", "t.yaml")

    record = queue.job(1)
    assert (record["attempt"], record["exit_codes"], record["requeue"]) == (4, [2], True)


@pytest.mark.parametrize("words", [("--retries", "3"), ("--requeue",)])
def test_a_cancelled_job_is_not_run_again(queue: LocalQueue, words: tuple[str, ...]) -> None:
    truth = Truth(queue)
    job = queue.submit(*words, "trap 'exit 5' TERM; %s sleep 600 & wait" % truth.script())
    queue.until(lambda: truth.starts() == {job: 1}, "it runs")
    queue.ok("cancel", "local", "-y", str(job))

    assert queue.wait(job, "CANCELLED", "FAILED")["attempt"] == 1
    assert truth.starts() == {job: 1}


def test_a_cancel_between_two_attempts_ends_it(queue: LocalQueue) -> None:
    """Somebody else has the device by then."""
    queue.declare(H100=1)
    job = queue.submit("--retries", "9", "--gpus", "H100:1", queue.until_open() + "; exit 3")
    queue.wait(job, "RUNNING")
    other = queue.submit("--gpus", "H100:1", "--priority", "9", "sleep 600")
    queue.open_gate()
    queue.wait(other, "RUNNING")

    assert queue.wait(job, "PENDING")["reason"].startswith("attempt 1: exit code 3; ")
    queue.ok("cancel", "local", "-y", str(job))
    assert queue.wait(job, "CANCELLED")["attempt"] == 2
    queue.ok("cancel", "local", "-y", str(other))


@pytest.mark.parametrize("words, ends", [((), "FAILED_DRIVER"), (("--requeue",), "SUCCEEDED")])
def test_a_job_whose_shim_was_killed_is_run_again_where_asked_for(
    queue: LocalQueue, words: tuple[str, ...], ends: str
) -> None:
    truth = Truth(queue)
    queue.declare(H100=1)
    job = queue.submit(*words, "--gpus", "H100:1", truth.script("[ $SKYQ_ATTEMPT = 2 ] || sleep 600"))
    queue.until(lambda: truth.starts() == {job: 1}, "it runs")
    kill(next(process for process in queue.job_processes() if "_node" in words_of(process)))

    assert queue.wait(job, ends)["attempt"] == 1 + bool(words)
    assert (truth.violations(), truth.starts()[job]) == ([], 1 + bool(words))


def test_the_dispatcher_may_be_killed_between_two_attempts(queue: LocalQueue) -> None:
    truth = Truth(queue)
    job = queue.submit("--retries", "200", truth.script("[ -e ~/enough ] || exit 3"))
    for starts in (5, 10, 15):
        queue.until(lambda least=starts: truth.starts()[job] >= least, "it was started again")  # type: ignore[misc]
        kill(queue.dispatcher())
        queue.ok("queue", "local")
    queue.file("enough", "")
    queue.ok("exec", "local", "touch ~/enough")

    record = queue.wait(job, "SUCCEEDED")
    assert truth.violations() == [] and truth.starts()[job] == record["attempt"]


@pytest.mark.parametrize("count", ["-1", "1001"])
def test_a_number_of_retries_that_makes_no_sense_is_refused(queue: LocalQueue, count: str) -> None:
    refused = queue.run("exec", "local", "--retries", count, "true")

    assert refused.code == 1
    assert "Retries should be a number from 0 to 1000. Got: %s" % count in refused.err
    assert queue.run("queue", "local", "-o", "json").json() == {"local": []}
