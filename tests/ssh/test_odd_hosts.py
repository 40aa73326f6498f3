"""Hosts that are odd, each in several ways, and those that can't serve."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import Host, Lab, Traits
from tests.machine import which
from tests.ssh.remote import Remote, commands
from tests.test_zipapp import pythons
from tests.waiting import wait_until

MakeLab = Callable[..., Lab]
BANNER = "Authorised use only.\n" * 20
NOISE = "echo Welcome; echo to you\n"
NO_SFTP = {"Subsystem": "sftp /bin/false"}
PYTHONS = tuple(glob.glob("/usr/bin/python3*"))
BASH = ("/bin/bash", "/usr/bin/bash")
SHOW = "echo $SKYPILOT_NODE_RANK: $(hostname) is $(id -un) with python $(python3 -V)"


def shell(name: str) -> str:
    return which(name) or "/bin/bash"


def hide_processes(host: Host) -> None:
    """Until the next boot nobody sees another account's."""
    host.root("mount", "-o", "remount,hidepid=2", "/proc")


def move_home(host: Host, name: str) -> None:
    """Another disk has it, and the home of ada's account is a link to that, with a name of its own."""
    script = """
        mkdir /home/disk
        mv /home/ada /home/disk
        ln -s disk/ada /home/ada
        ln -s disk/ada "$0"
        sed -i "s#:/home/ada:#:$0:#" /etc/passwd
    """
    host.root("sh", "-e", "-c", script, "/home/" + name)


def lead_elsewhere(host: Host, folder: str) -> None:
    """A folder in a home is a link to one on another disk."""
    there = "/home/disk/" + os.path.basename(folder)
    host.root("sh", "-c", 'mkdir -p "$1"; mkdir -p /home/disk; mv "$1" "$0"; ln -s "$0" "$1"', there, folder)


def rename_account(host: Host, name: str, uid: int) -> None:
    """Another account than ada's is to be used here."""
    home, ids = "/home/" + name, "%d:%d" % (uid, uid)
    line = next(line for line in host.read("/etc/passwd").splitlines() if line.startswith("ada:"))
    for file, more in (
        ("passwd", "%s:x:%s::%s:%s\n" % (name, ids, home, line.rpartition(":")[2])),
        ("group", "%s:x:%d:\n" % (name, uid)),
        ("shadow", "%s:*:20000:0:99999:7:::\n" % name),
    ):
        path = host.disk / "etc" / file
        path.write_text(path.read_text() + more)
    host.root("sh", "-c", 'mv /home/ada "$0" && chown -R "$1" "$0" && chmod 711 "$0"', home, ids)


def with_python(version: str) -> Traits:
    """A host that has no other; skips loudly where there is none."""
    path = pythons(version).get(version)
    if path is None:
        pytest.skip("NOT TESTED: there is no Python %s here" % version)
    real = Path(path).resolve()
    others = [each for each in PYTHONS if Path(each).resolve() != real]
    return Traits(hidden=others, shared=[] if real.is_relative_to("/usr") else [real.parent.parent])


def told(said: str, host: str) -> str:
    """What the table of a first contact says of a host."""
    found = re.search(r"^%s +((?:head|worker|not taken) .*)$" % host, said, re.MULTILINE)
    assert found, said
    return found[1]


def test_odd_hosts_are_a_cluster_like_any_other(make_lab: MakeLab) -> None:
    """The head: tcsh that greets, a banner, one session a connection, no SFTP, a port of its own, a home that
    is a link with spaces, others' processes hidden, cron denied. The workers: fish, another account and port,
    links in the home, fewer devices; zsh that is slow and greets, no device, no cron.
    """
    one, few = {"MaxSessions": "1", "Port": "2222", **NO_SFTP}, {"Port": "2201", "DisableForwarding": "yes"}
    lab = make_lab(
        3,
        traits={
            "node0": Traits(shell=shell("tcsh"), sshd={**one, "Banner": "/etc/banner"}),
            "node1": Traits(shell=shell("fish"), sshd={**few, **NO_SFTP}, gpus=2),
            "node2": Traits(shell=shell("zsh"), gpus=0, cron=False),
        },
    )
    head, other, bare = lab.nodes
    head.write("/etc/banner", BANNER)
    head.write("/etc/cron.deny", "ada\n")
    head.write("/home/ada/.cshrc", NOISE.replace("; ", "\n"))
    other.write("/home/ada/.config/fish/config.fish", NOISE)
    bare.write("/home/ada/.zshenv", NOISE + "sleep 3\n")
    bare.write("/home/ada/.bashrc", NOISE + "sleep 3000 &\n")
    move_home(head, "Ada (née Byron)")
    rename_account(other, "bob", 1818)
    for name in (".skyq", ".ssh"):
        lead_elsewhere(other, "/home/bob/" + name)
    other.root("chown", "-R", "bob:", "/home/disk")
    for host in (head, other):
        hide_processes(host)
    cluster = Remote(lab)
    told_here = "{ip: %s, user: bob, port: 2201}" % other.address
    cluster.file(".skyq/pools.yaml", "lab: {hosts: [node0, %s, node2]}\n" % told_here)

    first = cluster.ok("exec", "lab", "--num-nodes", "3", SHOW)

    assert [told(first.err, name).split(",")[0] for name in ("node0", other.address, "node2")] == [
        *("head    8x H100", "worker  2x H100", "worker  no devices")
    ], str(first)
    for line in ("0: node0 is ada", "1: node1 is bob", "2: node2 is ada"):
        assert ") %s with python Python 3" % line in first.out, str(first)
    assert "Authorised" not in first.out + first.err

    gang = cluster.ok("exec", "lab", "--num-nodes", "2", "--gpus", "H100:2", "echo on $CUDA_VISIBLE_DEVICES")
    assert gang.out.count(") on 0,1\n") == 2, str(gang)
    assert "ask for no more" in cluster.run("exec", "lab", "--num-nodes", "2", "--gpus", "H100:4", "true").err

    long = cluster.submit("--num-nodes", "3", "setsid sleep 600 & sleep 600")
    cluster.wait(long, "RUNNING")
    cluster.ok("cancel", "lab", str(long), "-y")
    cluster.wait(long, "CANCELLED")
    assert [words for host in lab.nodes for _, words in commands(host) if words == "sleep 600"] == []
    assert cluster.ok("logs", "lab", "1").out.count(" with python ") == 3

    denied = r"^!!  cron +can't be used: .*not allowed.*\n +→ Ask for cron \(root: cron.allow, cron.deny\)"
    cluster.until(lambda: re.search(denied, cluster.run("doctor", at=head).out, re.M), "cron is missed")
    cluster.ok("down", "lab", "-y", "--purge")
    assert "skyq:lab:" not in other.root("cat", "/home/disk/.ssh/authorized_keys")


