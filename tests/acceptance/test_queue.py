"""`skyq queue`: the table, its words, JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cluster import LocalQueue

HEADER = [
    *("ID", "NAME", "USER", "SUBMITTED", "STARTED", "DURATION"),
    *("RESOURCES", "STATUS", "LOG", "GIT COMMIT", "REASON"),
]


def cells(line: str) -> list[str]:
    """The cells of one line of the table."""
    return re.split(r"  +", line)


def test_an_empty_queue_is_a_title_and_no_rows(queue: LocalQueue) -> None:
    result = queue.ok("queue", "local")

    assert result.lines[0] == "Job queue of current user on cluster local"
    assert cells(result.lines[1]) == HEADER
    assert len(result.lines) == 2
    assert queue.ok("queue", "local", "-o", "json").json() == {"local": []}


def test_jobs_stand_newest_first_with_all_their_columns(queue: LocalQueue) -> None:
    queue.submit("-n", "first", "--gpus", "H100:0.5", "exit 0")
    queue.wait(1, "SUCCEEDED")
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.wait(2, "RUNNING")
    queue.file("unnamed.yaml", "resources: {accelerators: H100:2}\nrun: echo hi\n")
    queue.submit("unnamed.yaml")
    rows = [cells(line) for line in queue.ok("queue", "local").lines[2:]]

    assert [row[0] for row in rows] == ["3", "2", "1"]
    waiting, running, ended = rows
    assert waiting[1:3] == ["-", "me"]
    assert waiting[4:8] == ["-", "-", "1x[H100:2]", "PENDING"]
    assert waiting[9:] == ["-", "needs 2 H100 on one node; none free (job 2 holds 4)"]
    assert running[1] == "sky-cmd"
    assert running[4] in ("< 1 sec", "a few secs ago", "11 secs ago")
    assert running[6:8] == ["1x[H100:4]", "RUNNING"]
    assert ended[1] == "first"
    assert ended[6:8] == ["1x[H100:0.5]", "SUCCEEDED"]
    assert ended[9:] == ["-", "-"]


def test_the_reason_of_what_failed_stands_in_the_table(queue: LocalQueue) -> None:
    queue.submit("exit 3")
    queue.wait(1, "FAILED")

    assert cells(queue.ok("queue", "local").lines[2])[-1] == "exit code 3"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], "1x[CPU:1+]"),
        (["--cpus", "4"], "1x[CPU:4]"),
        (["--cpus", "4+"], "1x[CPU:4+]"),
        (["--gpus", "h100:2"], "1x[H100:2]"),
        (["--gpus", "GPU"], "1x[GPU:1]"),
    ],
)
def test_resources_are_what_the_job_asked_for(queue: LocalQueue, options: list[str], shown: str) -> None:
    queue.submit(*options, "true")

    assert queue.job(1)["resources"] == shown


def test_the_log_column_names_a_folder_that_exists(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.wait(1, "RUNNING")

    named = [cells(line)[8] for line in queue.ok("queue", "local").lines[2:]]
    assert len(named) == 2
    for folder, record in zip(named, queue.ok("queue", "-o", "json").json()["local"]):
        expanded = Path(folder.replace("~", str(queue.user_home), 1))
        assert expanded.is_dir()
        assert expanded == Path(record["log_path"])


def test_skip_finished_hides_what_has_ended(queue: LocalQueue) -> None:
    queue.submit("true")
    queue.wait(1, "SUCCEEDED")
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.wait(2, "RUNNING")

    assert [cells(line)[0] for line in queue.ok("queue", "local", "-s").lines[2:]] == ["3", "2"]
    assert len(queue.ok("queue", "local", "-s", "-o", "json").json()["local"]) == 2


def test_only_the_jobs_of_all_users_with_u(queue: LocalQueue) -> None:
    queue.submit("true")
    queue.submit("true", env={"SKYQ_USER": "you"})

    mine, everybodys = queue.ok("queue", "local"), queue.ok("queue", "local", "-u")
    assert [cells(line)[2] for line in mine.lines[2:]] == ["me"]
    assert everybodys.lines[0] == "Job queue of all users on cluster local"
    assert [cells(line)[2] for line in everybodys.lines[2:]] == ["you", "me"]


def test_json_is_an_object_of_lists_and_nothing_else(queue: LocalQueue) -> None:
    queue.submit("-n", "named", "--gpus", "H100:0.5", "exit 4")
    queue.wait(1, "FAILED")
    result = queue.ok("queue", "-o", "json")

    (record,) = result.json()["local"]
    assert result.out == json.dumps({"local": [record]}, indent=2) + "\n"
    assert result.err == ""
    assert {name: record[name] for name in ("job_id", "job_name", "username", "resources", "status")} == {
        "job_id": 1,
        "job_name": "named",
        "username": "me",
        "resources": "1x[H100:0.5]",
        "status": "FAILED",
    }
    assert record["submitted_at"] <= record["start_at"] <= record["end_at"]
    assert (record["reason"], record["exit_codes"]) == ("exit code 4", [4])
    assert record["nodes"][0]["devices"] == [{"index": 0, "amount": 0.5}]
    assert {"user_hash", "log_path", "metadata", "links"} <= record.keys()


def test_json_has_null_for_what_is_not_known_yet(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.file("unnamed.yaml", "resources: {accelerators: H100:2}\nrun: echo hi\n")
    queue.submit("unnamed.yaml")

    record = queue.job(2)
    assert [record[name] for name in ("job_name", "start_at", "end_at")] == [None, None, None]


@pytest.mark.parametrize("options", [[], ["-o", "json"]])
def test_an_unknown_cluster_is_an_error_and_says_nothing_on_stdout(
    queue: LocalQueue, options: list[str]
) -> None:
    result = queue.run("queue", "nowhere", *options)

    assert result.code == 1
    assert result.out == ""
    assert "Cluster 'nowhere' does not exist." in result.err


def test_one_broken_cluster_does_not_hide_the_others(queue: LocalQueue) -> None:
    queue.submit("true")
    result = queue.run("queue", "nowhere", "local")

    assert result.code == 1
    assert "Failed to get the job queue for cluster 'nowhere'." in result.err
    assert "Job queue of current user on cluster local" in result.lines


def test_a_job_that_is_being_cancelled_shows_it(queue: LocalQueue) -> None:
    queue.submit("trap '' TERM; echo set; while :; do sleep 1; done", env={"SKYQ_GRACE_S": "60"})
    queue.until(lambda: queue.log(1) == "set\n", "it ignores TERM")
    cancelling = queue.ok("cancel", "local", "1", "-y")
    record, row = queue.job(1), cells(queue.ok("queue", "local").lines[2])
    for process in queue.job_processes():
        if "sleep" in process.cmdline() or "--norc" in process.cmdline():
            process.kill()

    assert "Still ending: 1." in cancelling.out
    assert record["status"] == "RUNNING"
    assert record["cancel_requested_at"] is not None
    assert row[7] == "CANCELLING"
    queue.wait(1, "CANCELLED")


def test_a_hostile_name_or_user_does_nothing_to_the_terminal(queue: LocalQueue) -> None:
    queue.submit("true", env={"SKYQ_USER": "\x1b]0;title\x07\x1b[31mred\nline"})
    result = queue.ok("queue", "local", "-u")

    assert "\x1b" not in result.out
    assert len(result.lines) == 3


def test_a_job_whose_processes_vanished_is_not_shown_running(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:1", "sleep 600")
    queue.wait(1, "RUNNING")
    queue.until(lambda: len(queue.job_processes()) >= 2, "shim and script live")
    for process in [*queue.own_processes(), *queue.job_processes()]:
        process.kill()

    record = queue.wait(1, "FAILED_DRIVER", "FAILED")
    assert record["reason"]
