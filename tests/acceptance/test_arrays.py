"""Many jobs by one command: arrays and sweeps, their rows, waiting for them and ending them."""

from __future__ import annotations

import os
import re
import signal

from tests.cluster import LocalQueue, kill

SAID = r"(\d+) jobs submitted, IDs: (\d+)-(\d+)"


def submit(queue: LocalQueue, *words: str) -> list[int]:
    """Ids of the array that `exec local -d` of these words makes."""
    found = re.search(SAID, queue.ok("exec", "local", "-d", *words).out)
    assert found is not None
    ids = list(range(int(found[2]), int(found[3]) + 1))
    assert len(ids) == int(found[1])
    return ids


def rows(queue: LocalQueue, *words: str) -> list[list[str]]:
    """The cells of the table."""
    return [re.split(r"  +", line) for line in queue.ok("queue", "local", *words).lines[2:]]


def test_each_job_of_an_array_knows_which_one_of_how_many_it_is(queue: LocalQueue) -> None:
    before = queue.submit("true")
    which = "echo $SKYQ_ARRAY_INDEX $SKYPILOT_JOB_RANK of $SKYQ_NUM_JOBS"
    ids = submit(queue, "-n", "part", "--array", "5-25:10", which)
    queue.wait_all(ids, "SUCCEEDED")

    assert ids == [before + 1, before + 2, before + 3]
    assert [queue.log(each) for each in ids] == ["5 0 of 3\n", "15 1 of 3\n", "25 2 of 3\n"]
    assert [queue.job(each)["job_name"] for each in ids] == ["part-5", "part-15", "part-25"]
    assert queue.job(ids[0])["array"] == {"first": 2, "count": 3, "at_once": 0, "last": 4}
    assert queue.job(before)["array"] is None
    assert "number 15 of the array 2-4" in queue.ok("why", "local", "3").out


def test_a_sweep_is_every_combination_over_the_envs_of_the_task(queue: LocalQueue) -> None:
    queue.file("task.yaml", "name: fit\nenvs: {lr: '9', kept: '1'}\nrun: echo $lr $seed $kept\n")
    ids = submit(queue, "task.yaml", "--sweep", "lr=1e-3,3e-3", "--sweep", "seed=0..1")
    queue.wait_all(ids, "SUCCEEDED")

    logs = [queue.log(each) for each in ids]
    assert logs == ["1e-3 0 1\n", "1e-3 1 1\n", "3e-3 0 1\n", "3e-3 1 1\n"]
    assert queue.job(ids[3])["job_name"] == "fit-lr-3e-3-seed-1"


def test_an_array_is_one_row_unless_each_is_asked_for(queue: LocalQueue) -> None:
    ids = submit(queue, "-n", "a", "--array", "0-5%2", queue.until_open() + "; [ $SKYQ_ARRAY_INDEX != 3 ]")
    other = queue.submit("-n", "b", queue.until_open("other"))
    queue.wait_all([*ids[:2], other], "RUNNING")

    newest, row = rows(queue)
    assert newest[0] == str(other)
    assert [row[0], row[1], row[7]] == ["1-6", "a-*", "RUNNING"]
    assert row[-1] == "2 run, 4 wait: 2 of its array may run at once, and do"
    assert len(rows(queue, "--each")) == 7
    queue.open_gate()
    queue.wait_all(ids)
    assert rows(queue, "local")[1][-1] == "1 failed, 5 succeeded"
    assert rows(queue, "-s")[0][0] == str(other) and len(rows(queue, "-s")) == 1


def test_never_more_of_an_array_run_than_may(queue: LocalQueue) -> None:
    queue.declare(cpus=64)
    count = "mkdir ~/run-$$ && ls -d ~/run-* | wc -l >>~/seen; sleep 0.02; rmdir ~/run-$$"
    ids = submit(queue, "--array", "1-20", "--at-once", "3", count)
    queue.wait_all(ids[:4], "SUCCEEDED")
    kill(queue.dispatcher())
    queue.ok("queue", "local")
    queue.wait_all(ids, "SUCCEEDED")

    seen = [int(number) for number in queue.until_file("seen").split()]
    assert len(seen) == 20 and max(seen) <= 3


def test_an_array_is_waited_for_and_its_worst_end_is_told(queue: LocalQueue) -> None:
    done = queue.run("exec", "local", "-n", "a", "--array", "0-3", "[ $SKYQ_ARRAY_INDEX != 2 ]")
    assert done.code == 100 and "Job 3 (a-2): FAILED: exit code 1" in done.lines
    assert queue.run("wait", "local", "1-4").code == 100
    assert queue.run("wait", "local", "4-9").code == 0
    assert queue.run("wait", "local", "7-9").code == 2
    ids = queue.ok("exec", "local", "-d", "-q", "--array", "0-1", "true").out.strip()
    assert ids == "5-6" and queue.run("wait", "local", ids).code == 0


