"""First contact, and later ones: which hosts become the cluster, who finds it, what is left when it ends."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import PASSWORD, Host, Lab, Traits
from tests.ssh.remote import Remote
from tests.waiting import wait_until

Make = Callable[..., Remote]
RECORD = ".skyq/remotes/lab.json"
CLAIM = "/var/tmp/skyq-host.claim"
PYTHONS = tuple(glob.glob("/usr/bin/python3*"))
COMMANDS = ("ls -A ~ ~/.ssh | grep -v sky_workdir", "cat ~/.ssh/authorized_keys", "ls /var/tmp", "crontab -l")


@pytest.fixture
def make_cluster(make_lab: Callable[..., Lab]) -> Make:
    """Boots a lab whose hosts are the pool `lab` of its client. The arguments are Lab's."""
    return lambda *args, **more: Remote(make_lab(*args, **more)).pool()


def roles(said: str) -> dict[str, str]:
    """Host → role, of the table that a first contact shows."""
    return {
        host: role for host, role in re.findall(r"^(node\d) +(head|worker|not taken) ", said, re.MULTILINE)
    }


def trouble(said: str, host: str) -> str:
    """Why that host isn't taken."""
    found = re.search(r"^%s +not taken +(.*)$" % host, said, re.MULTILINE)
    assert found, said
    return found[1]


def traces(host: Host) -> str:
    """All that a cluster could leave on a host, but its jobs' own folder."""
    return "".join(host.run(["sh", "-c", command]).stdout for command in COMMANDS)


def cluster_id(cluster: Remote) -> str:
    return str(json.loads((cluster.client.home / RECORD).read_text())["id"])


# Which hosts it takes.


def test_one_host_is_a_cluster_too(make_cluster: Make) -> None:
    cluster = make_cluster(1)
    said = cluster.ok("exec", "lab", "echo at $SKYPILOT_NODE_IPS")
    assert "at %s\n" % cluster.head.address in said.out


