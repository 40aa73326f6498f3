"""`skyq down`: everything ends and goes, but what jobs wrote goes only if that is wanted."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest

from tests.cluster import LocalQueue, Result, kill

ASKED = "Terminating 1 cluster: local. Proceed? [Y/n]: "
REMOVE = "Remove that too? [y/N]: "


def left(queue: LocalQueue) -> list[str]:
    """What is in SKYQ_HOME besides the user's own inventory and the unpacked code."""
    return sorted(path.name for path in queue.home.iterdir() if path.name not in ("app", "pools.yaml"))


def script(queue: LocalQueue) -> int:
    """The pid of the one script that runs; 0: none does yet."""
    pids = [p.pid for p in queue.job_processes() if any("prelude.sh" in word for word in p.cmdline())]
    return pids[0] if len(pids) == 1 else 0


def refused(queue: LocalQueue) -> Result:
    """A submit, once it is refused."""

    def answer() -> Result | None:
        result = queue.run("exec", "local", "-d", "true")
        return result if result.code else None

    found = queue.until(answer, "a submit is refused")
    assert found is not None
    return found


def test_jobs_end_and_everything_of_skyq_goes(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:4", "setsid sleep 1000 & echo running; sleep 1000")
    queue.submit("--gpus", "H100:4", "true")
    queue.wait(1, "RUNNING")
    result = queue.ok("down", "local", "-y", "--purge")

    assert result.lines == [
        "Terminating cluster local...",
        "Cancelling 2 jobs...",
        "Terminating cluster local...done.",
    ]
    queue.until(lambda: not queue.processes(), "all processes end")
    assert left(queue) == []
    assert [path.name for path in queue.claims.iterdir()] == ["skyq-host.shims"]


def test_after_it_a_fresh_queue_counts_from_1(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "echo first")
    queue.ok("down", "local", "-y")

    assert queue.submit("echo fresh") == 1
    queue.wait(1, "SUCCEEDED")
    assert queue.log(1) == "fresh\n"


def test_with_y_what_jobs_wrote_stays_and_is_named(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "echo precious")
    result = queue.ok("down", "local", "-y")

    assert result.line(r"What its jobs wrote stays: \S+ KB in %s" % queue.state_dir)
    assert result.lines[-1] == "To remove that too: skyq down local --purge"
    queue.ok("exec", "local", "echo fresh")
    logs = [path.read_text() for path in sorted(queue.state_dir.glob("logs*/1-sky-cmd/tasks/run.log"))]
    assert sorted(logs) == ["fresh\n", "precious\n"]
    queue.ok("down", "local", "-y", "-p")
    assert left(queue) == []


def test_what_stayed_goes_by_a_second_down(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "echo precious")
    queue.ok("down", "local", "-y")
    result = queue.ok("down", "local", "--purge", input="y\n")

    assert result.out.startswith(ASKED)
    assert left(queue) == []


def test_it_asks_and_no_changes_nothing(queue: LocalQueue) -> None:
    queue.submit(queue.until_open())
    for answer in ("n\n", None):
        result = queue.run("down", "local", input=answer)

        assert result.code == 1
        assert result.out.startswith("Unfinished jobs on cluster local: 1, of me.\n" + ASKED)
        assert result.err == "Aborted!\n"
    assert queue.states() == {1: "RUNNING"}
    queue.open_gate()
    queue.wait(1, "SUCCEEDED")


@pytest.mark.parametrize(("answer", "stays"), [("n", True), ("", True), ("y", False)])
def test_it_asks_again_before_it_removes_what_jobs_wrote(queue: LocalQueue, answer: str, stays: bool) -> None:
    queue.ok("exec", "local", "echo precious")
    result = queue.ok("down", "local", input="y\n%s\n" % answer)

    listed = result.out.removeprefix(ASKED).splitlines()
    assert listed[0] == "What its jobs wrote:"
    assert listed[1].endswith(" KB  logs of 1 job, in %s/logs" % queue.state_dir)
    assert listed[2].startswith(REMOVE)
    assert bool(left(queue)) == stays


def test_copies_of_workdirs_are_what_jobs_wrote_and_the_users_own_folder_comes_back(
    queue: LocalQueue,
) -> None:
    queue.file("sky_workdir/mine", "my own\n")
    queue.file("project/train.py", "print('trained')\n")
    queue.ok("exec", "local", "--workdir", "project", "python3 train.py; echo model >model")
    kept = queue.ok("down", "local", input="y\nn\n")

    kept.line(r" +\S+ KB  2 copies of workdirs, in %s/work" % queue.state_dir)
    assert (queue.user_home / "sky_workdir" / "model").read_text() == "model\n"
    queue.ok("exec", "local", "cat model")
    assert queue.log(1) == "model\n"

    queue.ok("down", "local", "-y", "--purge")
    assert left(queue) == []
    assert (queue.user_home / "sky_workdir" / "mine").read_text() == "my own\n"
    assert not (queue.user_home / "sky_workdir").is_symlink()


def test_folders_that_a_job_made_read_only_go_too(queue: LocalQueue) -> None:
    queue.file("project/a", "")
    queue.ok(
        "exec", "local", "--workdir", "project", "mkdir -p cache/m && touch cache/m/f && chmod -R a-w cache"
    )
    queue.ok("down", "local", "-y", "--purge")

    assert left(queue) == []


# While it is at work.


@pytest.fixture
def ending(queue: LocalQueue) -> Iterator[subprocess.Popen[bytes]]:
    """A `down` that waits for a job which pays no attention to SIGTERM."""
    queue.submit("trap '' TERM; echo ready >~/ready; while :; do sleep 0.1; done", env={"SKYQ_GRACE_S": "4"})
    queue.until_file("ready")
    process = queue.start("down", "local", "-y", "--purge")
    yield process
    process.kill()
    process.communicate()


def test_no_job_is_taken_meanwhile(queue: LocalQueue, ending: subprocess.Popen[bytes]) -> None:
    result = refused(queue)

    assert result.code == 1
    assert result.err.splitlines()[-2:] == [
        "Cluster 'local' is being removed by `skyq down`: it takes no jobs. "
        "Submit again when that has ended.",
        "If it was interrupted, type it again: `skyq down local` goes on, or takes it back if you answer no.",
    ]
    assert ending.wait(60) == 0
    queue.ok("exec", "local", "echo fresh")
    assert list(queue.jobs()) == [1]


def test_a_killed_one_is_finished_by_the_next(queue: LocalQueue, ending: subprocess.Popen[bytes]) -> None:
    refused(queue)
    ending.kill()
    ending.wait()
    queue.wait(1, "CANCELLED")

    assert refused(queue).code == 1
    queue.ok("down", "local", "-y", "--purge")
    assert left(queue) == []


def test_a_killed_one_can_be_taken_back(queue: LocalQueue, ending: subprocess.Popen[bytes]) -> None:
    refused(queue)
    ending.kill()
    ending.wait()
    assert queue.run("doctor").line(r"!!  state .*; it takes no jobs, because of `skyq down`")
    result = queue.run("down", "local", input="n\n")

    assert result.lines[-1].endswith("Cluster local stays, and takes jobs again.")
    queue.wait(queue.submit("true"), "SUCCEEDED")


def test_ctrl_c_takes_it_back(queue: LocalQueue, ending: subprocess.Popen[bytes]) -> None:
    refused(queue)
    ending.send_signal(signal.SIGINT)

    assert ending.wait(60) == 1
    queue.wait(queue.submit("true"), "SUCCEEDED")


def test_where_a_job_cannot_be_ended_nothing_is_removed(queue: LocalQueue) -> None:
    queue.submit("echo precious; " + queue.until_open(), env={"SKYQ_GRACE_S": "0"})
    shim = psutil.Process(queue.until(lambda: script(queue), "it runs")).parent()
    assert shim is not None
    shim.send_signal(signal.SIGSTOP)
    try:
        result = queue.run("down", "local", "-y", "--purge")
    finally:
        shim.send_signal(signal.SIGCONT)

    assert result.code == 1
    assert result.err.splitlines() == [
        "These jobs do not end: 1. Nothing was removed; cluster local takes jobs again.",
        "`skyq why local 1` tells more. Type `skyq down local` again when their processes are gone.",
    ]
    queue.wait(1, "CANCELLED")
    assert queue.log(1) == "precious\n"
    queue.wait(queue.submit("true"), "SUCCEEDED")


def test_a_dispatcher_that_was_killed_is_no_hindrance(queue: LocalQueue) -> None:
    queue.submit("sleep 1000")
    queue.wait(1, "RUNNING")
    kill(queue.dispatcher())
    queue.ok("down", "local", "-y", "--purge")

    assert left(queue) == []
    queue.until(lambda: not queue.processes(), "all processes end")


# Which clusters.


def test_a_name_that_is_no_cluster_is_an_error(queue: LocalQueue) -> None:
    result = queue.run("down", "mycluster", "-y")

    assert (result.code, result.out) == (1, "")
    assert result.err == "Cluster(s) not found (tip: see `skyq status`).\n"


def test_without_a_name_it_is_a_usage_error(queue: LocalQueue) -> None:
    result = queue.run("down")

    assert result.code == 2
    assert result.err.startswith(
        "`skyq down` requires either a cluster name or glob (see `skyq status`), or the "
    )


@pytest.mark.parametrize("words", [["-a"], ["l*"], ["local", "local"]])
def test_patterns_and_all_mean_clusters(queue: LocalQueue, words: list[str]) -> None:
    queue.ok("exec", "local", "true")

    assert queue.ok("down", "-y", *words).lines.count("Terminating cluster local...done.") == 1
    assert left(queue) == []


def test_what_is_not_there_fails_and_the_rest_is_done(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")
    result = queue.run("down", "-y", "local", "mycluster")

    assert result.code == 1
    assert result.err == "Cluster 'mycluster' not found.\n"
    assert left(queue) == []


def test_where_nothing_is_nothing_is_asked_or_made(queue: LocalQueue) -> None:
    assert queue.ok("down", "local").out == "Cluster local has nothing to remove.\n"
    assert left(queue) == []