def test_who_stops_waiting_for_an_array_does_not_stop_it(queue: LocalQueue) -> None:
    waiting = queue.start("exec", "local", "--array", "0-1", queue.until_open())
    queue.until(lambda: list(queue.states().values()) == ["RUNNING"] * 2, "both run")
    os.kill(waiting.pid, signal.SIGINT)
    waiting.communicate()
    queue.open_gate()
    queue.wait_all([1, 2], "SUCCEEDED")


def test_an_array_is_cancelled_held_and_waited_for_by_its_ids(queue: LocalQueue) -> None:
    ids = submit(queue, "--array", "0-11%2", queue.until_open())
    after = queue.submit("--after-any", "1-12", "true")
    queue.wait_all(ids[:2], "RUNNING")
    assert queue.job(after)["reason"].startswith(
        "waits for job 1 to end, for job 2 to end, for job 3 to end,"
    )
    queue.ok("hold", "local", "11-12")
    said = queue.ok("cancel", "local", "-y", "1-12").out

    assert "Cancelling jobs (1-12) on cluster 'local'..." in said
    queue.wait_all(ids, "CANCELLED")
    queue.wait(after, "SUCCEEDED")
    assert queue.run("cancel", "local", "-y", "100-200").code == 2


def test_the_jobs_of_an_array_share_a_folder_and_it_stays_while_one_needs_it(queue: LocalQueue) -> None:
    folder = queue.file("work/seed", "x\n").parent
    script = "cat seed >out-$SKYQ_ARRAY_INDEX; [ $SKYQ_ARRAY_INDEX = 0 ] || " + queue.until_open()
    ids = submit(queue, "--workdir", str(folder), "--array", "0-2", script)
    queue.wait(ids[0], "SUCCEEDED")
    (queue.user_home / "sky_workdir").unlink()  # nor does this link keep it
    queue.ok("clean", "local", "--older", "0s", "-y")
    copies = [path for path in queue.state_dir.glob("work/*") if path.is_dir()]
    queue.open_gate()
    queue.wait_all(ids, "SUCCEEDED")

    assert len(copies) == 1
    assert sorted(path.name for path in copies[0].iterdir()) == ["out-0", "out-1", "out-2", "seed"]
    queue.ok("clean", "local", "--older", "0s", "-y")
    assert not list(queue.state_dir.glob("work/*"))


def test_each_job_of_an_array_has_the_secrets_until_the_last_has_ended(queue: LocalQueue) -> None:
    script = "[ $SKYQ_ARRAY_INDEX = 0 ] || { %s; }; echo ${#TOKEN}" % queue.until_open()
    ids = submit(queue, "--secret", "TOKEN=s3cret", "--array", "0-2%2", script)
    queue.wait(ids[0], "SUCCEEDED")
    queue.open_gate()
    queue.wait_all(ids, "SUCCEEDED")

    assert [queue.log(each) for each in ids] == ["6\n"] * 3
    queue.until(lambda: not list(queue.state_dir.glob("secrets/*")), "the secrets are gone")


def test_one_of_an_array_is_run_once_more_as_it_was_but_alone(queue: LocalQueue) -> None:
    ids = submit(queue, "-n", "a", "--sweep", "x=a,b", "--at-once", "1", "echo $x $SKYQ_ARRAY_INDEX")
    queue.wait_all(ids, "SUCCEEDED")
    queue.ok("rerun", "local", "a-x-b")
    queue.wait(3, "SUCCEEDED")

    assert queue.log(3) == "b 1\n"
    assert (queue.job(3)["job_name"], queue.job(3)["array"]) == ("a-x-b", None)


def test_an_array_of_one_is_a_job(queue: LocalQueue) -> None:
    assert "jobs" not in queue.ok("exec", "local", "--dryrun", "--array", "5", "true").out
    done = queue.ok("exec", "local", "--array", "5", "echo at $SKYQ_ARRAY_INDEX")
    done.line("⚙︎ Job submitted, ID: 1")
    done.line(r"\(sky-cmd-5, pid=\d+\) at 5")
    assert queue.job(1)["job_name"] == "sky-cmd-5"


def test_what_makes_no_sense_leaves_nothing(queue: LocalQueue) -> None:
    folder = queue.file("work/seed", "x\n").parent
    for words in (
        ["--array", "9-0"],
        ["--sweep", "lr"],
        ["--at-once", "2"],
        ["--array", "0-20000"],
        ["--secret", "KEY=1", "--sweep", "KEY=2,3"],
        ["--env", "A=%s" % ("a" * 80_000), "--sweep", "B=b,%s" % ("b" * 60_000)],
    ):
        refused = queue.run("exec", "local", "-d", "--workdir", str(folder), *words, "true")
        assert refused.code == 1 and "Traceback" not in refused.err and refused.err.strip()
    assert queue.jobs() == {} and not list(queue.state_dir.glob("work/*"))
    said = queue.ok("exec", "local", "--dryrun", "--array", "0-9", "true").out
    assert "It would be 10 jobs. Of the first one:" in said and queue.jobs() == {}
