"""Files that go along: to the head, and to each node that runs the job."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.lab import Lab
from tests.ssh.remote import ON, Remote


def test_a_workdir_is_on_every_node_that_runs_the_job_as_it_was_submitted(cluster: Remote) -> None:
    cluster.file("proj/sub/file", "one\n")
    cluster.file("proj/.gitignore", "big\n")
    cluster.file("proj/big", "x" * 100_000)
    show = "ls -A | tr '\\n' ' '; cat sub/file"
    gate = cluster.gate()
    nodes = ("--num-nodes", "4", "--gpus", "H100:8")
    first = cluster.submit(*nodes, gate.wait)
    queued = cluster.submit(*nodes, "--workdir", "proj", show)
    cluster.file("proj/sub/file", "two\n")
    gate.open()
    cluster.wait(first, "SUCCEEDED")
    record = cluster.wait(queued, "SUCCEEDED")
    for rank in range(4):
        cluster.until_raw(record, rank, b".gitignore sub one\n")


def test_what_a_worker_has_already_is_not_sent_again_and_what_jobs_made_stays(cluster: Remote) -> None:
    worker = ON["node1"]
    cluster.file("data/large", "y" * 3_000_000)
    cluster.file("data/small", "1\n")
    first = cluster.submit(*worker, "--workdir", "data", "echo made > result")
    cluster.wait(first, "SUCCEEDED")
    cluster.file("data/small", "2\n")
    second = cluster.submit(*worker, "--workdir", "data", "cat small result; stat -c %s large")
    record = cluster.wait(second, "SUCCEEDED")
    cluster.until_raw(record, 0, b"2\nmade\n3000000\n")
    third = cluster.submit(*worker, "cat small result")
    cluster.until_raw(cluster.wait(third, "SUCCEEDED"), 0, b"2\nmade\n")


def test_file_mounts_are_at_their_places_on_the_workers_too(cluster: Remote) -> None:
    cluster.file("side/x", "hello\n")
    cluster.file(
        "mounts.yaml",
        "num_nodes: 2\nfile_mounts: {/tmp/there: side, in/side: side/x}\nrun: cat /tmp/there/x in/side\n",
    )
    result = cluster.ok("launch", "-c", "lab", "-q", "mounts.yaml")
    assert result.out.split() == ["hello"] * 4


def test_a_home_that_all_nodes_share_is_written_once(make_lab: Callable[..., Lab]) -> None:
    cluster = Remote(make_lab(2, shared_home=True)).pool(nodes=["node0", "node1"])
    cluster.file("proj/file", "hello\n")
    result = cluster.ok("exec", "lab", "-q", "--num-nodes", "2", "--workdir", "proj", "cat file; pwd -P")
    there = {line for line in result.out.split() if line != "hello"}
    assert result.out.split().count("hello") == 2
    assert len(there) == 1 and "/clusters/lab/work/" in there.pop()
    nodes = cluster.head.home / ".skyq" / "nodes"
    copies = [path for path in nodes.glob("*/work/*") if not path.name.endswith(".sent")]
    assert all(os.path.islink(path) for path in copies)


def test_a_worker_without_room_sends_the_job_back_and_says_why(make_lab: Callable[..., Lab]) -> None:
    from tests.lab import Traits

    lab = make_lab(2, traits={"node0": Traits(gpus=0), "node1": Traits(gpus=1, small_home="16m")})
    cluster = Remote(lab).pool(nodes=["node0", "node1"])
    (cluster.client.home / "proj").mkdir()
    (cluster.client.home / "proj" / "large").write_bytes(os.urandom(30_000_000))
    cluster.client.root("chown", "-R", "ada:", "/home/ada/proj")
    job = cluster.submit("--gpus", "H100:1", "--workdir", "proj", "true")
    cluster.until(lambda: "No space left" in str(cluster.job(job)["reason"]), "it is said why")
    assert cluster.job(job)["status"] == "PENDING"
    cluster.ok("cancel", "lab", "-y", str(job))
    assert cluster.wait(job)["status"] == "CANCELLED"
