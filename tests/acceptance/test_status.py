"""`skyq status`: nodes, devices in use and free, jobs."""

from __future__ import annotations

from tests.acceptance.test_queue import cells
from tests.cluster import LocalQueue


def test_an_idle_machine(queue: LocalQueue) -> None:
    result = queue.ok("status")

    assert result.lines[0] == "Cluster local: 0 running, 0 waiting"
    assert cells(result.lines[1]) == ["NODE", "STATE", "DEVICES", "CPUS", "MEMORY", "JOBS"]
    assert cells(result.lines[2]) == ["localhost", "UP", "H100: 0 of 4 in use", "0/8", "0/16 GB", "-"]
    assert len(result.lines) == 3


def test_what_jobs_hold(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:2", "--cpus", "2", "--memory", "4", "sleep 600")
    queue.submit("--gpus", "H100:0.5", "sleep 600")
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.wait_all([1, 2], "RUNNING")
    result = queue.ok("status", "local")

    assert result.lines[0] == "Cluster local: 2 running, 1 waiting"
    assert cells(result.lines[2]) == [
        *("localhost", "UP", "H100: 2.5 of 4 in use"),
        *("2.5/8", "4/16 GB", "1, 2"),
    ]


def test_json_is_an_object_of_lists_and_nothing_else(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:1", "sleep 600")
    queue.submit("--gpus", "H100:0.25", "sleep 600")
    queue.wait_all([1, 2], "RUNNING")
    result = queue.ok("status", "-o", "json")

    (node,) = result.json()["local"]
    assert result.err == ""
    assert (node["node"], node["usable"], node["jobs"]) == ("localhost", True, [1, 2])
    assert [device["in_use"] for device in node["devices"]] == [1, 0.25, 0, 0]
    assert {device["accelerator"] for device in node["devices"]} == {"H100"}
    assert (node["cpus"], node["cpus_in_use"], node["memory_mb"]) == (8, 1, 16 * 1024)


def test_nothing_is_held_when_all_jobs_have_ended(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "--gpus", "H100:4", "true")

    (node,) = queue.ok("status", "-o", "json").json()["local"]
    assert [device["in_use"] for device in node["devices"]] == [0, 0, 0, 0]
    assert node["jobs"] == []


def test_an_unknown_cluster_is_an_error(queue: LocalQueue) -> None:
    for options in ([], ["-o", "json"]):
        result = queue.run("status", "nowhere", *options)
        assert (result.code, result.out) == (1, ""), "nothing, as from queue"
        assert "Cluster 'nowhere' does not exist." in result.err


def test_one_unknown_cluster_does_not_hide_the_others(queue: LocalQueue) -> None:
    result = queue.run("status", "nowhere", "local", "local")

    assert result.code == 1 and result.out.count("Cluster local: 0 running, 0 waiting") == 1
