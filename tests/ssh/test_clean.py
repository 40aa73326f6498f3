"""`skyq clean` gives disk space back on workers, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.ssh.remote import ON, Remote

LOCKED = "mkdir -p cache; echo x >cache/x; chmod 500 cache"
"""As Go's module cache is."""


@pytest.fixture
def cluster(make_lab: Callable[..., Lab]) -> Remote:
    """Two machines; on each two jobs have run, in copies of a folder."""
    found = Remote(make_lab(2)).pool(own_kinds=True)
    for number, script in (("1", LOCKED), ("2", "true")):
        found.file("proj/x", number)
        for node in ("node0", "node1"):
            found.ok("exec", "lab", "-q", *ON[node], "--workdir", "proj", script)
        found.file("proj/cache", "")  # what the first one added shows nowhere
    return found


def left(cluster: Remote, number: int) -> list[Path]:
    """The copies and run directories there."""
    state = "clusters/lab" if number == 0 else "nodes/*"
    home = cluster.lab.node(number).path("/home/ada/.skyq")
    found = [*home.glob(state + "/work/*"), *home.glob(state + "/run/*.run-0")]
    return [path for path in found if path.is_dir()]


def test_clean_removes_what_ended_jobs_left_on_workers(cluster: Remote) -> None:
    assert [len(left(cluster, number)) for number in (0, 1)] == [4 + 2, 2 + 2]
    asked = cluster.ok("clean", "lab", "--older", "0m", "-y").out

    assert "node1:work/" in asked and "node1:run/" in asked and asked.endswith("Removed.\n")
    assert [len(left(cluster, number)) for number in (0, 1)] == [1, 1]  # what the next job finds
    assert cluster.ok("exec", "lab", "-q", *ON["node1"], "cat x").out == "2\n"
    assert cluster.ok("clean", "lab").out.startswith("Nothing to remove")


def test_a_worker_that_can_not_be_reached_is_told_of_and_cleaned_later(cluster: Remote) -> None:
    cluster.lab.stop_sshd("node1")
    first = cluster.run("clean", "lab", "--older", "0m", "-y")
    assert first.code == 1 and "What is on node1 stays: " in first.err
    assert [len(left(cluster, number)) for number in (0, 1)] == [1, 4]
    cluster.lab.start_sshd("node1")
    cluster.ok("clean", "lab", "--older", "0m", "-y")

    assert len(left(cluster, 1)) == 1


def test_what_a_job_needs_that_waits_or_runs_stays(cluster: Remote) -> None:
    gate = cluster.gate()
    runs = cluster.submit(*ON["node1"], "--workdir", "proj", gate.wait + "; cat x")
    cluster.until_waiting(gate, "node1")
    waits = cluster.submit(*ON["node1"], "--after-any", str(runs), "cat x")
    cluster.file("proj/x", "3")
    cluster.ok("exec", "lab", "-q", *ON["node0"], "--workdir", "proj", "true")
    cluster.ok("clean", "lab", "--older", "0m", "-y")
    gate.open()

    jobs = cluster.wait_all([runs, waits], "SUCCEEDED")
    for job_id in (runs, waits):
        cluster.until_raw(jobs[job_id], 0, b"2")
