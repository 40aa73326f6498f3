"""`skyq run` over SSH: on the head, on workers, on those that only the head can reach."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import psutil

from tests.lab import Lab
from tests.ssh.remote import KINDS, ON, Remote

SHELL = ("--env", "PS1=here> ", "--", "bash", "--norc")
LOST = "exit code 129 (killed by signal 1); the connection to its terminal was lost"


def newest(cluster: Remote) -> int:
    return max(cluster.jobs(at=cluster.head))


def test_a_shell_on_each_node_has_its_devices_its_size_and_its_exit_code(cluster: Remote) -> None:
    for code, node in ((3, "node0"), (4, "node2")):
        screen = cluster.terminal("run", "lab", *ON[node], *SHELL)
        screen.expect("here> ")
        screen.type("echo $(hostname) $SKYPILOT_NUM_GPUS_PER_NODE [$(tty)] $CUDA_VISIBLE_DEVICES.\r")
        screen.expect("%s 1 [/dev/pts/" % node)
        screen.expect("] 8.")
        screen.type("sleep 600\r")
        cluster.until(lambda node=node: "sleep 600" in cluster.alive(node), "it sleeps there")  # type: ignore[misc]
        screen.type("\x03")
        screen.type("exit %d\r" % code)

        assert screen.wait() == code
        assert cluster.wait(newest(cluster))["status"] == "FAILED"


def test_a_pipe_to_a_worker_is_byte_for_byte(cluster: Remote) -> None:
    text = "".join(map(chr, range(1, 1000))) * 1000
    result = cluster.run("run", "lab", "-q", *ON["node1"], "--", "cat", input=text)

    assert (result.out == text, result.err, result.code) == (True, "", 0)


def test_a_worker_that_only_the_head_can_reach(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2)
    lab.cut("client", "node1")
    cluster = Remote(lab).pool(own_kinds=False)
    cluster.ok("exec", "lab", "-q", "--num-nodes", "2", "true")
    cluster.ok("drain", "lab", "node0")
    screen = cluster.terminal("run", "lab", "--gpus", "H100:1", *SHELL)
    screen.expect("here> ")
    screen.type("echo on $(hostname).\r")
    screen.expect("on node1.\r\n\x1b[?2004hhere> ")  # ^D is the end only where bash edits its next line
    screen.type("\x04")

    assert screen.wait() == 0


def test_a_client_that_is_killed_ends_it_on_the_worker(cluster: Remote) -> None:
    screen = cluster.terminal("run", "lab", *ON["node1"], *SHELL)
    screen.expect("here> ")
    screen.type("nohup setsid sleep 1234 & \r")
    cluster.until(lambda: "sleep 1234" in cluster.alive("node1"), "it sleeps there")
    job = newest(cluster)
    assert screen.program is not None
    for process in cluster.client.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "run" in process.cmdline():
                process.kill()

    assert cluster.wait(job)["reason"] == LOST
    assert not cluster.alive("node1")


def test_a_connection_that_breaks_ends_it_on_the_worker_and_is_told(cluster: Remote) -> None:
    for node in ("node0", "node3"):  # the one to the head, then the one from there
        screen = cluster.terminal("run", "lab", "--gpus", "%s:4" % KINDS["node3"], *SHELL)
        screen.expect("here> ")
        job = newest(cluster)
        cluster.hang_up(node)

        assert screen.wait() in (1, 100)
        assert "lost" in screen.screen
        assert cluster.wait(job)["reason"] == LOST
        assert not cluster.alive("node3")


def test_a_client_that_is_cut_off_ends_it(cluster: Remote) -> None:
    screen = cluster.terminal("run", "lab", *ON["node1"], *SHELL)
    screen.expect("here> ")
    job = newest(cluster)
    cluster.lab.cut("client", "node0")
    try:
        assert cluster.wait(job)["reason"] == LOST
        assert screen.wait() == 1
    finally:
        cluster.lab.heal("client", "node0")
    assert "Without its terminal the job ends." in screen.screen
