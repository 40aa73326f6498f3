"""`skyq run` from a laptop, on the head of a cluster."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.cli.laptop import Far, Laptop
from tests.cluster import words_of
from tests.typist import Typist
from tests.waiting import PATIENCE

SHELL = ("--env", "PS1=here> ", "--", "bash", "--norc")
LOST = "exit code 129 (killed by signal 1); the connection to its terminal was lost"


@pytest.fixture
def screens(laptop: Laptop) -> Iterator[list[Typist]]:
    found: list[Typist] = []
    yield found
    for screen in found:
        screen.close()


@pytest.fixture
def screen(laptop: Laptop, screens: list[Typist]) -> Typist:
    """A shell with all devices of `lab`, at its prompt."""
    screens.append(Typist(laptop, "run", "lab", "--gpus", "H100:4", *SHELL))
    screens[0].expect("here> ")
    return screens[0]


def test_a_pipe_goes_there_and_back_byte_for_byte(laptop: Laptop, head: Far) -> None:
    data = bytes(range(256)) * 8192
    with laptop.start("run", "lab", "-q", "--", "cat", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(data, PATIENCE)
    assert (out == data, err, process.returncode) == (True, b"", 0)

    result = laptop.run("run", "lab", "-q", "echo out; echo err >&2; exit 9")
    assert (result.out, result.err, result.code) == ("out\n", "err\n", 9)


def test_a_shell_there_has_its_devices_and_its_exit_code_comes_back(screen: Typist, head: Far) -> None:
    assert "Job 1 runs on node0 (devices 0, 1, 2, 3)." in screen.screen
    screen.type("echo $CUDA_VISIBLE_DEVICES, $(stty size), $TERM; printf '\\033]0;title\\007'\r")
    screen.expect("0,1,2,3, 30 100, xterm-256color\r\n\x1b]0;title\x07")
    screen.type("exit 6\r")

    assert screen.ended() == 6
    assert head.wait(1)["status"] == "FAILED"


def wait_in_line(laptop: Laptop, head: Far, screens: list[Typist]) -> None:
    """At the first screen, behind a job that has all devices."""
    head.wait(head.submit("--gpus", "H100:4", "sleep 600"), "RUNNING")
    screens.append(Typist(laptop, "run", "lab", "--gpus", "H100:1", *SHELL))


def test_ctrl_c_while_it_waits_cancels_it_and_says_so(
    laptop: Laptop, head: Far, screens: list[Typist]
) -> None:
    wait_in_line(laptop, head, screens)
    screens[0].expect("Job 2 waits: needs 1 H100; none free (job 1 holds 4)")
    screens[0].type("\x03")

    assert screens[0].ended() == 103
    assert "Job 2 is cancelled." in screens[0].screen
    assert head.jobs()[2]["status"] == "CANCELLED"


def test_a_client_that_dies_while_it_waits_cancels_it(
    laptop: Laptop, head: Far, screens: list[Typist]
) -> None:
    wait_in_line(laptop, head, screens)
    screens[0].expect("Job 2 waits: ")
    screens[0].process.send_signal(signal.SIGKILL)

    assert head.wait(2)["status"] == "CANCELLED"


def test_a_client_that_dies_ends_the_job(screen: Typist, head: Far) -> None:
    screen.type("nohup sleep 1234 & setsid sleep 1234 & \r")
    screen.process.send_signal(signal.SIGKILL)

    assert head.wait(1)["reason"] == LOST
    assert not [process for process in head.job_processes() if words_of(process)[:1] == ["sleep"]]


def test_an_agent_that_dies_ends_the_job_and_the_laptop_says_so(screen: Typist, head: Far) -> None:
    for agent in head.agents():
        agent.kill()

    assert screen.ended() == 1
    assert "Without its terminal the job ends. To see it: skyq queue lab" in screen.screen
    assert head.wait(1)["reason"] == LOST


def test_a_connection_that_is_cut_ends_the_job(laptop: Laptop, screen: Typist, head: Far) -> None:
    with laptop.cut_off():
        assert screen.ended() == 1
        assert "The connection to the head was cut." in screen.screen
    assert head.wait(1)["reason"] == LOST


def test_cancel_ends_it_and_the_terminal_says_by_whom(screen: Typist, head: Far) -> None:
    head.ok("cancel", "lab", "1", "-y", env={"SKYQ_USER": "bob"})

    assert screen.ended() == 103
    assert "Job 1: cancelled by bob" in screen.screen