def test_hosts_of_another_cluster_or_account_are_left_out_and_named(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.file(".skyq/pools.yaml", "one: {hosts: [node1]}\nlab: {hosts: [node0, node1, node2]}\n")
    cluster.ok("exec", "one", "-d", "true")
    theirs = json.dumps({"cluster": "theirs", "id": "77", "head": "far", "state_dir": ""})
    cluster.lab.node(2).root("sh", "-c", "echo '%s' >%s" % (theirs, CLAIM))

    said = cluster.ok("exec", "lab", "-d", "true").err

    assert roles(said) == {"node0": "head", "node1": "not taken", "node2": "not taken"}
    assert "cluster 'one' of ada" in trouble(said, "node1")
    assert "cluster 'theirs' of root (head: far)" in trouble(said, "node2")
    assert not (cluster.lab.node(2).home / ".skyq").exists(), "nothing was put there"


def test_hosts_that_can_not_be_taken_are_told_with_what_to_do(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(
        7,
        traits={
            "node1": Traits(hidden=PYTHONS),
            "node2": Traits(small_home="100k"),
            "node5": Traits(),
            "node6": Traits(hidden=["/bin/bash", "/usr/bin/bash"], shell="/bin/sh"),
        },
    )
    cluster = Remote(lab).pool()
    key = next(line for line in lab.node(0).read("/home/ada/.ssh/authorized_keys").splitlines())
    lab.node(2).write("/home/ada/.ssh/authorized_keys", key + "\n", 0o600)
    lab.stop_sshd("node3")
    lab.freeze("node4")
    lab.node(5).remount_home("ro")

    said = cluster.ok("exec", "lab", "-d", "true").err

    assert roles(said) == {"node0": "head", **{"node%d" % n: "not taken" for n in range(1, 7)}}
    assert "no python3" in trouble(said, "node1") and "apt install python3" in trouble(said, "node1")
    assert "No space left" in trouble(said, "node2") and "df -h" in trouble(said, "node2")
    assert "refuses" in trouble(said, "node3") and "ssh node3" in trouble(said, "node3")
    assert "says nothing" in trouble(said, "node4")
    assert "Read-only file system" in trouble(said, "node5")
    assert "no bash" in trouble(said, "node6") and "apt install bash" in trouble(said, "node6")
    assert "Traceback" not in said


def test_if_the_first_host_can_not_be_the_head_the_next_one_is(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2, traits={"node0": Traits(small_home="100k")})
    cluster = Remote(lab).pool()
    key = lab.node(1).read("/home/ada/.ssh/authorized_keys")
    lab.node(0).write("/home/ada/.ssh/authorized_keys", key, 0o600)

    said = cluster.ok("exec", "lab", "hostname")

    assert roles(said.err) == {"node0": "not taken", "node1": "head"} and ") node1" in said.out
    assert not lab.node(0).path(CLAIM).exists()


def test_no_host_at_all_is_an_error_that_names_each(make_cluster: Make) -> None:
    cluster = make_cluster(2)
    cluster.lab.stop_sshd("node0")
    cluster.lab.stop_sshd("node1")
    said = cluster.run("exec", "lab", "true")
    assert said.code == 1 and "node0" in said.err and "node1" in said.err and "refuses" in said.err
    assert not (cluster.client.home / RECORD).exists()


@pytest.mark.parametrize("shell", ["/bin/dash", "/usr/bin/fish", "/bin/zsh", "/bin/tcsh"])
def test_any_login_shell_will_do_for_head_and_worker(make_lab: Callable[..., Lab], shell: str) -> None:
    if not Path(shell).exists():
        pytest.skip("NOT TESTED: there is no %s here" % shell)
    its = Traits(shell=shell)
    cluster = Remote(make_lab(2, traits={"node0": its, "node1": its})).pool()
    said = cluster.ok("exec", "lab", "--num-nodes", "2", "hostname")
    assert ") node0" in said.out and ") node1" in said.out, str(said)


def test_a_home_that_can_not_be_executed_in_will_do(make_cluster: Make) -> None:
    cluster = make_cluster(2)
    for node in cluster.lab.nodes:
        node.remount_home("noexec")
    said = cluster.ok("exec", "lab", "--num-nodes", "2", "hostname")
    assert ") node0" in said.out and ") node1" in said.out, str(said)


def test_a_home_that_all_share_is_written_to_once(make_cluster: Make) -> None:
    cluster = make_cluster(3, shared_home=True)
    said = cluster.ok("exec", "lab", "--num-nodes", "3", "hostname")
    assert roles(said.err) == {"node0": "head", "node1": "worker", "node2": "worker"}
    keys = cluster.head.read("/home/ada/.ssh/authorized_keys")
    assert keys.count("skyq:lab:") == 1
    assert len(list((cluster.head.home / ".skyq/nodes").iterdir())) == 2, "workers keep what is theirs apart"


def test_a_worker_that_the_head_can_not_reach_is_not_taken_and_keeps_nothing(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    before = traces(cluster.lab.node(1))
    cluster.lab.cut("node0", "node1")

    said = cluster.ok("exec", "lab", "-d", "true").err

    assert roles(said) == {"node0": "head", "node1": "not taken", "node2": "worker"}
    assert "head can't reach it at %s" % cluster.lab.node(1).address in trouble(said, "node1")
    after = traces(cluster.lab.node(1)).replace(".skyq\n", "").replace("skyq-host.shims\n", "")
    assert after == before


def test_where_a_password_let_somebody_in_the_key_is_installed_by_consent(
    make_lab: Callable[..., Lab],
) -> None:
    its = Traits(sshd={"PasswordAuthentication": "yes"})
    cluster = Remote(make_lab(2, traits={"node0": its, "node1": its})).pool()
    for node in cluster.lab.nodes:
        node.write("/home/ada/.ssh/authorized_keys", "", 0o600)

    first = cluster.terminal("exec", "lab", "--num-nodes", "2", "echo hello")
    first.expect("Password of ada on node")
    for name in ["node0", "node1"] if "ada on node0" in first.screen else ["node1", "node0"]:
        first.expect("Password of ada on %s" % name)
        first.type(PASSWORD + "\r")
    first.expect("from now on")
    first.type("y\r")

    assert first.wait() == 0, first.screen
    assert first.screen.count("from now on") == 1
    assert "hello" in cluster.ok("exec", "lab", "--num-nodes", "2", "echo hello").out


# Who finds it.


def test_a_laptop_that_knows_nothing_finds_it_by_its_hosts(make_cluster: Make) -> None:
    cluster = make_cluster(2)
    assert "does not exist" in cluster.run("queue", "lab").err
    cluster.submit("true")
    record = (cluster.client.home / RECORD).read_text()
    for pools in ("lab: {hosts: [node0, node1]}", "mine: {hosts: [node1, node0]}"):
        (cluster.client.home / RECORD).unlink()
        cluster.file(".skyq/pools.yaml", pools)
        assert cluster.jobs().keys() == {1}
        assert cluster_id(cluster) == json.loads(record)["id"]


def test_by_a_worker_alone_it_tells_where_the_head_is(make_cluster: Make) -> None:
    cluster = make_cluster(2)
    cluster.submit("true")
    (cluster.client.home / RECORD).unlink()
    cluster.file(".skyq/pools.yaml", "mine: {hosts: [node1]}")
    said = cluster.run("queue", "lab")
    assert said.code == 1 and "has its head on node0" in said.err and "pools.yaml" in said.err


def test_two_laptops_at_once_make_one_cluster(make_cluster: Make) -> None:
    cluster = make_cluster(3, clients=2)
    other = Remote(cluster.lab, "client2").pool()
    key = other.client.read("/home/ada/.ssh/id_ed25519.pub")
    for node in cluster.lab.nodes:
        mine = node.read("/home/ada/.ssh/authorized_keys")
        node.write("/home/ada/.ssh/authorized_keys", mine + key, 0o600)

    at_once = [each.start("exec", "lab", "--num-nodes", "3", "echo together") for each in (cluster, other)]
    ends = [program.communicate(timeout=120) for program in at_once]

    assert [program.returncode for program in at_once] == [0, 0], ends
    assert [out.count(b"together\n") >= 3 for out, _ in ends] == [True, True], ends
    assert cluster_id(cluster) == cluster_id(other)
    assert cluster.jobs().keys() == other.jobs().keys() == {1, 2}
    for node in cluster.lab.nodes[1:]:
        assert node.read("/home/ada/.ssh/authorized_keys").count("skyq:lab:") == 1


def test_killed_at_any_step_and_typed_again_it_is_whole(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    ids = set()
    for step in ("First contact", "is the head", "Sending skyq", "meets its workers"):
        killed = cluster.start("exec", "lab", "true")
        assert killed.stderr is not None
        said = b""
        while step.encode() not in said:
            line = killed.stderr.readline()
            assert line, said
            said += line
        killed.kill()
        killed.communicate()
    assert not (cluster.client.home / RECORD).exists()

    again = cluster.ok("exec", "lab", "--num-nodes", "3", "hostname")

    assert len(re.findall(r"\) node\d$", again.out, re.MULTILINE)) == 3, str(again)
    ids.add(cluster_id(cluster))
    for node in cluster.lab.nodes:
        ids.add(json.loads(node.read(CLAIM))["id"])
        assert node.read("/home/ada/.ssh/authorized_keys").count("skyq:lab:") == int(node is not cluster.head)
    assert len(ids) == 1


# The end.


def test_the_end_leaves_the_hosts_as_they_were(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    before = [traces(node) for node in cluster.lab.nodes]
    cluster.ok("exec", "lab", "--num-nodes", "3", "true")
    assert [traces(node) for node in cluster.lab.nodes] != before

    cluster.ok("down", "lab", "-y", "--purge")

    after = [traces(node).replace("skyq-host.shims\n", "") for node in cluster.lab.nodes]
    assert after == before
    assert not (cluster.client.home / RECORD).exists()
    for node in cluster.lab.nodes:
        wait_until(lambda node=node: not _skyqs(node), "nothing of skyq runs on " + node.name)  # type: ignore[misc]


def _skyqs(host: Host) -> list[str]:
    return [line for line in host.run(["ps", "-e", "-o", "args="]).stdout.splitlines() if "skyq" in line]


def test_a_dead_host_is_told_and_the_others_are_freed(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.ok("exec", "lab", "--num-nodes", "3", "true")
    cluster.lab.power_off("node1")

    said = cluster.run("down", "lab", "-y")

    assert said.code == 1 and "node1" in said.err, str(said)
    for node in (cluster.lab.node(0), cluster.lab.node(2)):
        assert not node.path(CLAIM).exists()
        assert "skyq:lab:" not in node.read("/home/ada/.ssh/authorized_keys")
    assert not (cluster.client.home / RECORD).exists()


def test_a_cluster_that_was_ended_elsewhere_is_made_anew_where_it_is_wanted(make_cluster: Make) -> None:
    cluster = make_cluster(2)
    cluster.submit("true")
    record, first = (cluster.client.home / RECORD).read_text(), cluster_id(cluster)
    cluster.ok("down", "lab", "-y", "--purge")
    cluster.file(RECORD, record)

    said = cluster.run("queue", "lab")
    assert said.code == 1 and "no longer on node0" in said.err and "skyq down lab" in said.err

    said = cluster.ok("exec", "lab", "--num-nodes", "2", "hostname")
    assert ") node0" in said.out and ") node1" in said.out
    assert cluster_id(cluster) != first
