"""A connection that is lost in the middle: nothing is lost, doubled or submitted twice."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from contextlib import suppress

import psutil

from tests.acceptance.test_logs import read_until, shown
from tests.cli.laptop import Far, Laptop
from tests.cluster import Result
from tests.waiting import wait_until


def finished(process: subprocess.Popen[bytes], before: bytes = b"") -> Result:
    """The end of a command, with what was read of it before."""
    out, err = process.communicate(timeout=120)
    return Result((), process.returncode, (before + out).decode(), err.decode())


def test_a_followed_log_goes_on_where_it_was(laptop: Laptop, head: Far) -> None:
    script = "seq 3; %s; seq 4 6; %s; seq 7 9" % (head.until_open("one"), head.until_open("two"))
    process = laptop.start("exec", "lab", script)
    read = read_until(process, b") 3\n")
    with laptop.cut_off():
        head.until(lambda: not head.agents(), "the agent ends, too")
        head.open_gate("one")
        head.until(lambda: head.log(1).endswith("6\n"), "the job goes on")
    read += read_until(process, b") 6\n")
    head.open_gate("two")
    result = finished(process, read)

    assert shown(result) == [str(number) for number in range(1, 10)]
    assert result.out.count("Job submitted, ID: 1") == 1
    assert result.out.count("Submitting job") == result.out.count("Job started.") == 1
    assert result.lines[-1] == "✓ Job finished (status: SUCCEEDED)."
    assert result.code == 0
    notes = [line for line in result.err.splitlines() if "--gpus" not in line]
    assert notes == ["The connection to the head was cut. Job 1 goes on. Connecting again ..."]


def test_an_unfinished_line_is_finished(laptop: Laptop, head: Far) -> None:
    process = laptop.start("exec", "lab", "printf 'step 1'; %s; echo ' done'" % head.until_open())
    assert process.stdout is not None
    read = b""
    while b") step 1" not in read:
        read += process.stdout.read1()  # type: ignore[attr-defined]
    with laptop.cut_off():
        head.until(lambda: not head.agents(), "the agent ends, too")
    head.open_gate()

    assert shown(finished(process, read)) == ["step 1 done"]


def test_a_waiting_job_is_told_of_once(laptop: Laptop, head: Far) -> None:
    head.submit("--gpus", "H100:4", head.until_open())
    head.wait(1, "RUNNING")
    process = laptop.start("exec", "lab", "--gpus", "H100:2", "echo mine")
    read = read_until(process, b"needs")
    with laptop.cut_off():
        head.until(lambda: not head.agents(), "the agent ends, too")
    wait_until(head.agents, "the laptop comes back")
    head.open_gate()
    result = finished(process, read)

    assert shown(result) == ["mine"]
    assert result.out.count("Waiting for task resources") == result.out.count("needs 2 H100") == 1


def test_a_job_that_ended_meanwhile_is_told_of(laptop: Laptop, head: Far) -> None:
    process = laptop.start("exec", "lab", "echo one; %s; exit 4" % head.until_open())
    read = read_until(process, b") one\n")
    with laptop.cut_off():
        head.until(lambda: not head.agents(), "the agent ends, too")
        head.open_gate()
        head.wait(1, "FAILED")

    assert finished(process, read).code == 100


def test_logs_without_a_number_stay_with_their_job(laptop: Laptop, head: Far) -> None:
    head.submit("echo one; %s; echo end of 1" % head.until_open())
    process = laptop.start("logs", "lab")
    read = read_until(process, b") one\n")
    with laptop.cut_off():
        head.until(lambda: not head.agents(), "the agent ends, too")
        head.submit("echo another")
    head.open_gate()
    result = finished(process, read)

    assert shown(result) == ["one", "end of 1"]
    assert result.out.count("Tailing logs") == 1


def test_agents_killed_at_random_lose_and_double_nothing(laptop: Laptop, head: Far) -> None:
    count = 4000
    over = threading.Event()
    process = laptop.start("exec", "lab", "for i in $(seq %d); do echo $i; sleep 0.001; done" % count)

    def kill_agents() -> None:
        dice = random.Random(4)
        while not over.is_set():
            time.sleep(dice.uniform(0.2, 1.5))
            for agent in head.agents():
                with suppress(psutil.NoSuchProcess):
                    agent.kill()

    killer = threading.Thread(target=kill_agents)
    killer.start()
    try:
        result = finished(process)
    finally:
        over.set()
        killer.join()

    assert shown(result) == [str(number) for number in range(1, count + 1)]
    assert len(head.jobs()) == 1
    assert result.out.count("Job submitted, ID: 1") == 1
    assert "ended without an answer" in result.err


def test_a_submit_whose_answer_is_lost_is_one_job(laptop: Laptop, head: Far) -> None:
    """The agent is killed as soon as the job is in the queue: the laptop can't know, and asks again."""
    killed = 0
    for number in range(1, 6):
        process = laptop.start("exec", "lab", "-d", "-n", "n%d" % number, "true")
        agents = begun(head, process)
        time.sleep(number * 0.1)  # at another moment each time; whichever it is, the outcome is the same
        for agent in agents:
            with suppress(psutil.NoSuchProcess):
                agent.kill()
                killed += 1
        result = finished(process)
        assert result.code == 0, str(result)
        assert ids(result) == [number]
    assert killed

    assert sorted(record["job_name"] for record in head.jobs().values()) == ["n%d" % n for n in range(1, 6)]


def begun(head: Far, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The agents that serve a command, once there are any; none if all was over too fast to be seen."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = head.agents()
        return bool(found) or process.poll() is not None

    wait_until(look, "an agent begins", longest_pause=0.01)
    return found


def ids(result: Result) -> list[int]:
    return [int(line.rpartition(": ")[2]) for line in result.lines if "Job submitted, ID: " in line]


def test_a_head_that_always_dies_is_given_up(laptop: Laptop, head: Far) -> None:
    broken = ["/bin/sh", "-c", "echo broken >&2; exit 1"]
    laptop.knows(head, broken)
    result = laptop.run("exec", "lab", "true")

    assert result.code == 1
    assert "skyq on the head of cluster lab ended without an answer: broken" in result.err
    assert 0 < result.err.count("Connecting again") < 5
    assert laptop.run("queue", "lab").code == 1


def test_a_head_that_stands_still_is_noticed(laptop: Laptop, head: Far) -> None:
    head.submit("echo one; sleep 600")
    process = laptop.start("logs", "lab", env={"TYPED_SILENCE": "1"})
    read_until(process, b") one\n")
    (agent,) = head.agents()
    agent.suspend()
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    agent.kill()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert (
        line
        == "The head of cluster lab has not answered for 1 seconds. Job 1 goes on. Connecting again ...\n"
    )


def test_what_is_not_resumed_says_that_it_is_lost(laptop: Laptop, head: Far) -> None:
    head.submit("sleep 600")
    process = laptop.start("cancel", "lab", "1", stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    while b"Proceed?" not in process.stdout.read1():  # type: ignore[attr-defined]
        pass
    with laptop.cut_off():
        process.stdin.write(b"y\n")
        process.stdin.flush()
        result = finished(process)

    assert result.code == 1
    assert result.err.endswith("The connection to the head was cut.\n")
    assert head.job(1)["status"] in ("PENDING", "RUNNING")
