"""From bare hosts to a job on several of them."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.lab import Lab, Traits
from tests.machine import which
from tests.ssh.remote import Remote

Make = Callable[..., Remote]

TASK = """\
num_nodes: 2
resources:
  accelerators: H100:4
run: |
  echo "rank $SKYPILOT_NODE_RANK has $CUDA_VISIBLE_DEVICES at" $SKYPILOT_NODE_IPS
"""
SKYPILOTS = """\
lab:
  user: ada
  identity_file: ~/.ssh/id_ed25519
  password: not needed
  hosts:
    - ip: %s
    - ip: node1
      user: ada
      identity_file: ~/.ssh/id_ed25519
"""


def traces(lab: Lab) -> dict[str, str]:
    """What skyq and sshd have on each node that another contact would change."""
    script = "ls -Rli --full-time ~/.skyq/bin ~/.ssh; cat ~/.ssh/authorized_keys /var/tmp/skyq-host.claim"
    return {node.name: node.run(["sh", "-c", script]).stdout for node in lab.nodes}


def visits(lab: Lab, node: str) -> int:
    """How often somebody has logged in there from the client."""
    log = lab.host(node).read("/var/log/sshd.log")
    return len(re.findall("Accepted publickey for ada from %s " % re.escape(lab.client.address), log))


def test_four_bare_hosts_and_a_pool_are_enough_for_a_job_on_two_nodes(make_cluster: Make) -> None:
    cluster = make_cluster(4)
    cluster.file(".skyq/pools.yaml", "lab:\n  hosts: [node0, node1, node2, node3]\n")
    cluster.file("job.yaml", TASK)
    first = cluster.ok("exec", "lab", "job.yaml")

    said = sorted(re.findall(r"^\(.*\) rank (\d) has 0,1,2,3 at (\S+) (\S+)$", first.out, re.MULTILINE))
    assert [rank for rank, *_ in said] == ["0", "1"], str(first)
    assert said[0][1:] == said[1][1:] and len({*said[0][1:]}) == 2, str(first)
    assert {*said[0][1:]} < {node.address for node in cluster.lab.nodes}
    assert re.findall(r"^(node\d) +(head|worker) +8x H100", first.err, re.MULTILINE) == [
        ("node0", "head"),
        *(("node%d" % number, "worker") for number in (1, 2, 3)),
    ], str(first)

    before = traces(cluster.lab), visits(cluster.lab, "node1")
    again = cluster.ok("exec", "lab", "job.yaml")
    assert "irst contact" not in again.err and "rank 1 has" in again.out
    assert (traces(cluster.lab), visits(cluster.lab, "node1")) == before


def test_what_is_killed_on_a_host_during_the_first_contact_is_begun_again(make_cluster: Make) -> None:
    """Head and worker alike: the host is not left out for it."""
    cluster = make_cluster(2)
    cluster.pool()
    for node in cluster.lab.nodes:
        real = "/usr/local/bin/nvidia-smi"
        node.root("mv", real, real + ".real")
        once = "[ -e ~/killed ] || { touch ~/killed; kill -9 $PPID; }"
        node.write(real, '#!/bin/sh\n%s\nexec %s.real "$@"\n' % (once, real), 0o755)

    first = cluster.ok("exec", "lab", "--num-nodes", "2", "--gpus", "H100:8", "echo rank $SKYPILOT_NODE_RANK")

    assert all((node.home / "killed").exists() for node in cluster.lab.nodes)
    assert sorted(re.findall(r"rank \d$", first.out, re.MULTILINE)) == ["rank 0", "rank 1"], str(first)


def test_the_inventory_of_skypilot_is_read_as_it_is(make_cluster: Make) -> None:
    cluster = make_cluster(2)
    (cluster.client.home / ".skyq" / "pools.yaml").unlink()
    cluster.file(".sky/ssh_node_pools.yaml", SKYPILOTS % cluster.head.address)
    said = cluster.ok("exec", "lab", "--num-nodes", "2", "hostname")

    assert sorted(re.findall(r"^\(.*\) (node\d)$", said.out, re.MULTILINE)) == ["node0", "node1"], str(said)


def test_workers_that_only_the_head_reaches_are_reached_through_it(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    for worker in ("node1", "node2"):
        cluster.lab.cut("client", worker)
    said = cluster.ok("exec", "lab", "--num-nodes", "3", "hostname")

    assert sorted(re.findall(r"^\(.*\) (node\d)$", said.out, re.MULTILINE)) == ["node0", "node1", "node2"]
    assert len(re.findall("^node[12] .*through the head", said.err, re.MULTILINE)) == 2, str(said)
    cluster.wait(cluster.submit("--num-nodes", "3", "true"), "SUCCEEDED")


def test_login_shells_that_greet_whoever_comes_are_no_hindrance(make_cluster: Make) -> None:
    """A ~/.bashrc or ~/.zshenv that prints does so before every command that sshd starts."""
    cluster = make_cluster(2, traits={"node1": Traits(shell=which("zsh") or "/bin/bash")})
    for node in cluster.lab.nodes:
        for file in (".bashrc", ".zshenv"):
            node.write("/home/ada/" + file, "echo Welcome; echo to you >&2; printf '\\000\\001\\377'\n")
    said = cluster.ok("exec", "lab", "--num-nodes", "2", "hostname")

    assert sorted(re.findall(r"^\(.*\) (node\d)$", said.out, re.MULTILINE)) == ["node0", "node1"], str(said)
    assert "Welcome" not in cluster.ok("queue", "lab", "-o", "json").out
