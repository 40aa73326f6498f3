"""Each way to get away from a job, end to end: nothing of it lives when skyq shows that the job is over.

The witness is outside skyq: whatever escapes holds a kernel lock as long as it lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import LocalQueue, kill

STAY = """\
import fcntl, os, signal, sys
words = sys.argv[2:]
if "fork twice" in words:
    if os.fork():
        sys.exit()
    os.setsid()
    if os.fork():
        os._exit(0)
if "ignore TERM" in words:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX)
print(os.getpid(), file=lock, flush=True)
if "stop" in words:
    os.kill(os.getpid(), signal.SIGSTOP)
while True:
    signal.pause()
"""
FORK_ON = """\
import fcntl, os, signal, sys, time
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX)  # every child inherits it: free when the last one is dead
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("runs", file=lock, flush=True)
until = time.monotonic() + 120  # not for ever, if skyq lets it go
while time.monotonic() < until:
    if os.fork():
        os._exit(0)
    if "new session" in sys.argv:
        os.setsid()
    time.sleep(0.002)
"""
TAKE = """\
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("taken")
else:
    print("free")
"""
NOWHERE = "</dev/null >/dev/null 2>&1"
ESCAPES = {
    "background": "%s &",
    "nohup": "nohup %s >/dev/null 2>&1 &",
    "setsid": "setsid %s &",
    "double fork with setsid": "%%s 'fork twice' %s" % NOWHERE,
    "double fork with a cleared environment": "(cd / && env -i %%s 'fork twice' %s)" % NOWHERE,
    "TERM ignored": "%s 'ignore TERM' &",
    "stopped": "%s stop &",
    "stopped, and TERM ignored": "%s stop 'ignore TERM' &",
    "all of it": "(cd / && env -i setsid %%s 'fork twice' 'ignore TERM' stop %s)" % NOWHERE,
}
IMPATIENT = {"SKYQ_GRACE_S": "0.3"}


class Witness:
    """Starts what escapes, and knows whether it lives without asking skyq."""

    def __init__(self, queue: LocalQueue) -> None:
        self.queue = queue
        self.folder = queue.user_home / "truth"
        self.folder.mkdir()
        self.python = "%s -I -S" % sys.executable
        self.stay = queue.file("stay.py", STAY)
        self.fork_on = queue.file("fork_on.py", FORK_ON)
        self.take = queue.file("take.py", TAKE)

    def script(self, *escapes: str, job: str, then: str = "sleep 600") -> str:
        """A script that starts these, then goes on when all of them hold their lock."""
        paths = [self.path(job, name) for name in escapes]
        lines = [
            ESCAPES[name] % ("%s %s '%s'" % (self.python, self.stay, path))
            for name, path in zip(escapes, paths)
        ]
        ready = ["until [ -s '%s' ]; do sleep 0.02; done" % path for path in paths]
        return "\n".join([*lines, *ready, "echo ready", then])

    def path(self, job: str, escape: str) -> Path:
        """What that one holds the lock on."""
        return self.folder / ("%s, %s" % (job, escape))

    def living(self, job: str) -> list[str]:
        """Those whose locks are taken, with what they wrote."""
        return [
            "%s: %s" % (path.name, path.read_text().strip())
            for path in sorted(self.folder.glob(job + ", *"))
            if is_locked(path)
        ]

    def submit(self, *escapes: str, job: str, options: tuple[str, ...] = (), then: str = "sleep 600") -> int:
        """A job with these in it, once all of them live."""
        script = self.script(*escapes, job=job, then=then)
        job_id = self.queue.submit(*options, script, env=IMPATIENT)
        self.queue.until(lambda: self.queue.log(job_id).endswith("ready\n"), "all have escaped")
        return job_id


@pytest.fixture
def witness(queue: LocalQueue) -> Witness:
    """For one queue."""
    return Witness(queue)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock: the kernel frees it at the holder's death, not before."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def kill_shim(queue: LocalQueue) -> None:
    """SIGKILL to the shim of the only job that ran, as its start record names it."""
    (record,) = queue.state_dir.glob("run/*.run-0/started")
    os.kill(json.loads(record.read_text())["shim"][0], signal.SIGKILL)


# Cancel.


@pytest.mark.parametrize("escape", ESCAPES)
def test_when_cancelled_is_shown_what_escaped_is_dead(
    queue: LocalQueue, witness: Witness, escape: str
) -> None:
    job_id = witness.submit(escape, job="mine")
    assert len(witness.living("mine")) == 1
    cancel = queue.start("cancel", "local", str(job_id), "-y")  # not waited for: the state alone must tell
    queue.wait(job_id, "CANCELLED")

    assert witness.living("mine") == [], queue.evidence()
    cancel.communicate(timeout=60)


def test_when_all_escape_at_once_all_die_and_those_of_the_neighbour_live(
    queue: LocalQueue, witness: Witness
) -> None:
    neighbour = witness.submit(*ESCAPES, job="theirs", options=("--gpus", "H100:1"))
    job_id = witness.submit(*ESCAPES, job="mine", options=("--gpus", "H100:1"))
    theirs = witness.living("theirs")
    assert len(theirs) == len(witness.living("mine")) == len(ESCAPES)
    cancel = queue.start("cancel", "local", str(job_id), "-y")
    queue.wait(job_id, "CANCELLED")

    assert witness.living("mine") == [], queue.evidence()
    assert witness.living("theirs") == theirs, queue.evidence()
    assert queue.states()[neighbour] == "RUNNING"
    cancel.communicate(timeout=60)


@pytest.mark.parametrize("end", ["CANCELLED", "FAILED_DRIVER"])
@pytest.mark.parametrize("where", ["same session", "new session"])
def test_who_forks_on_and_on_does_not_get_away(
    queue: LocalQueue, witness: Witness, where: str, end: str
) -> None:
    path = witness.path("mine", "fork on")
    words = (witness.python, witness.fork_on, path, where)
    queue.submit("%s %s '%s' '%s' & sleep 600" % words, env=IMPATIENT)
    queue.until(lambda: path.exists() and path.read_text(), "it runs")
    if end == "CANCELLED":
        queue.run("cancel", "local", "1", "-y")
    else:
        kill_shim(queue)
    queue.wait(1, end)

    assert witness.living("mine") == [], queue.evidence()


# The end of a job by itself.


def test_a_job_with_a_background_process_fails_at_once_with_its_own_code(queue: LocalQueue) -> None:
    result = queue.run("exec", "local", "sleep 600 & exit 3")

    assert result.code == 100
    record = queue.job(1)
    assert (record["status"], record["exit_codes"], record["reason"]) == ("FAILED", [3], "exit code 3")
    assert queue.job_processes() == []


def test_what_a_finished_job_left_is_dead_when_its_end_is_shown(queue: LocalQueue, witness: Witness) -> None:
    result = queue.run("exec", "local", witness.script(*ESCAPES, job="mine", then="exit 4"), env=IMPATIENT)

    assert queue.job(1)["exit_codes"] == [4], str(result)
    assert len(list(witness.folder.iterdir())) == len(ESCAPES)
    assert witness.living("mine") == [], queue.evidence()


# Devices, and a killed shim.


def exits(queue: LocalQueue) -> None:
    queue.open_gate()


def is_cancelled(queue: LocalQueue) -> None:
    queue.run("cancel", "local", "1", "-y")


def loses_shim_and_node_agent(queue: LocalQueue) -> None:
    kill(queue.node_agent())
    kill_shim(queue)


def loses_all_that_skyq_runs(queue: LocalQueue) -> None:
    dispatcher = queue.dispatcher()
    loses_shim_and_node_agent(queue)
    kill(dispatcher)
    queue.ok("queue", "local")


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (exits, "FAILED"),
        (is_cancelled, "CANCELLED"),
        (kill_shim, "FAILED_DRIVER"),
        (loses_shim_and_node_agent, "FAILED_DRIVER"),
        (loses_all_that_skyq_runs, "FAILED_DRIVER"),
    ],
)
def test_devices_go_to_the_next_job_only_when_the_last_process_is_gone(
    queue: LocalQueue, witness: Witness, end: Callable[[LocalQueue], None], state: str
) -> None:
    """Each process of the job holds a lock on the device; the next job tries to take it."""
    all_devices = ("--gpus", "H100:4")
    witness.submit(*ESCAPES, job="mine", options=all_devices, then=queue.until_open() + "; exit 5")
    devices = [witness.path("mine", name) for name in ESCAPES]
    take = "\n".join("%s %s '%s'" % (witness.python, witness.take, device) for device in devices)
    waiting = queue.submit(*all_devices, take)
    assert queue.states() == {1: "RUNNING", waiting: "PENDING"}
    end(queue)
    queue.wait(waiting, "SUCCEEDED")

    assert queue.log(waiting) == "free\n" * len(ESCAPES), queue.evidence()
    assert queue.states()[1] == state


def test_a_killed_shim_is_told_and_what_it_watched_is_dead(queue: LocalQueue, witness: Witness) -> None:
    witness.submit(*ESCAPES, job="mine", options=("--gpus", "H100:4"))
    assert len(witness.living("mine")) == len(ESCAPES)
    kill_shim(queue)
    record = queue.wait(1, "FAILED_DRIVER")

    assert witness.living("mine") == [], queue.evidence()
    assert record["reason"] == "exit status unknown: its shim was killed"
    assert queue.job_processes() == []
    assert queue.run("logs", "local", "1").code == 100
