"""Several people and laptops at one cluster at once, and hosts that let few of them in at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster import LocalQueue
from tests.lab import Traits
from tests.ssh.remote import Remote

Make = Callable[..., Remote]

AT_ONCE = 20
LIMITS = {
    "node0": {"MaxSessions": "1", "MaxStartups": "1"},
    "node1": {"MaxSessions": "1", "MaxStartups": "2:100:3"},
}


@pytest.fixture
def eve(cluster: Remote) -> Remote:
    """Who has the hosts in a pool of another name, and never heard of the cluster `lab`."""
    found = Remote(cluster.lab, "client2")
    found.client.run(["rm", "-rf", "/home/ada/.skyq/remotes"])
    found.file(".skyq/pools.yaml", "machines:\n  hosts: [node3, node1, node0]\n")
    return found


def test_two_laptops_share_a_queue_which_the_second_finds_by_its_hosts_claims(
    cluster: Remote, eve: Remote
) -> None:
    gate = cluster.gate()
    first = cluster.submit("--num-nodes", "2", gate.wait)
    cluster.wait(first, "RUNNING")
    found = eve.ok("queue", "lab", "-u")
    assert re.search(r"^%d .* RUNNING" % first, found.out, re.MULTILINE), str(found)

    with ThreadPoolExecutor(2) as people:
        own = [
            people.submit(lambda who=who: [who.submit("true") for _ in range(3)]) for who in (cluster, eve)
        ]
        ids = [job for each in own for job in each.result()]
    assert sorted(ids) == list(range(first + 1, first + 7))
    as_eve = LocalQueue.job_id(eve.ok("exec", "lab", "-d", "true", env={"SKYQ_USER": "eve"}))
    assert as_eve == first + 7

    for who in (cluster, eve):
        users = {i: record["username"] for i, record in who.jobs().items() if i >= first}
        assert users == {**dict.fromkeys([first, *ids], "ada"), as_eve: "eve"}
    assert re.findall(r"^\d+ ", eve.ok("queue", "lab").out, re.MULTILINE)[0].strip() == str(first + 6)
    eve.ok("cancel", "lab", str(first), "-y")
    cluster.wait(first, "CANCELLED")
    assert "Cluster lab" in eve.ok("status").out


def test_a_pool_whose_hosts_are_anothers_is_refused_with_its_name(cluster: Remote, eve: Remote) -> None:
    said = eve.run("exec", "machines", "true")

    assert said.code == 1 and "belongs to cluster 'lab' of ada" in said.err, str(said)
    assert "Submit there" in said.err


def test_twenty_submits_at_once_get_through_to_hosts_that_let_few_in(make_cluster: Make) -> None:
    cluster = make_cluster(2, traits={node: Traits(sshd=options) for node, options in LIMITS.items()})
    cluster.ok("exec", "lab", "--num-nodes", "2", "hostname")
    with ThreadPoolExecutor(AT_ONCE) as people:
        ids = list(people.map(lambda _: cluster.submit("--gpus", "H100:8", "true"), range(AT_ONCE)))

    assert sorted(ids) == list(range(2, AT_ONCE + 2))
    cluster.wait_all(ids, "SUCCEEDED")
