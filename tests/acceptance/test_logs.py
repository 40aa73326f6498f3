"""`skyq logs`: what it shows, where it begins, how it ends, what it exits with."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.cluster import LocalQueue, Result

UNKNOWN = "Job 99 not found (see `skyq queue local -u`).\n"


def ended(queue: LocalQueue, script: str, *options: str) -> int:
    """A job that has ended."""
    job_id = queue.submit(*options, script)
    queue.wait(job_id)
    return job_id


def shown(result: Result) -> list[str]:
    """What the log itself says, without prefixes."""
    return [line.partition(") ")[2] for line in result.lines if line.startswith("(")]


def read_until(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    """What a following command prints, as far as a line with the text."""
    assert process.stdout is not None
    read = b""
    while text not in read:
        line = process.stdout.readline()
        assert line, "it ended after %r" % read
        read += line
    return read


# Which job, and how it ends.


def test_logs_shows_the_latest_job_or_the_one_that_is_named(queue: LocalQueue) -> None:
    ended(queue, "echo first")
    ended(queue, "echo second")

    latest, named = queue.ok("logs", "local"), queue.ok("logs", "local", "1")
    assert latest.lines[0] == "Tailing logs of the last job on cluster 'local'..."
    assert named.lines[0] == "Tailing logs of job 1 on cluster 'local'..."
    assert (shown(latest), shown(named)) == (["second"], ["first"])
    assert latest.lines[-1] == named.lines[-1] == "✓ Job finished (status: SUCCEEDED)."


def test_logs_follows_until_the_job_ends(queue: LocalQueue) -> None:
    queue.submit("echo one; %s; echo two" % queue.until_open())
    process = queue.start("logs", "local")
    read_until(process, b") one\n")
    queue.open_gate()
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert b") two\n" in out
    assert out.endswith("✓ Job finished (status: SUCCEEDED).\n".encode())


def test_logs_exits_with_the_jobs_result(queue: LocalQueue) -> None:
    ended(queue, "exit 5")
    queue.submit("sleep 600")
    queue.ok("cancel", "local", "2", "-y")
    queue.wait(2, "CANCELLED")

    for options in ([], ["--no-follow"]):
        assert queue.run("logs", "local", "1", *options).code == 100
        assert queue.run("logs", "local", "2", *options).code == 103


def test_no_follow_prints_what_is_there_and_exits_with_0_while_the_job_runs(queue: LocalQueue) -> None:
    queue.submit("echo one; echo two; %s" % queue.until_open())
    queue.until(lambda: queue.log(1) == "one\ntwo\n", "it has written")
    result = queue.ok("logs", "local", "--no-follow")

    assert shown(result) == ["one", "two"]
    assert "Job finished" not in result.out


def test_an_unknown_job_is_102(queue: LocalQueue) -> None:
    none_yet = queue.run("logs", "local")
    assert (none_yet.code, none_yet.out) == (102, "Skip streaming logs as no job has been submitted.\n")
    ended(queue, "true")

    unknown = queue.run("logs", "local", "99")
    assert (unknown.code, unknown.out, unknown.err) == (102, "", UNKNOWN)


def test_a_job_can_be_named_by_its_name(queue: LocalQueue) -> None:
    ended(queue, "echo first", "-n", "first")
    ended(queue, "echo other", "-n", "other")

    assert shown(queue.ok("logs", "local", "first")) == ["first"]
    assert queue.ok("logs", "local", "first", "--status").out == "Job 1: SUCCEEDED\n"
    assert queue.ok("why", "first").lines[0] == "Job 1 (first): SUCCEEDED"


# --status.


def test_status_names_the_state_and_exits_with_its_code(queue: LocalQueue) -> None:
    ended(queue, "true")
    ended(queue, "false")
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.wait(3, "RUNNING")
    queue.ok("cancel", "local", "5", "-y")

    def status(*ids: str) -> tuple[str, int]:
        result = queue.run("logs", "local", *ids, "--status")
        return result.out, result.code

    assert status("1") == ("Job 1: SUCCEEDED\n", 0)
    assert status("2") == ("Job 2: FAILED\n", 100)
    assert status("3") == ("Job 3: RUNNING\n", 101)
    assert status("4") == ("Job 4: PENDING\n", 101)
    assert status() == status("5") == ("Job 5: CANCELLED\n", 103)


def test_status_of_an_unknown_job_is_102(queue: LocalQueue) -> None:
    none_yet = queue.run("logs", "local", "--status")
    assert (none_yet.out, none_yet.code) == ("No job found on cluster 'local'.\n", 102)

    unknown = queue.run("logs", "local", "99", "--status")
    assert (unknown.out, unknown.err, unknown.code) == ("Job 99: None\n", "Job 99 not found\n", 102)


# Wrong usage.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing argument '[CLUSTER]'."),
        (["local", "1", "2"], "Cannot stream logs of multiple jobs (IDs: 1, 2)."),
        (["local", "abc"], "Invalid job ID abc. Job ID must be integers."),
        (["local", "abc", "--status"], "Invalid job ID abc. Job ID must be integers."),
        (["local", "-s", "--status"], "Both --sync_down and --status are specified (ambiguous)."),
        (["local", "5x"], "Invalid job ID 5x. Job ID must be integers."),
        (["local", "--tail", "x"], "argument --tail: invalid int value: 'x'"),
        (["local", "--nope"], "No such option: --nope"),
    ],
)
def test_wrong_usage_exits_with_2(queue: LocalQueue, words: list[str], said: str) -> None:
    result = queue.run("logs", *words)

    assert result.code == 2
    assert "Error: " + said in result.err


def test_an_unknown_cluster_is_an_error(queue: LocalQueue) -> None:
    result = queue.run("logs", "nowhere")

    assert result.code == 1
    assert "Cluster 'nowhere' does not exist." in result.err


# How much.


@pytest.mark.parametrize("follow", ["--follow", "--no-follow"])
def test_tail_shows_the_last_lines(queue: LocalQueue, follow: str) -> None:
    ended(queue, "seq 20")

    assert shown(queue.ok("logs", "local", follow, "--tail", "3")) == ["18", "19", "20"]
    assert len(shown(queue.ok("logs", "local", follow, "--tail", "0"))) == 20
    assert len(shown(queue.ok("logs", "local", follow, "--tail", "100"))) == 20


def test_tail_shows_the_last_lines_and_follows(queue: LocalQueue) -> None:
    queue.submit("seq 20; %s; echo end" % queue.until_open())
    queue.until(lambda: queue.log(1).endswith("\n20\n"), "it has written")
    process = queue.start("logs", "local", "--tail", "2")
    first = read_until(process, b") 20\n")
    queue.open_gate()
    rest, _ = process.communicate(timeout=60)

    lines = (first + rest).decode().splitlines()
    assert shown(Result((), 0, "\n".join(lines), "")) == ["19", "20", "end"]


def test_following_a_long_log_begins_with_its_last_1000_lines_and_says_so(queue: LocalQueue) -> None:
    ended(queue, "seq 1500")
    followed, whole = queue.ok("logs", "local"), queue.ok("logs", "local", "--no-follow")

    assert shown(followed) == [str(number) for number in range(501, 1501)]
    assert followed.err == ("Showing the last 1000 lines (default). Pass --tail 0 to print the entire log.\n")
    assert len(shown(whole)) == 1500
    assert whole.err == ""
    assert queue.ok("logs", "local", "--tail", "0").err == ""


def test_an_attached_exec_shows_all_of_a_long_log(queue: LocalQueue) -> None:
    assert len(shown(queue.ok("exec", "local", "seq 3000"))) == 3000


# What lines look like.


def test_lines_have_the_name_and_the_pid(queue: LocalQueue) -> None:
    queue.file("unnamed.yaml", "setup: echo s\nrun: echo $PPID $$\n")
    queue.ok("launch", "-c", "local", "unnamed.yaml", "-d")
    queue.wait(1, "SUCCEEDED")
    queue.submit("-n", "named", "echo x")
    queue.wait(2, "SUCCEEDED")

    unnamed = queue.ok("logs", "local", "1")
    pid = unnamed.line(r"\(task, pid=(\d+)\) \d+ (\d+)")
    assert pid[1] == pid[2]
    unnamed.line(r"\(setup pid=\d+\) s")
    queue.ok("logs", "local", "2").line(r"\(named, pid=\d+\) x")


def test_there_are_no_colours_but_on_a_terminal(queue: LocalQueue) -> None:
    assert "\x1b" not in queue.ok("exec", "local", "echo x").out


def test_progress_bars_crlf_and_bad_utf8_arrive(queue: LocalQueue) -> None:
    script = r"printf '10%%\r20%%\r30%%\n'; printf 'dos\r\n'; printf 'bad \xff\xfe\n'; printf 'no newline'"
    ended(queue, script)
    out, _ = queue.start("logs", "local").communicate(timeout=60)

    assert queue.raw_log(1) == b"10%\r20%\r30%\ndos\r\nbad \xff\xfe\nno newline"
    assert b") 10%\r20%\r30%\n" in out
    assert b") dos\n" in out
    assert b") bad \xff\xfe\n" in out  # into a pipe go the job's own bytes
    assert ") no newline\n✓ Job finished".encode() in out


def test_a_line_of_300_kb_arrives_whole(queue: LocalQueue) -> None:
    result = queue.ok("exec", "local", "--", "python3", "-c", "print('x' * 300_000); print('after')")

    assert [len(line) for line in shown(result)] == [300_000, 5]


def test_a_line_is_on_the_screen_while_the_job_runs(queue: LocalQueue) -> None:
    process = queue.start("exec", "local", "printf 'step 1'; %s; echo ' done'" % queue.until_open())
    assert process.stdout is not None
    read = b""
    while b") step 1" not in read:  # no newline yet: an unfinished line is shown too
        more = process.stdout.read1()  # type: ignore[attr-defined]
        assert more, "it ended: %r" % read
        read += more
    assert queue.job(1)["status"] == "RUNNING"
    queue.open_gate()
    rest, _ = process.communicate(timeout=60)

    assert b"step 1 done\n" in read + rest


def test_lines_arrive_as_far_apart_as_they_were_written(queue: LocalQueue) -> None:
    process = queue.start("exec", "local", "echo one; sleep 1; echo two")
    read_until(process, b") one\n")
    began = time.monotonic()
    read_until(process, b") two\n")
    process.communicate(timeout=60)

    # A lower bound, which no load can break: buffered output would bring both lines together.
    assert time.monotonic() - began > 0.5


# Waiting, leaving, coming back.


def test_logs_of_a_waiting_job_waits_and_says_why(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:4", queue.until_open())
    queue.wait(1, "RUNNING")
    queue.submit("--gpus", "H100:2", "echo mine")
    process = queue.start("logs", "local", "2")
    read = read_until(process, b"needs")
    queue.open_gate()
    rest, _ = process.communicate(timeout=60)

    assert "│   needs 2 H100 on one node; none free (job 1 holds 4)\n" in read.decode()
    assert b") mine\n" in rest
    assert process.returncode == 0


def test_logs_of_a_job_cancelled_while_it_waited_shows_its_end(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.submit("--gpus", "H100:4", "echo never")
    following = queue.start("logs", "local", "2")
    read_until(following, b"Waiting for task resources")
    queue.ok("cancel", "local", "2", "-y")
    out, _ = following.communicate(timeout=60)
    afterwards = queue.run("logs", "local", "2")

    assert following.returncode == afterwards.code == 103
    for text in (out.decode(), afterwards.out):
        assert text.endswith("✓ Job finished (status: CANCELLED).\n")
        assert "never" not in text


def test_ctrl_c_on_logs_leaves_the_job_running(queue: LocalQueue) -> None:
    queue.submit("echo one; sleep 600")
    process = queue.start("logs", "local")
    read_until(process, b") one\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (1, b"Aborted!\n")
    assert queue.job(1)["status"] == "RUNNING"


def test_a_reader_that_has_seen_enough_is_no_error(queue: LocalQueue) -> None:
    ended(queue, "seq 100000")
    process = queue.start("logs", "local", "--no-follow")
    read_until(process, b") 5\n")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(60)

    assert err == b""


def test_logs_survive_the_client_that_started_the_job(queue: LocalQueue) -> None:
    process = queue.start("exec", "local", "echo one; %s; echo two" % queue.until_open())
    read_until(process, b") one\n")
    process.kill()
    process.communicate()
    queue.open_gate()
    queue.wait(1, "SUCCEEDED")

    assert shown(queue.ok("logs", "local", "1")) == ["one", "two"]


# --sync-down.


def test_sync_down_copies_the_logs_of_several_jobs(queue: LocalQueue) -> None:
    queue.file("task.yaml", "name: both\nsetup: echo s\nrun: echo r\n")
    queue.ok("launch", "-c", "local", "task.yaml", "-d")
    queue.submit("echo 2")
    queue.wait_all([1, 2], "SUCCEEDED")
    result = queue.ok("logs", "local", "-s", "1", "2")

    home = queue.user_home / "sky_logs" / "local"
    assert result.lines == [
        "Syncing down logs to local...",
        "Job 1 logs: %s" % (home / "1-both"),
        "Job 2 logs: %s" % (home / "2-sky-cmd"),
    ]
    assert (home / "1-both/tasks/setup.log").read_text() == "s\n"
    assert (home / "1-both/tasks/run.log").read_text() == "r\n"
    merged = Result((), 0, (home / "1-both/run.log").read_text(), "")
    assert shown(merged) == ["s", "r"]


def test_sync_down_takes_the_latest_job_or_patterns(queue: LocalQueue) -> None:
    for number in range(3):
        ended(queue, "echo %d" % number)

    assert queue.ok("logs", "local", "-s").lines[-1].startswith("Job 3 logs: ")
    assert len(queue.ok("logs", "local", "-s", "[12]").lines) == 3
    nothing = queue.ok("logs", "local", "-s", "77")
    assert nothing.out == "No matching log directories found\n"
