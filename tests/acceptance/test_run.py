"""`skyq run`: a terminal, or pipes, on a node, with devices, for as long as somebody is there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.cluster import LocalQueue, words_of
from tests.typist import Typist
from tests.waiting import PATIENCE, wait_until

Typed = Callable[..., Typist]
LOST = "exit code 129 (killed by signal 1); the connection to its terminal was lost"
SHELL = ("--env", "PS1=here> ", "--", "bash", "--norc")


@pytest.fixture
def typed(queue: LocalQueue) -> Iterator[Typed]:
    """`typed("run", "local", ...)`: a command at a terminal. Nothing of it outlives the test."""
    typists: list[Typist] = []

    def make(*words: str) -> Typist:
        typists.append(Typist(queue, *words))
        return typists[-1]

    yield make
    for typist in typists:
        typist.close()


def only(queue: LocalQueue) -> dict[str, Any]:
    """The one job that there is."""
    jobs = queue.jobs()
    assert len(jobs) == 1
    return jobs[1]


def sleepers(queue: LocalQueue) -> list[psutil.Process]:
    """The processes of jobs that are `sleep`."""
    return [process for process in queue.job_processes() if process.name() == "sleep"]


# As a pipe.


def test_without_a_terminal_it_is_a_pipe_byte_for_byte(queue: LocalQueue) -> None:
    data = bytes(range(256)) * 8192 + b"no end of line"
    with queue.start("run", "local", "-q", "--", "cat", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(data, PATIENCE)

    assert (process.returncode, err) == (0, b"")
    assert out == data


def test_standard_error_comes_apart_and_the_exit_code_is_the_commands(queue: LocalQueue) -> None:
    result = queue.run("run", "local", "-q", "echo out; echo err >&2; exit 7")

    assert (result.code, result.out, result.err) == (7, "out\n", "err\n")
    assert (only(queue)["status"], only(queue)["reason"]) == ("FAILED", "exit code 7")


def test_a_shell_takes_its_commands_from_the_pipe_and_has_the_devices(queue: LocalQueue) -> None:
    result = queue.run("run", "local", "-q", "--gpus", "H100:2", input="echo $CUDA_VISIBLE_DEVICES; pwd\n")

    assert result.lines == ["0,1", str(queue.user_home / "sky_workdir")]


def test_words_keep_their_quoting_and_a_bashrc_reads_nothing_of_the_input(queue: LocalQueue) -> None:
    queue.bashrc("cat >/dev/null; greet() { echo hello $1; }\n")

    assert (
        queue.run("run", "local", "-q", "--", "printf", "%s|", "a b", "$HOME", "", input="x").out
        == "a b|$HOME||"
    )
    assert queue.run("run", "local", "-q", "--", "cat", input="all of it").out == "all of it"
    assert queue.run("run", "local", "-q", "--", "greet", "you").out == "hello you\n"


def test_who_reads_late_gets_all_and_keeps_no_devices(queue: LocalQueue) -> None:
    with queue.start("run", "local", "-q", "--gpus", "H100:4", "--", "seq", "40000") as process:
        assert process.stdout is not None
        queue.until(lambda: 1 in queue.jobs(), "it is in the queue")
        assert queue.wait(1)["status"] == "SUCCEEDED"  # it fits on the way: nobody has to read it
        assert process.stdout.read() == "".join("%d\n" % i for i in range(1, 40_001)).encode()
        assert process.wait(PATIENCE) == 0


def test_more_than_fits_on_the_way_waits_for_its_reader(queue: LocalQueue) -> None:
    with queue.start("run", "local", "-q", "--", "seq", "1000000") as process:
        assert process.stdout is not None
        first = process.stdout.read(10)
        queue.wait(1, "RUNNING")
        assert first + process.stdout.read() == "".join("%d\n" % i for i in range(1, 1_000_001)).encode()
        assert process.wait(PATIENCE) == 0


def test_who_stops_reading_ends_it(queue: LocalQueue) -> None:
    with queue.start("run", "local", "-q", "--", "yes") as process:
        assert process.stdout is not None and process.stdout.read(10)
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
    assert queue.wait(1)["reason"] == LOST


def test_what_goes_on_in_the_background_keeps_nothing(queue: LocalQueue) -> None:
    result = queue.run("run", "local", "-q", "setsid sleep 1234 & echo over")

    assert (result.code, result.out) == (0, "over\n")
    assert queue.wait(1)["status"] == "SUCCEEDED"
    assert not queue.job_processes()


# At a terminal.


def test_it_is_a_terminal_of_that_size_and_kind_and_follows_the_window(typed: Typed) -> None:
    screen = typed("run", "local", "--gpus", "H100:1", *SHELL)
    screen.expect("here> ")
    screen.type("echo [$(tty)] $(stty size) $TERM $CUDA_VISIBLE_DEVICES.\r")
    screen.expect("] 30 100 xterm-256color 0.")
    assert "[/dev/pts/" in screen.screen
    screen.size(50, 132)
    os.kill(screen.process.pid, signal.SIGWINCH)  # this terminal's session isn't the test's
    wait_until(lambda: size_is(screen, "50 132"), "the size is known there", evidence=screen.told)
    screen.type("exit 5\r")

    assert screen.ended() == 5


def size_is(screen: Typist, size: str) -> bool:
    screen.type("stty size\r")
    screen.look()
    return size in screen.screen


def test_ctrl_c_and_ctrl_z_and_ctrl_d_are_for_the_program(queue: LocalQueue, typed: Typed) -> None:
    screen = typed("run", "local", *SHELL)
    screen.expect("here> ")
    screen.type("sleep 600\r")
    wait_until(lambda: sleepers(queue), "it sleeps")
    screen.type("\x1a")
    screen.expect("Stopped")
    screen.type("fg\r")
    wait_until(lambda: sleepers(queue)[0].status() == psutil.STATUS_SLEEPING, "it goes on")
    screen.type("\x03")
    wait_until(lambda: not sleepers(queue), "it is interrupted")
    screen.type("echo code $?.\r")
    screen.expect("code 130.\r\n\x1b[?2004hhere> ")  # ^D is the end only where bash edits its next line
    screen.type("\x04")

    assert screen.ended() == 0
    assert queue.wait(1)["status"] == "SUCCEEDED"


def test_it_waits_its_turn_says_why_and_starts(queue: LocalQueue, typed: Typed) -> None:
    holder = queue.submit("--gpus", "H100:4", "sleep 600")
    queue.wait(holder, "RUNNING")
    screen = typed("run", "local", "--gpus", "H100:1", "--", "echo", "my turn")
    screen.expect("Job 2 waits: needs 1 H100; none free (job 1 holds 4)")
    assert queue.jobs()[2]["status"] == "PENDING"
    queue.ok("cancel", "local", str(holder), "-y")
    screen.expect("Job 2 runs on localhost (device 0).")
    screen.expect("my turn")

    assert screen.ended() == 0


def test_ctrl_c_while_it_waits_cancels_it(queue: LocalQueue, typed: Typed) -> None:
    holder = queue.submit("--gpus", "H100:4", "sleep 600")
    queue.wait(holder, "RUNNING")
    screen = typed("run", "local", "--gpus", "H100:1", "--", "bash")
    screen.expect("Job 2 waits: ")
    screen.type("\x03")

    assert screen.ended() == 103
    assert "Job 2 is cancelled." in screen.screen
    assert queue.jobs()[2]["status"] == "CANCELLED"


def test_a_window_that_is_closed_while_it_waits_cancels_it(queue: LocalQueue, typed: Typed) -> None:
    holder = queue.submit("--gpus", "H100:4", "sleep 600")
    queue.wait(holder, "RUNNING")
    screen = typed("run", "local", "--gpus", "H100:1", "--", "bash")
    screen.expect("Job 2 waits: ")
    os.kill(screen.process.pid, signal.SIGHUP)

    assert screen.ended() == 129
    assert queue.jobs()[2]["status"] == "CANCELLED"


def test_cancel_ends_a_shell_at_its_prompt_and_the_terminal_says_by_whom(
    queue: LocalQueue, typed: Typed
) -> None:
    screen = typed("run", "local", "--gpus", "H100:1", *SHELL)
    screen.expect("here> ")
    queue.ok("cancel", "local", "1", "-y", env={"SKYQ_USER": "bob", "SKYQ_GRACE_S": "60"})

    assert screen.ended() == 103
    assert "Job 1: cancelled by bob" in screen.screen
    assert queue.wait(1)["status"] == "CANCELLED"


def test_a_program_that_is_cancelled_has_its_grace_time(queue: LocalQueue, typed: Typed) -> None:
    line = "trap 'sleep 1; echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    screen = typed("run", "local", "--", "bash", "-c", line)
    screen.expect("ready\r\n")
    queue.ok("cancel", "local", "1", "-y")
    screen.expect("saved")

    assert screen.ended() == 103


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_when_the_client_dies_the_shell_is_hung_up_on_and_the_devices_are_free(
    queue: LocalQueue, typed: Typed, number: int
) -> None:
    line = "trap 'echo hung up >hup; exit' HUP; nohup sleep 1234 & setsid sleep 1234 & echo ready; cat"
    screen = typed("run", "local", "--gpus", "H100:4", "--", "bash", "-c", line + "; wait")
    screen.expect("ready\r\n")
    os.kill(screen.process.pid, number)

    job = queue.wait(1)
    assert job["status"] == "FAILED"
    assert job["reason"] == LOST
    assert (queue.user_home / "sky_workdir" / "hup").read_text() == "hung up\n"
    assert not queue.job_processes()
    assert queue.wait(queue.submit("--gpus", "H100:4", "true"))["status"] == "SUCCEEDED"


def test_when_its_shim_is_killed_nothing_is_left_and_the_terminal_says_so(
    queue: LocalQueue, typed: Typed
) -> None:
    screen = typed("run", "local", "--gpus", "H100:1", *SHELL)
    screen.expect("here> ")
    screen.type("setsid sleep 1234 & \r")
    wait_until(lambda: sleepers(queue), "it sleeps")
    shims = [p for p in queue.job_processes() if "_node" in words_of(p) and os.getsid(p.pid) == p.pid]
    min(shims, key=lambda p: p.create_time()).kill()

    assert screen.ended() == 100
    assert "Job 1: exit status unknown: its shim was killed" in screen.screen
    queue.until(lambda: not queue.job_processes(), "nothing of it is left")


def test_it_outlives_dispatcher_and_node_agent(queue: LocalQueue, typed: Typed) -> None:
    screen = typed("run", "local", "--gpus", "H100:1", *SHELL)
    screen.expect("here> ")
    for process in queue.own_processes():
        process.kill()
    screen.type("echo still $((40 + 2))\r")
    screen.expect("still 42")
    queue.ok("queue", "local")
    screen.type("exit\r")

    assert screen.ended() == 0
    assert queue.wait(1)["status"] == "SUCCEEDED"


# Words.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "Missing argument 'CLUSTER'."),
        (["run", "local", "-d"], "skyq run takes no -d: "),
        (["run", "local", "--num-nodes", "2"], "skyq run takes no --num-nodes: it runs on one node"),
        (["run", "local", "--array", "0-9"], "skyq run takes no --array: it is one job"),
        (["run", "local", "--frob"], "No such option: --frob"),
    ],
)
def test_what_it_does_not_take(queue: LocalQueue, words: list[str], said: str) -> None:
    result = queue.run(*words)

    assert result.code == 2 and said in result.err


def test_a_task_file_is_not_a_command_and_a_misfit_is_told(queue: LocalQueue) -> None:
    queue.file("task.yaml", "run: echo hi\n")

    result = queue.run("run", "local", "task.yaml")
    assert result.code == 1 and "skyq run takes a command, not a task file" in result.err
    result = queue.run("run", "local", "--gpus", "H100:9", "--", "bash")
    assert result.code == 1 and "Requested resources do not match" in result.err
    assert queue.jobs() == {}


def test_it_can_not_be_run_again_without_a_terminal(queue: LocalQueue) -> None:
    queue.run("run", "local", "-q", "true")
    result = queue.run("rerun", "local", "1")

    assert result.code == 1 and re.search("Job 1 had a terminal.*skyq run local", result.err)


def test_its_time_limit_ends_it_and_the_terminal_says_so(queue: LocalQueue, typed: Typed) -> None:
    screen = typed("run", "local", "--gpus", "H100:1", "--time", "2s", *SHELL)
    screen.expect("here> ")

    assert screen.ended() == 100
    assert "time limit" in screen.screen
    assert "time limit" in queue.wait(1)["reason"]
