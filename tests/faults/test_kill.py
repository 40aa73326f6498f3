"""kill -9 of whatever skyq runs, again and again: jobs don't notice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import psutil
import pytest

from tests.cluster import LocalQueue
from tests.faults.truth import Truth

SECONDS = float(os.environ.get("SKYQ_TEST_CHAOS_S", "25"))
SEED = int(os.environ.get("SKYQ_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


class Chaos(threading.Thread):
    """Kills the dispatcher and the node agent at random moments, never a shim or a job."""

    def __init__(self, queue: LocalQueue, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self.queue, self.dice = queue, dice
        self.kills = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(self.dice.uniform(0.02, 0.5)):
            for process in self.queue.own_processes():
                if self.dice.random() < 0.6:
                    self.kills += _killed(process)


def _killed(process: psutil.Process) -> bool:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def _said(lines: int) -> str:
    return "".join("line %d\n" % number for number in range(lines))


def test_jobs_do_not_notice_the_death_of_dispatcher_node_agent_and_command_line(queue: LocalQueue) -> None:
    print("seed %d (SKYQ_TEST_SEED), %g s (SKYQ_TEST_CHAOS_S)" % (SEED, SECONDS))
    dice = random.Random(SEED)
    truth = Truth(queue)
    chaos = Chaos(queue, random.Random(SEED + 1))
    expected: dict[int, tuple[int, int]] = {}  # acknowledged job → (exit code, lines)
    cancelled: set[int] = set()
    names = 0
    chaos.start()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        names += 1
        code, lines = dice.choice([0, 0, 0, 3]), dice.randrange(1, 200)
        work = "for i in {0..%d}; do echo line $i; done; sleep %.2f; exit %d" % (
            lines - 1,
            dice.uniform(0, 0.6),
            code,
        )
        words = ["exec", "local", "-d", "-n", "n%d" % names, "--gpus", "H100:1", truth.script(work)]
        if dice.random() < 0.2:
            _kill_midway(queue, words, dice)
            continue
        expected[queue.job_id(queue.ok(*words))] = (code, lines)
        if dice.random() < 0.2:
            victim = dice.choice(list(expected))
            queue.ok("cancel", "local", "-y", str(victim))
            cancelled.add(victim)
    chaos.over.set()
    chaos.join()
    jobs = queue.jobs()
    queue.wait_all(list(jobs), *FINAL, within=60)

    jobs = queue.jobs()
    assert chaos.kills > 0 and set(expected) <= set(jobs), queue.evidence()
    assert truth.violations() == []
    named = [job["job_name"] for job in jobs.values()]
    assert len(named) == len(set(named)), "a job that was submitted once is there twice"
    starts = truth.starts()
    wrong = []
    for job_id, (code, lines) in expected.items():
        job, ran = jobs[job_id], starts[job_id]
        if job["status"] == "CANCELLED":
            well = job_id in cancelled and ran <= 1
        else:
            state = "FAILED" if code else "SUCCEEDED"
            well = (job["status"], job["exit_codes"], ran) == (state, [code], 1)
            well = well and queue.log(job_id) == _said(lines)
        if not well:
            wrong.append(job_id)
    assert not wrong, "seed %d: jobs %s\n%s" % (SEED, wrong, queue.evidence(*wrong))
    print("%d jobs, %d cancelled, %d kills" % (len(jobs), len(cancelled), chaos.kills))


def _kill_midway(queue: LocalQueue, words: list[str], dice: random.Random) -> None:
    """Kill the command line at a random moment of a submit: the job is there once or not at all."""
    process = queue.start(*words)
    time.sleep(dice.uniform(0.0, 0.15))  # the moment is the test's input, not its outcome
    process.kill()
    process.communicate()


@pytest.mark.parametrize("victim", ["_dispatcher", "_node"])
def test_the_next_command_brings_everything_back(queue: LocalQueue, victim: str) -> None:
    running = queue.submit("--gpus", "H100:4", queue.until_open() + "; exit 7")
    waiting = queue.submit("--gpus", "H100:1", "echo ran")
    queue.wait(running, "RUNNING")
    process = queue.dispatcher() if victim == "_dispatcher" else queue.node_agent()
    process.send_signal(signal.SIGKILL)
    queue.open_gate()
    queue.ok("queue", "local")

    assert queue.wait(running, "FAILED")["exit_codes"] == [7]
    queue.wait(waiting, "SUCCEEDED")
    assert queue.log(waiting) == "ran\n"


def test_nothing_is_left_running_when_nothing_is_queued(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")

    queue.until(lambda: not queue.processes(), "dispatcher and node agent leave")
    assert list(queue.claims.glob("*.claim")) == []  # and the machine is given back
