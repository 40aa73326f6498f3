"""kill -9 of whatever skyq runs, again and again: jobs don't notice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.cluster import LocalQueue, Record
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
    with suppress(psutil.Error):
        if {"_dispatcher", "_node"} & set(process.cmdline()):  # without words it may be a job's, in its exec
            process.send_signal(signal.SIGKILL)
            return True
    return False


class Expected(NamedTuple):
    """How a job ends, whoever is killed."""

    code: int
    lines: int

    @property
    def log(self) -> str:
        return "".join("line %d\n" % number for number in range(self.lines))

    def script(self, seconds: float) -> str:
        return "for ((i = 0; i < %d; i++)); do echo line $i; done; sleep %.2f; exit %d" % (
            *(self.lines, seconds),
            self.code,
        )

    def came_true(self, job: Record, starts: int, cancelled: bool) -> bool:
        """One start, the script's own exit code, all of its log; or cancelled, if somebody asked for that."""
        if job["status"] == "CANCELLED":
            return cancelled and starts <= 1
        state = "FAILED" if self.code else "SUCCEEDED"
        log = Path(job["log_path"], "tasks", "run.log").read_text()
        return (job["status"], job["exit_codes"], starts, log) == (state, [self.code], 1, self.log)


def test_jobs_do_not_notice_the_death_of_dispatcher_node_agent_and_command_line(queue: LocalQueue) -> None:
    print("seed %d (SKYQ_TEST_SEED), %g s (SKYQ_TEST_CHAOS_S)" % (SEED, SECONDS))
    dice = random.Random(SEED)
    truth = Truth(queue)
    chaos = Chaos(queue, random.Random(SEED + 1))
    expected: dict[int, Expected] = {}  # acknowledged jobs
    cancelled: set[int] = set()
    names = 0
    chaos.start()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        names += 1
        job = Expected(dice.choice([0, 0, 0, 3]), dice.randrange(1, 200))
        script = truth.script(job.script(dice.uniform(0, 0.6)))
        words = ["exec", "local", "-d", "-n", "n%d" % names, "--gpus", "H100:1", script]
        if dice.random() < 0.2:
            _kill_midway(queue, words, dice)
            continue
        expected[queue.job_id(queue.ok(*words))] = job
        if dice.random() < 0.2:
            victim = dice.choice(list(expected))
            cancelled.add(victim)
            _cancel(queue, truth, victim, dice)
    chaos.over.set()
    chaos.join()
    queue.wait_all(list(queue.jobs()), *FINAL)

    jobs, starts = queue.jobs(), truth.starts()
    assert chaos.kills > 0 and set(expected) <= set(jobs), queue.evidence()
    assert truth.violations() == []
    named = [job["job_name"] for job in jobs.values()]
    assert len(named) == len(set(named)), "a job that was submitted once is there twice"
    wrong = [n for n, job in expected.items() if not job.came_true(jobs[n], starts[n], n in cancelled)]
    wrong += [n for n in jobs if truth.lives(n)]
    assert not wrong, "seed %d: jobs %s\n%s" % (SEED, wrong, queue.evidence(*wrong))
    print("%d jobs, %d cancelled, %d kills" % (len(jobs), len(cancelled), chaos.kills))


def _cancel(queue: LocalQueue, truth: Truth, victim: int, dice: random.Random) -> None:
    words = ("cancel", "local", "-y", str(victim))
    if dice.random() < 0.3:
        _kill_midway(queue, words, dice)
    elif "Still ending" not in queue.ok(*words).out:
        assert not truth.lives(victim), queue.evidence(victim)


def _kill_midway(queue: LocalQueue, words: Sequence[str], dice: random.Random) -> None:
    """Kill a command at a random moment. Of a submit: the job is there once or not at all."""
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