def test_an_old_python_will_do_for_a_worker_and_the_head_is_another(make_lab: MakeLab) -> None:
    lab = make_lab(2, traits={"node1": with_python("3.8")})
    lab.node(1).root("ln", "-s", os.path.realpath(pythons("3.8")["3.8"]), "/usr/local/bin/python3")
    cluster = Remote(lab).pool(nodes=["node1", "node0"])

    said = cluster.ok("exec", "lab", "--num-nodes", "2", "--gpus", "H100:8", SHOW)

    assert "node1 can't be the head: its Python is 3.8" in said.err
    assert told(said.err, "node0").startswith("head") and told(said.err, "node1").startswith("worker")
    assert re.search(r"\) \d: node1 is ada with python Python 3\.8\.", said.out), str(said)
    long = cluster.submit("--num-nodes", "2", "sleep 600")
    cluster.wait(long, "RUNNING")
    cluster.ok("cancel", "lab", str(long), "-y")
    cluster.wait(long, "CANCELLED")


def test_hosts_that_can_not_serve_say_why_and_what_to_do(make_lab: MakeLab) -> None:
    """And a worker that can, but some day has no room: a job that waits for it says so, and starts."""
    lab = make_lab(
        6,
        1,
        traits={
            "node1": Traits(shell="/bin/sh", hidden=BASH),
            "node2": Traits(shell="/usr/sbin/nologin"),
            "node3": Traits(sshd={"AuthorizedKeysFile": "/etc/ssh/keys"}),
            "node4": Traits(hidden=PYTHONS),
            "node5": Traits(small_home="2m"),
        },
    )
    key = lab.node(0).read("/home/ada/.ssh/authorized_keys")
    lab.node(3).write("/etc/ssh/keys", key)
    lab.node(3).root("rm", "-r", "/home/ada")
    lab.node(5).write("/home/ada/.ssh/authorized_keys", key, 0o600)
    cluster = Remote(lab).pool()

    said = cluster.ok("exec", "lab", "--num-nodes", "2", "true").err

    assert told(said, "node0").startswith("head") and told(said, "node5").startswith("worker")
    for host, why in {
        "node1": "there is no bash, .*apt install bash",
        "node2": "account is currently not available",
        "node3": "/home/ada/.skyq can't be written: No such file or directory. .*ssh node3 ls -ld /home/ada",
        "node4": "there is no python3. .*apt install python3",
    }.items():
        assert re.match("not taken  .*%s" % why, told(said, host)), said

    small = lab.node(5)
    small.run(["sh", "-c", "cat /dev/zero >~/zeros"])
    job = cluster.submit("--num-nodes", "2", "true")
    full = "node5: No space left on device: /home/ada/.skyq/"
    cluster.until(lambda: str(cluster.job(job)["reason"]).startswith(full), "it is said which disk is full")
    assert "unable to start jobs: No space left" in cluster.nodes()["node5"]["reason"]
    small.run(["rm", "/home/ada/zeros"])
    small.remount_home("ro")
    read_only = "node5: Read-only file system: /home/ada/.skyq/"
    cluster.until(lambda: str(cluster.job(job)["reason"]).startswith(read_only), "it can't be written to")
    small.remount_home("rw")
    cluster.wait(job, "SUCCEEDED")


def test_where_a_login_takes_all_with_it_jobs_outlive_it_if_the_account_lingers(make_lab: MakeLab) -> None:
    """As systemd-logind does with KillUserProcesses=yes, which setsid and double forks don't escape."""
    kills = Traits(kills_at_logout=True)
    cluster = Remote(make_lab(2, traits={"node0": kills, "node1": kills})).pool()
    nodes = cluster.lab.nodes
    said = cluster.run("exec", "lab", "true")
    assert said.code == 1 and "Traceback" not in said.err
    for node in nodes:
        why = "%s: the end of a login kills all that it started, .* Type there: loginctl enable-linger "
        assert re.search(why % node.name, said.err), str(said)
        node.run(["loginctl", "enable-linger"])

    gate = cluster.gate()
    job = cluster.submit("--num-nodes", "2", gate.wait)
    cluster.until_waiting(gate, "node0", "node1")
    cluster.hang_up("node1")
    wait_until(lambda: cluster.nodes()["node1"]["usable"], "it is connected to again")
    gate.open()

    cluster.wait(job, "SUCCEEDED")
    cluster.ok("down", "lab", "-y")
