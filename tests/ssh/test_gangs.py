"""Many jobs of several nodes and of half a device at once: all or none, and no device twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.lab import Host
from tests.ssh.remote import Remote
from tests.ssh.witness import PROBE, Witness

GANG = ("--num-nodes", "2", "--gpus", "H100:4", "--cpus", "0.1")
HALF = ("--gpus", "H100:0.5", "--env", "HALF=1", "--cpus", "0.1")
FROM_LAPTOPS, ON_THE_HEAD = 10, 40


def test_gangs_and_halves_that_come_at_once_share_no_device_and_all_end(cluster: Remote) -> None:
    witness = Witness(cluster.lab)
    other = cluster.lab.host("client2")
    other.write("/home/ada/.skyq/pools.yaml", (cluster.client.home / ".skyq" / "pools.yaml").read_text())

    def submit(order: tuple[tuple[str, ...], Host]) -> int:
        words, at = order
        return cluster.submit(*words, PROBE + "sleep 0.5", at=at)

    laptops = (cluster.client, other)
    orders = [(GANG, laptops[number % 2]) for number in range(5)]
    orders += [(HALF, laptops[number % 2]) for number in range(FROM_LAPTOPS)]
    # What is typed on the head goes the same way from there on, and costs a fraction.
    typed_there = [(HALF, cluster.head) for _ in range(ON_THE_HEAD)]
    with ThreadPoolExecutor(5) as people, ThreadPoolExecutor(3) as others:
        found = people.map(submit, orders), others.map(submit, typed_there)
        gangs_and_halves, halves = [list(ids) for ids in found]
    ids = gangs_and_halves + halves
    cluster.wait_all(ids, "SUCCEEDED", within=180)

    assert len({*ids}) == 55
    assert witness.violations() == [], cluster.evidence()
    starts = witness.starts()
    assert {i: starts[i] for i in ids} == {**dict.fromkeys(ids, 1), **dict.fromkeys(gangs_and_halves[:5], 2)}


def test_a_gang_takes_no_node_before_it_can_have_all_and_then_starts_at_once(cluster: Remote) -> None:
    gate, held = cluster.gate(), cluster.gate()
    whole = ("--gpus", "H100:8")
    blocking = [cluster.submit(*whole, gate.wait if number else held.wait) for number in range(4)]
    cluster.wait_all(blocking, "RUNNING")
    gang = cluster.submit("--num-nodes", "3", *whole, PROBE)
    one = cluster.submit(*whole, "true")
    assert cluster.job(gang)["status"] == "PENDING"
    assert "3 nodes" in cluster.job(gang)["reason"]
    gate.open()
    record = cluster.wait(gang, "SUCCEEDED")
    cluster.wait(one, "SUCCEEDED")

    assert len({entry["node"] for entry in record["nodes"]}) == 3
    assert Witness(cluster.lab).starts()[gang] == 3
    assert cluster.job(blocking[0])["status"] == "RUNNING"
    held.open()


def test_the_witness_sees_a_device_that_is_given_twice(cluster: Remote) -> None:
    gate, before = cluster.gate(), len(Witness(cluster.lab).violations())
    lie = "CUDA_VISIBLE_DEVICES=99\n" + PROBE
    gang = [cluster.submit(*HALF[:2], "--cpus", "0.1", lie + gate.wait) for _ in range(2)]
    cluster.until(lambda: len(Witness(cluster.lab).violations()) > before, "it is seen")
    gate.open()
    cluster.wait_all(gang, "SUCCEEDED")
    for node in cluster.lab.nodes:
        node.path("/var/tmp/witness/violations").unlink(missing_ok=True)
