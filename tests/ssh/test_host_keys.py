"""Nothing is sent to a host that can't prove who it is; the cluster's own key opens nothing but its agent."""

from __future__ import annotations

import re
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from tests.lab import Host, Lab
from tests.ssh.remote import Remote

Make = Callable[..., Remote]


def spoken_to(host: Host) -> list[str]:
    """What sshd logged of anybody who got further than its host key."""
    log = host.read("/var/log/sshd.log").splitlines()
    return [line for line in log if "Accepted" in line or "ada" in line or "Failed" in line]


def test_an_unknown_host_key_is_refused_where_nobody_can_be_asked(make_cluster: Make) -> None:
    cluster = make_cluster(1, known_hosts=False)
    said = cluster.run("exec", "lab", "true")

    assert said.code == 1 and "--accept-new-host-keys" in said.err and "SHA256:" in said.err, str(said)
    assert spoken_to(cluster.head) == []
    assert "Traceback" not in said.err


def test_an_unknown_host_key_is_asked_about_once_and_remembered(make_cluster: Make) -> None:
    cluster = make_cluster(1, known_hosts=False)
    no = cluster.terminal("exec", "lab", "true")
    no.expect("SHA256:")
    no.expect("[y/N]")
    no.type("n\r")
    assert no.wait() == 1 and spoken_to(cluster.head) == []

    yes = cluster.terminal("exec", "lab", "echo $((40 + 2)) is the answer")
    yes.expect("[y/N]")
    yes.type("y\r")
    yes.expect("42 is the answer\r\n")
    assert yes.wait() == 0 and yes.screen.count("[y/N]") == 1
    cluster.ok("queue", "lab")


def test_a_changed_host_key_of_the_head_is_refused_and_nothing_is_sent(make_cluster: Make) -> None:
    cluster = make_cluster(1)
    cluster.ok("exec", "lab", "true")
    cluster.head.new_host_key()
    cluster.lab.restart_sshd("node0")
    cluster.head.path("/var/log/sshd.log").write_text("")
    terminal = cluster.terminal("exec", "lab", "true")
    assert terminal.wait() == 1 and "[y/N]" not in terminal.screen

    for words in (["exec", "lab", "--accept-new-host-keys", "true"], ["queue", "lab"], ["logs", "lab"]):
        said = cluster.run(*words)
        assert said.code == 1, str(said)
        assert (
            "node0 (10.213.0.10) has another host key than the known one: nothing was sent to it" in said.err
        )
        assert len(said.err.splitlines()) <= 4, str(said)
    assert spoken_to(cluster.head) == []
    way_out = re.search("ssh-keygen -R .*$", said.err, re.MULTILINE)
    assert way_out, str(said)
    cluster.client.run(["sh", "-c", way_out[0]])
    cluster.ok("exec", "lab", "--accept-new-host-keys", "true")


# The cluster's own key, with which the head reaches its workers.

STATE = "/home/ada/.skyq/clusters/lab/ssh/"


def with_its_key(lab: Lab, *words: str, program: str = "ssh") -> CompletedProcess[str]:
    """ssh from the head to node1 as the head's dispatcher does it, but by OpenSSH's client."""
    options = ["-i", STATE + "id_ed25519", "-o", "UserKnownHostsFile=" + STATE + "known_hosts"]
    options += ["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"]
    return lab.node(0).run([program, *options, *words], input="", timeout=30)


@pytest.fixture
def worker(cluster: Remote) -> str:
    return cluster.lab.node(1).address


def test_the_clusters_key_runs_no_command_but_the_agent(cluster: Remote, worker: str) -> None:
    for command in ("touch ~/owned; echo owned", "bash", "internal-sftp"):
        done = with_its_key(cluster.lab, worker, command)
        assert done.stdout.startswith("skyq-protocol ") and "owned" not in done.stdout, done
    assert not (cluster.lab.node(1).home / "owned").exists()


def test_the_clusters_key_gives_no_terminal(cluster: Remote, worker: str) -> None:
    done = with_its_key(cluster.lab, "-tt", worker, "tty")
    assert "PTY allocation request failed" in done.stderr and "/dev/pts" not in done.stdout, done


def test_the_clusters_key_copies_no_file(cluster: Remote, worker: str) -> None:
    done = with_its_key(cluster.lab, worker, program="sftp")
    assert done.returncode != 0, done
    source = "%s:/etc/passwd" % worker
    for mode in ("-O", "-s"):
        done = with_its_key(cluster.lab, mode, source, "/home/ada/stolen", program="scp")
        assert done.returncode != 0, done
    assert not (cluster.head.home / "stolen").exists()


def test_the_clusters_key_forwards_nothing(cluster: Remote, worker: str) -> None:
    done = with_its_key(cluster.lab, "-W", "localhost:22", worker)
    assert "administratively prohibited" in done.stderr and "OpenSSH" not in done.stdout, done
    done = with_its_key(cluster.lab, "-N", "-R", "0:localhost:22", worker)
    assert "remote port forwarding failed" in done.stderr, done
    unix = with_its_key(cluster.lab, "-N", "-R", "/home/ada/socket:localhost:22", worker)
    assert "remote port forwarding failed" in unix.stderr, unix


def test_the_users_own_key_and_agent_never_leave_the_laptop(cluster: Remote) -> None:
    secret = (cluster.client.home / ".ssh" / "id_ed25519").read_text().splitlines()[2]
    for node in cluster.lab.nodes:
        found = node.run(["grep", "-rlF", secret, "/home/ada", "/var/tmp", "/tmp"])
        assert found.stdout == "", found
    cluster.ok("exec", "lab", 'test -z "$SSH_AUTH_SOCK"')
