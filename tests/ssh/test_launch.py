"""`launch` makes a cluster of as many hosts of a pool as its task needs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from tests.lab import Traits
from tests.ssh.remote import Remote

Make = Callable[..., Remote]

TASK = """\
num_nodes: 2
resources: {accelerators: H100:8}
workdir: project
setup: echo set up $(hostname) >>set-up
run: cat made-here set-up
"""
TRACES = (
    "ls -A ~/.skyq ~/.ssh/authorized_keys /var/tmp/skyq-host.claim 2>&1; grep -c skyq ~/.ssh/authorized_keys"
)


def roles(text: str) -> dict[str, str]:
    """The table of hosts."""
    return dict(re.findall(r"^(\S+) +(head|worker|not taken) ", text, re.MULTILINE))


def traces(cluster: Remote, node: str) -> str:
    """What of skyq is there."""
    return cluster.lab.host(node).run(["sh", "-c", TRACES]).stdout


def mixed(make_cluster: Make) -> Remote:
    """A pool whose first host has no devices, the second fewer than others; nobody listens on the last."""
    traits = {"node0": Traits(gpus=0), "node1": Traits(gpus=4)}
    cluster = make_cluster(5, traits=traits)
    cluster.lab.host("node4").stop_sshd()
    cluster.file("project/made-here", "from the laptop\n")
    cluster.file("task.yaml", TASK)
    return cluster


def test_launch_takes_free_hosts_that_fit_and_exec_runs_in_what_it_synced(make_cluster: Make) -> None:
    cluster = mixed(make_cluster)
    before = {node: traces(cluster, node) for node in ("node0", "node1", "node2", "node3")}
    dry = cluster.ok("launch", "-c", "mine", "task.yaml", "--dryrun")
    assert roles(dry.out) == {
        **dict.fromkeys(("node0", "node1", "node4"), "not taken"),
        **{"node2": "head", "node3": "worker"},
    }, str(dry)
    assert "it has 4x H100" in dry.out and "Dry run: nothing was changed." in dry.out
    assert {node: traces(cluster, node) for node in before} == before

    no = cluster.run("launch", "-c", "mine", "task.yaml", input="n\n")
    assert no.code == 1 and "Launching a new cluster 'mine'. Proceed?" in no.out and "Aborted!" in no.err
    assert {node: traces(cluster, node) for node in before} == before

    told = cluster.run("launch", "-c", "mine", "task.yaml", input="y\n")
    assert told.code == 0, str(told)
    assert len(re.findall(r"\) from the laptop$", told.out, re.MULTILINE)) == 2, str(told)
    mine = Remote(cluster.lab, name="mine")
    assert set(mine.nodes()) == {"node2", "node3"}
    assert {node: traces(cluster, node) for node in ("node0", "node1")} == {
        node: before[node] for node in ("node0", "node1")
    }
    again = mine.ok("exec", "mine", "--num-nodes", "2", "--gpus", "H100:4", "cat set-up")
    assert sorted(re.findall(r"set up (node\d)", again.out)) == ["node2", "node3"], str(again)

    rest = cluster.run("launch", "-c", "other", "task.yaml", "-y")
    assert rest.code == 1, str(rest)
    assert "Of pool 'lab' 0 free hosts fit, and 2 are needed:" in rest.err
    assert "Looking at \n" not in rest.err, str(rest)
    assert "node2: it belongs to cluster 'mine' of ada" in rest.err, str(rest)
    assert "node0: it has no devices" in rest.err and "node4" in rest.err
    misfit = mine.run("launch", "-c", "mine", "--gpus", "H100:8", "--num-nodes", "3", "true")
    assert misfit.code == 1 and "do not match the existing cluster" in misfit.err, str(misfit)
    small = cluster.ok("launch", "-c", "small", "-y", "--gpus", "H100:0.5", "--cpus", "1+", "hostname")
    assert re.search(r"\) node1$", small.out, re.MULTILINE), str(small)
    cluster.ok("down", "mine", "small", "-y", "-p")
    assert all("skyq-host.claim': No such" in traces(cluster, f"node{number}") for number in (1, 2, 3))


def test_a_cluster_is_made_of_the_pool_that_is_named(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    pools = {"a": {"hosts": ["node0"]}, "b": {"hosts": ["node1", "node2"]}}
    cluster.file(".skyq/pools.yaml", json.dumps(pools))
    unclear = cluster.run("launch", "-c", "mine", "-y", "hostname")
    assert unclear.code == 1 and "There are: a, b. Add --pool." in unclear.err, str(unclear)
    wrong = cluster.run("launch", "-c", "mine", "-y", "--pool", "c", "hostname")
    assert wrong.code == 1 and "There is no pool 'c'. There are: a, b." in wrong.err
    task = cluster.file("task.yaml", "resources: {infra: ssh/b}\nrun: hostname\n")
    told = cluster.ok("launch", "-c", "mine", "-y", task)
    assert re.search(r"\) node1$", told.out, re.MULTILINE) and "infra" not in told.err, str(told)
    whole = cluster.ok("launch", "-c", "a", "-y", "hostname")
    assert re.search(r"\) node0$", whole.out, re.MULTILINE), str(whole)
    second = cluster.ok("launch", "-c", "next", "-y", "--infra", "ssh/b", "hostname")
    assert re.search(r"\) node2$", second.out, re.MULTILINE), str(second)


def test_hosts_that_only_the_first_one_reaches_are_taken_through_it(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    for worker in ("node1", "node2"):
        cluster.lab.cut("client", worker)
    told = cluster.ok("launch", "-c", "mine", "-y", "--num-nodes", "2", "hostname")
    assert roles(told.err) == {"node0": "head", "node1": "worker"}, str(told)
    assert sorted(re.findall(r"\) (node\d)$", told.out, re.MULTILINE)) == ["node0", "node1"], str(told)


def test_a_dry_run_makes_no_cluster(make_cluster: Make) -> None:
    cluster = make_cluster(2)
    before = [traces(cluster, node) for node in ("node0", "node1")]
    told = cluster.ok("exec", "lab", "--dryrun", "hostname")
    assert roles(told.out) == {"node0": "head", "node1": "worker"}, str(told)
    assert [traces(cluster, node) for node in ("node0", "node1")] == before
    assert not (cluster.client.home / ".skyq" / "remotes" / "lab.json").exists()


def test_a_setup_alone_says_what_the_cluster_is_like_and_the_next_job_runs_in_what_it_made(
    make_cluster: Make,
) -> None:
    cluster = make_cluster(3)
    cluster.file("project/train.sh", "echo trained with $(cat tool)\n")
    asks = "num_nodes: 2\nresources: {accelerators: H100:8}\n"
    cluster.file("cluster.yaml", asks + "workdir: project\nsetup: hostname >tool\n")
    cluster.ok("launch", "-c", "mine", "-y", "cluster.yaml")
    mine = Remote(cluster.lab, name="mine")
    assert set(mine.nodes()) == {"node0", "node1"}
    told = mine.ok("exec", "mine", "--num-nodes", "2", "sh train.sh")
    assert sorted(re.findall(r"trained with (node\d)", told.out)) == ["node0", "node1"], str(told)
    misfit = mine.run("launch", "-c", "mine", cluster.file("more.yaml", "num_nodes: 3\nsetup: 'true'\n"))
    assert misfit.code == 1 and "do not match the existing cluster" in misfit.err, str(misfit)
