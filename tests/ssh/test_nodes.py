"""A cluster grows, shrinks, and spares a node, while jobs run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from tests.lab import Lab
from tests.ssh.remote import Gate, Remote

Make = Callable[..., Remote]

LEAVINGS = "ls -A ~/.skyq; cat ~/.ssh/authorized_keys | grep skyq; ls /var/tmp/skyq-host.claim; true"


def ids(text: str) -> list[str]:
    """The hosts that answered, each on a line of its own behind a prefix."""
    return sorted(re.findall(r"^\(.*\) (node\d)$", text, re.MULTILINE))


def left_on(lab: Lab, node: str) -> str:
    """What of skyq is there."""
    done = lab.host(node).run(["sh", "-c", LEAVINGS])
    return done.stdout


def grown(make_cluster: Make, shared_home: bool = False) -> Remote:
    """Made of node0 alone, with a pool of four."""
    cluster = make_cluster(4, shared_home=shared_home).pool(nodes=["node0"])
    cluster.ok("exec", "lab", "echo", "from the first days")
    return cluster.pool()


def test_a_cluster_grows_while_a_job_runs_and_waiting_jobs_use_the_new_nodes(make_cluster: Make) -> None:
    cluster = grown(make_cluster)
    gate = cluster.gate()
    running = cluster.submit("--gpus", "H100:8", gate.wait + "; echo done")
    waiting = cluster.submit("--gpus", "H100:8", "hostname")
    cluster.until_waiting(gate, "node0")

    told = cluster.ok("add", "lab", "node1")
    assert re.search(r"^node1 +worker +8x H100", told.out, re.MULTILINE), str(told)
    assert cluster.wait(waiting, "SUCCEEDED")["nodes"][0]["node"] == "node1"
    assert cluster.job(running)["status"] == "RUNNING"
    gate.open()
    cluster.wait(running, "SUCCEEDED")

    # The logs of jobs from before have other names than they would have now.
    for job, text in ((1, "from the first days"), (running, "done")):
        assert text in cluster.ok("logs", "lab", str(job), "--no-follow").out
    cluster.ok("add", "lab")  # all of the pool
    assert ids(cluster.ok("exec", "lab", "--num-nodes", "4", "hostname").out) == [
        "node0",
        "node1",
        "node2",
        "node3",
    ]
    twin = cluster.run("add", "lab", cluster.lab.node(1).address)
    assert twin.code == 1 and "it is the same machine as node1" in twin.out, str(twin)
    cluster.lab.node(0).gpus(6)
    cluster.lab.node(1).gpus(5)
    again = cluster.ok("add", "lab", "node0", "node1")
    assert re.findall(r"^(node\d) +(\w+) +(\d)x", again.out, re.MULTILINE) == [
        ("node0", "head", "6"),
        ("node1", "worker", "5"),
    ], str(again)
    assert [len(node["devices"]) for node in cluster.nodes().values()] == [6, 5, 8, 8]


def test_one_machine_under_two_names_is_taken_once(make_cluster: Make) -> None:
    cluster = make_cluster(2)
    hosts = ["node0", "node1", cluster.lab.node(1).address, cluster.lab.node(0).address]
    cluster.file(".skyq/pools.yaml", json.dumps({"lab": {"hosts": hosts}}))
    told = cluster.ok("exec", "lab", "--num-nodes", "2", "hostname")

    assert len(re.findall("not taken +it is the same machine as node[01]", told.err)) == 2, str(told)
    assert set(cluster.nodes()) == {"node0", "node1"}


def test_a_drained_node_gets_nothing_new_until_it_is_resumed(cluster: Remote) -> None:
    gate = cluster.gate()
    there = cluster.submit("--gpus", "A100:1", gate.wait)
    cluster.until_waiting(gate, "node1")
    told = cluster.ok("drain", "lab", "node1", "--reason", "a new fan")
    assert "It still has job %d." % there in told.out
    waiting = cluster.submit("--gpus", "A100:1", "hostname")

    assert "drained by ada since" in cluster.nodes()["node1"]["reason"]
    why = cluster.ok("why", "lab", str(waiting)).out
    assert "node1 is drained by ada" in why and "a new fan" in why, why
    assert ids(cluster.ok("exec", "lab", "--num-nodes", "3", "hostname").out) == ["node0", "node2", "node3"]
    gate.open()
    cluster.wait(there, "SUCCEEDED")
    assert cluster.job(waiting)["status"] == "PENDING"

    cluster.ok("resume", "lab", "worker1")
    assert cluster.wait(waiting, "SUCCEEDED")["nodes"][0]["node"] == "node1"
    nobody = cluster.run("drain", "lab", "node7")
    assert nobody.code == 1 and "has no node 'node7'. It has node0, node1, node2, node3." in nobody.err


def test_what_the_inventory_says_of_a_node_holds_when_it_is_looked_at_again(cluster: Remote) -> None:
    before = cluster.nodes()
    cluster.ok("add", "lab", "node0", "node1")
    after = cluster.nodes()

    for node in ("node0", "node1"):
        assert [after[node][what] for what in after[node]] == [before[node][what] for what in before[node]]


def test_setup_leaves_a_drained_node_out(cluster: Remote) -> None:
    cluster.ok("drain", "lab", "node2")
    task = cluster.file("setup.yaml", "setup: echo set up on $(hostname)\nrun: hostname\n")
    told = cluster.ok("launch", "-c", "lab", task, "-y")

    assert "Setup leaves out node2: drained by ada" in told.err, str(told)
    assert sorted(re.findall(r"set up on (node\d)", told.out)) == ["node0", "node1", "node3"], str(told)
    cluster.ok("resume", "lab", "node2")


def test_a_node_is_removed_once_its_jobs_have_ended_and_keeps_nothing(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    gate = cluster.gate()
    gang = cluster.submit("--num-nodes", "3", gate.wait + "; hostname")
    cluster.until_waiting(gate, "node2")
    removing = cluster.start("remove", "lab", "node2")
    assert removing.stdout.readline() == b"Waiting for job %d on node2.\n" % gang
    gate.open()
    out, err = removing.communicate(timeout=60)

    assert (removing.returncode, out) == (0, b"node2 is no longer of cluster lab.\n"), err
    assert "skyq" not in left_on(cluster.lab, "node2").replace("skyq-host.shims", "")
    assert set(cluster.nodes()) == {"node0", "node1"}
    assert cluster.wait(gang)["status"] == "SUCCEEDED"
    log = cluster.ok("logs", "lab", str(gang), "--no-follow").out
    assert re.search(r"^\(worker2, rank=2, pid=\d+, ip=\S+\) node2$", log, re.MULTILINE), log
    assert ids(cluster.ok("exec", "lab", "--num-nodes", "2", "hostname").out) == ["node0", "node1"]
    misfit = cluster.run("exec", "lab", "--num-nodes", "3", "hostname")
    assert misfit.code == 1 and "do not match the existing cluster" in misfit.err
    head = cluster.run("remove", "lab", "node0")
    assert head.code == 1 and "node0 is the head of the cluster" in head.err, str(head)


def hold(cluster: Remote, gate: Gate, name: str) -> int:
    """A job that has all devices of that node. Left to itself it goes to the one that answers first."""
    cluster.ok("exec", "lab", "true")  # now there are nodes
    others = [other for other in cluster.nodes() if other != name]
    cluster.ok("drain", "lab", *others)
    job = cluster.submit("--gpus", "H100:8", gate.wait)
    cluster.until_waiting(gate, name)
    cluster.ok("resume", "lab", *others)
    return job


def test_a_dead_node_is_removed_by_force_and_what_it_ran_is_given_up(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    gate = cluster.gate()
    held = hold(cluster, gate, "node0")
    there = hold(cluster, gate, "node1")
    cluster.lab.node(1).power_off()
    cluster.until_unreachable("node1")
    told = cluster.run("remove", "lab", "node1", "--force", "-y")

    assert told.code == 1, str(told)
    assert ".." not in told.out, str(told)
    assert "node1 is no longer of cluster lab." in told.out and "node1 (" in told.err, str(told)
    lost = cluster.wait(there, "FAILED_DRIVER")
    assert lost["reason"] == "node node1 was removed while it was unreachable"
    assert set(cluster.nodes()) == {"node0", "node2"}
    gate.open()
    cluster.wait(held, "SUCCEEDED")
    cluster.lab.node(1).boot()
    cluster.ok("add", "lab", "node1")
    assert ids(cluster.ok("exec", "lab", "--num-nodes", "3", "hostname").out) == ["node0", "node1", "node2"]
    cluster.ok("down", "lab", "-y", "-p")
    assert "skyq" not in "".join(left_on(cluster.lab, node) for node in ("node0", "node1", "node2"))


def test_dead_nodes_that_shared_a_job_are_removed_at_once(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    gate = cluster.gate()
    hold(cluster, gate, "node0")
    gang = cluster.submit("--num-nodes", "2", "--gpus", "H100:8", gate.wait)
    cluster.until_waiting(gate, "node1", "node2")
    for number in (1, 2):
        cluster.lab.node(number).power_off()
    for number in (1, 2):
        cluster.until_unreachable("node%d" % number)
    told = cluster.run("remove", "lab", "node1", "node2", "--force", "-y")

    assert set(cluster.nodes()) == {"node0"}, str(told)
    assert cluster.job(gang)["status"] == "FAILED_DRIVER"
    gate.open()


def test_removing_one_of_several_nodes_with_one_home_leaves_the_others_their_key(make_cluster: Make) -> None:
    cluster = make_cluster(3, shared_home=True)
    assert len(ids(cluster.ok("exec", "lab", "--num-nodes", "3", "hostname").out)) == 3
    cluster.ok("remove", "lab", "node2")
    cluster.kill_dispatcher()  # the next one must connect anew

    assert ids(cluster.ok("exec", "lab", "--num-nodes", "2", "hostname").out) == ["node0", "node1"]


def test_another_laptop_ends_a_cluster_with_nodes_that_it_has_never_heard_of(make_cluster: Make) -> None:
    cluster = make_cluster(3, clients=2).pool(nodes=["node0", "node1"])
    cluster.ok("exec", "lab", "true")
    second = Remote(cluster.lab, "client2")
    second.pool(nodes=["node0", "node1"]).ok("queue", "lab")
    cluster.ok("add", "lab", "node2")
    second.ok("down", "lab", "-y", "-p")

    assert "skyq" not in "".join(left_on(cluster.lab, node) for node in ("node0", "node1", "node2"))


def test_ssh_gives_a_shell_or_runs_one_command_on_a_node(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.lab.cut("client", "node2")
    cluster.ok("exec", "lab", "true")

    assert cluster.ok("ssh", "lab", "node1", "--", "hostname; echo $((1 + 1))").out == "node1\n2\n"
    assert cluster.ok("ssh", "lab", "--", "printf", "%s|", "a b", "c").out == "a b|c|"
    assert cluster.ok("ssh", "lab", "node2", "--", "hostname").out == "node2\n"  # through the head
    assert cluster.run("ssh", "lab", "node1", "--", "exit 7").code == 7
    assert cluster.ok("ssh", "lab", "--", "hostname", at=cluster.head).out == "node0\n"
    screen = cluster.terminal("ssh", "lab", "node1")
    screen.expect("$")
    screen.type("echo on $(hostname)\n")
    screen.expect("on node1")
    screen.type("exit\n")
    assert screen.wait() == 0
    unknown = cluster.run("ssh", "lab", "node9")
    assert unknown.code == 1 and "has no node 'node9'. It has node0, node1, node2." in unknown.err


def test_what_jobs_wrote_on_workers_outlives_the_cluster_and_the_rest_does_not(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.file("project/train.sh", "echo weights >checkpoint\n")
    cluster.file("project/data", "0" * 1000)
    cluster.file("mount/hello", "hello\n")
    task = "num_nodes: 2\nworkdir: project\nfile_mounts: {~/shown: mount}\nrun: sh %s; cat ~/shown/hello\n"
    first = cluster.ok("launch", "-c", "lab", cluster.file("first.yaml", task % "-c true"))
    assert first.out.count(") hello") == 2, str(first)
    untouched = cluster.ok("down", "lab", "-y")
    assert "What jobs wrote on" not in untouched.out, str(untouched)
    for node in cluster.lab.nodes[1:]:
        assert node.run(["sh", "-c", "ls -A ~/.skyq ~/shown ~/sky_workdir"]).stdout in (
            "",
            "/home/ada/sky_workdir:\n",
        )

    cluster.ok("launch", "-c", "lab", cluster.file("second.yaml", task % "train.sh"))
    told = cluster.ok("down", "lab", "-y")
    kept = re.findall(r"^What jobs wrote on (\S+) stays: \S+ \S+ in (\S+)$", told.out, re.MULTILINE)
    assert len(kept) == 1, str(told)  # the other rank ran on the head
    found = cluster.lab.host(kept[0][0]).run(["sh", "-c", "cat %s/*/checkpoint" % kept[0][1]])
    assert found.stdout == "weights\n", found
    assert len(ids(cluster.ok("exec", "lab", "--num-nodes", "3", "hostname").out)) == 3
    cluster.ok("down", "lab", "-y", "-p")
    assert "skyq" not in "".join(left_on(cluster.lab, node) for node in ("node0", "node1", "node2"))


def test_a_host_that_was_off_when_its_cluster_ended_is_freed_by_another_down(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.ok("exec", "lab", "true")
    cluster.lab.node(2).stop_sshd()
    told = cluster.run("down", "lab", "-y", "-p")
    assert told.code == 1 and "Type `skyq down lab` again when it is back" in told.err, str(told)
    cluster.lab.node(2).start_sshd()
    cluster.ok("down", "lab", "-y", "-p")
    assert "skyq" not in left_on(cluster.lab, "node2")

    # Or by the next cluster of that name.
    cluster.ok("exec", "lab", "true")
    cluster.lab.node(2).stop_sshd()
    assert cluster.run("down", "lab", "-y", "-p").code == 1
    cluster.lab.node(2).start_sshd()
    assert len(ids(cluster.ok("exec", "lab", "--num-nodes", "3", "hostname").out)) == 3


def test_a_cluster_ends_though_a_job_is_on_a_node_that_is_cut_off_and_ends_later(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    gate = cluster.gate()
    cluster.submit("--num-nodes", "3", gate.wait)
    cluster.until_waiting(gate, "node0", "node1", "node2")
    cluster.lab.cut("node2")
    told = cluster.run("down", "lab", "-y", "-p")

    assert told.code == 1, str(told)
    assert "node2 is unreachable since" in told.out and "what ran there is given up" in told.out, str(told)
    assert not any(cluster.alive(node) for node in ("node0", "node1")), cluster.evidence()
    assert "skyq" not in left_on(cluster.lab, "node0") + left_on(cluster.lab, "node1")
    cluster.lab.heal("node2")
    cluster.until(lambda: cluster.alive("node2"), "what ran there lives")  # between two sleeps none is seen
    cluster.ok("down", "lab", "-y", "-p")
    assert not cluster.alive("node2") and "skyq" not in left_on(cluster.lab, "node2")


def test_workers_whose_head_is_gone_for_good_are_ended_and_freed_by_force(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    gate = cluster.gate()
    cluster.submit("--num-nodes", "3", gate.wait)
    cluster.until_waiting(gate, "node1", "node2")
    cluster.head.power_off()
    refused = cluster.run("down", "lab", "-y")
    assert refused.code == 1 and "`skyq down lab --force`" in refused.err, str(refused)
    cluster.until(lambda: cluster.alive("node1"), "what ran there lives")  # between two sleeps none is seen
    told = cluster.run("down", "lab", "-y", "-p", "--force")

    assert told.code == 1 and "node0" in told.err, str(told)
    for node in ("node1", "node2"):
        assert not cluster.alive(node) and "skyq" not in left_on(cluster.lab, node)
    cluster.pool(nodes=["node1", "node2"])
    assert ids(cluster.ok("exec", "lab", "--num-nodes", "2", "hostname").out) == ["node1", "node2"]
