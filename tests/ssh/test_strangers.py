"""Devices that processes of no job use are skipped, shown, and come back by themselves."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.lab import Host, Lab
from tests.ssh.remote import Remote
from tests.waiting import wait_until

Make = Callable[..., Remote]


@pytest.fixture
def cluster(make_lab: Callable[..., Lab]) -> Remote:
    """One machine with 2 H100, as its nvidia-smi tells."""
    return Remote(make_lab(2, gpus=2)).pool(nodes=["node0", "node1"])


def stranger(host: Host, device: int) -> int:
    """A process of no job on a device; its pid there."""
    done = host.run(["sh", "-c", "setsid sleep 4711 >/dev/null 2>&1 & echo $!"])
    host.uses_gpu(device, int(done.stdout), 4096)
    return int(done.stdout)


def test_a_strangers_device_is_skipped_shown_and_comes_back(cluster: Remote) -> None:
    node = cluster.lab.node(1)
    pid = stranger(node, 0)
    cluster.ok("exec", "lab", "-q", "true")
    busy = cluster.submit("--gpus", "H100:2", "sleep 600")  # node0's
    assert cluster.wait(busy, "RUNNING")["nodes"][0]["node"] == "node0"
    first = cluster.wait(cluster.submit("--gpus", "H100:1", "sleep 600"), "RUNNING")
    assert [(n["node"], n["devices"][0]["index"]) for n in first["nodes"]] == [("node1", 1)]
    waits = cluster.submit("--gpus", "H100:1", "true")

    who = "pid %d python of ada, 4096 MB" % pid
    cluster.until(lambda: "in use by others" in cluster.job(waits)["reason"], "the reason is told")
    assert "in use by others: device 0 on node1 (%s)" % who in cluster.ok("why", "lab", str(waits)).out
    status = cluster.ok("status", "lab").out
    assert "node1: device 0 is in use by others: " + who in status
    assert "H100: 1 of 2 in use, 1 by others" in status
    assert [device["strangers"] for device in cluster.nodes()["node1"]["devices"]] == [who, ""]

    node.gpus(2)  # it has gone
    assert cluster.wait(waits)["status"] == "SUCCEEDED"


def test_a_setting_gives_it_out_all_the_same(cluster: Remote) -> None:
    for number in (0, 1):
        for device in (0, 1):
            stranger(cluster.lab.node(number), device)
    cluster.ok("exec", "lab", "-q", "true")  # who asks for no device waits for nobody
    waits = cluster.submit("--gpus", "H100:2", "true")
    cluster.until(lambda: "in use by others" in cluster.job(waits)["reason"], "the reason is told")
    assert re.search("^strangers +skip ", cluster.ok("config", "lab").out, re.MULTILINE)
    told = cluster.run("config", "lab", "strangers=maybe")
    assert told.code == 2 and "strangers should be skip or ignore. Found: maybe" in told.err
    cluster.ok("config", "lab", "strangers=ignore")

    assert cluster.wait(waits)["status"] == "SUCCEEDED"
    assert "by others" not in cluster.ok("status", "lab").out


def test_one_that_hangs_holds_up_its_own_devices_for_a_moment_only(cluster: Remote) -> None:
    cluster.ok("exec", "lab", "-q", "true")
    for number in (0, 1):
        cluster.lab.node(number).gpus(2, "hangs")
    cluster.kill_dispatcher()
    cluster.ok("exec", "lab", "-q", "true")

    assert cluster.wait(cluster.submit("--gpus", "H100:2", "true"))["status"] == "SUCCEEDED"


def test_the_first_job_after_an_idle_time_lands_on_no_strangers_device(cluster: Remote) -> None:
    cluster.ok("exec", "lab", "-q", "--gpus", "H100:1", "true")
    cluster.kill_dispatcher()
    for number in (0, 1):
        stranger(cluster.lab.node(number), 0)
    jobs = [cluster.submit("--gpus", "H100:1", "sleep 600") for _ in range(2)]

    cluster.wait_all(jobs, "RUNNING")
    got = sorted(
        (job["nodes"][0]["node"], job["nodes"][0]["devices"][0]["index"]) for job in map(cluster.job, jobs)
    )
    assert got == [("node0", 1), ("node1", 1)], cluster.ok("status", "lab").out


def test_a_device_that_fell_off_the_bus_is_given_to_nobody_and_can_be_left_out(cluster: Remote) -> None:
    cluster.ok("exec", "lab", "-q", "--gpus", "H100:2", "true")
    cluster.lab.node(1).gpus(1)
    cluster.kill_dispatcher()
    jobs = [cluster.submit("--gpus", "H100:2", "sleep 600"), cluster.submit("--gpus", "H100:1", "sleep 600")]
    cluster.wait_all(jobs, "RUNNING")
    waits = cluster.submit("--gpus", "H100:1", "true")

    why = "nvidia-smi doesn't list it"
    cluster.until(
        lambda: "missing: device 1 on node1 (%s)" % why in cluster.job(waits)["reason"], "it is told"
    )
    status = cluster.ok("status", "lab").out
    assert "H100: 1 of 2 in use, 1 missing" in status and "node1: device 1 is missing: " + why in status
    assert [device["missing"] for device in cluster.nodes()["node1"]["devices"]] == ["", why]

    cluster.ok("add", "lab", "node1")
    assert len(cluster.nodes()["node1"]["devices"]) == 1
    assert "missing" not in cluster.ok("status", "lab").out
    cluster.lab.node(1).gpus(2)
    cluster.ok("add", "lab", "node1")
    assert cluster.wait(waits)["status"] == "SUCCEEDED"


def test_devices_wait_while_the_driver_is_broken(cluster: Remote) -> None:
    cluster.ok("exec", "lab", "-q", "true")
    for number in (0, 1):
        cluster.lab.node(number).gpus(2, "fails")
    cluster.kill_dispatcher()
    waits = cluster.submit("--gpus", "H100:1", "true")
    cluster.until(lambda: "it couldn't communicate with" in cluster.job(waits)["reason"], "it is told")
    cluster.lab.node(1).gpus(2)

    assert cluster.wait(waits)["nodes"][0]["node"] == "node1"


def test_on_ones_own_machine_it_is_the_same(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1, gpus=2)
    node = lab.node(0)
    lab.client.run(["scp", "/usr/local/bin/skyq", "node0:skyq.pyz"])

    def skyq(*words: str) -> str:
        done = node.run(["python3", "skyq.pyz", *words], env={"SKYQ_GRACE_S": "2"})
        return done.stdout + done.stderr

    pid = stranger(node, 0)
    assert "device 0 is in use by others: pid %d python of ada" % pid in skyq("status", "local")
    skyq("exec", "local", "-d", "--gpus", "H100:1", "sleep 600")
    wait_until(
        lambda: "RUNNING" in skyq("queue", "local"), "it runs", evidence=lambda: skyq("queue", "local")
    )
    assert "rank 0, device 1" in skyq("why", "local", "1")
    told = skyq("exec", "local", "--dryrun", "--gpus", "H100:1", "true")
    assert "It would wait: needs 1 H100; none free (job 1 holds 1), in use by others: device 0" in told
    node.gpus(2)
    assert skyq("exec", "local", "-q", "--gpus", "H100:1", "echo $CUDA_VISIBLE_DEVICES") == "0\n"
    skyq("cancel", "local", "-a", "-y")
