"""Killed shims, jobs that kill all, dispatchers inside of jobs: what dies is the job's, and all of that."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.cluster import LocalQueue, kill, words_of
from tests.faults.truth import Truth
from tests.node.agent import living
from tests.zoo import SIZE, zoo


def pids_of(queue: LocalQueue, count: int, name: str = "pids") -> list[int]:
    """The pids that a job wrote down, once there are so many."""
    path = queue.user_home / name
    return queue.until(
        lambda: [int(line) for line in path.read_text().split()] if _lines(path) >= count else [],
        "%d pids are written" % count,
    )


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def zoo_of(queue: LocalQueue, **known: bool) -> str:
    return zoo(queue.user_home / "pids", queue.user_home / "daemon.py", **known)


def shim_of(queue: LocalQueue, pid: int) -> psutil.Process:
    """The shim above a script."""
    found = psutil.Process(pid).parent()
    assert found is not None and "_node" in found.cmdline(), queue.evidence()
    return found


def zoo_neighbour() -> str:
    return "sleep 600 & echo $! >> ~/neighbours; echo $$ >> ~/neighbours; " + LocalQueue.until_open()


@pytest.mark.parametrize("adopted", [False, True], ids=["own", "adopted"])
@pytest.mark.parametrize("also", [(), ("_node",), ("_node", "_dispatcher")], ids=["alone", "agent", "both"])
def test_a_killed_shim_fails_its_job_alone_and_frees_its_device(
    queue: LocalQueue, also: tuple[str, ...], adopted: bool
) -> None:
    """Also if the node agent that started it, or is to find out, or the dispatcher too, was killed before."""
    truth = Truth(queue)
    neighbour = queue.submit("--gpus", "H100:1", truth.script(zoo_neighbour() + "; exit 5"))
    known = {"known_to_its_parent_only": not also and not adopted}
    victim = queue.submit("--gpus", "H100:3", truth.script("echo $$ >> ~/script; " + zoo_of(queue, **known)))
    pids, others = pids_of(queue, SIZE), pids_of(queue, 2, "neighbours")
    shim = shim_of(queue, pids_of(queue, 1, "script")[0])
    if adopted:
        kill(queue.node_agent())
        queue.node_agent()
    for verb in also:
        kill(queue.dispatcher() if verb == "_dispatcher" else queue.node_agent())
    kill(shim)
    queue.ok("queue", "local")

    record = queue.wait(victim, "FAILED_DRIVER")
    assert living(pids) == [], queue.evidence()
    assert record["reason"] == "exit status unknown: its shim was killed"
    after = queue.submit("--gpus", "H100:3", truth.script())
    queue.wait(after, "SUCCEEDED")
    assert len(living(others)) == 2
    queue.open_gate()
    assert queue.wait(neighbour, "FAILED")["exit_codes"] == [5]
    assert truth.violations() == []


def test_a_job_that_kills_all_that_its_user_may_kill_fails_and_the_queue_goes_on(queue: LocalQueue) -> None:
    """In a pid namespace, where that is not the whole machine."""
    skyq = " ".join("'%s'" % word for word in queue.program)
    script = """
        %(skyq)s exec local -d 'kill -9 -1; sleep 600' >/dev/null
        until %(skyq)s logs local 1 --status | grep -v -e PENDING -e RUNNING; do sleep 0.1; done
        %(skyq)s exec local 'echo goes on'
        grep -lx sleep /proc/[0-9]*/comm
    """
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script % {"skyq": skyq}],
        env=queue.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "unshare failed" in done.stderr:
        pytest.skip("no pid namespace here: %s" % done.stderr)

    assert done.stdout.splitlines()[0] == "Job 1: FAILED_DRIVER", done.stdout + done.stderr
    assert ") goes on\n" in done.stdout
    assert done.returncode == 1, "a sleep is left: %s" % done.stdout


# A dispatcher that was started by a job lives below that job's shim.


def nested(queue: LocalQueue) -> str:
    """A skyq command inside of a job, which starts a dispatcher where there is none."""
    variables = {name: value for name, value in queue.env.items() if name.startswith("SKYQ_")}
    setting = " ".join("%s='%s'" % pair for pair in variables.items())
    words = " ".join("'%s'" % word for word in queue.program)
    return "%s PYTHONPATH='%s' %s queue local" % (setting, queue.env.get("PYTHONPATH", ""), words)


@pytest.mark.parametrize("end", ["exits", "is cancelled", "'s shim is killed"], ids=str.strip)
@pytest.mark.parametrize("dies", [False, True], ids=["it lives on", "it dies too"])
def test_the_end_of_a_job_that_started_the_dispatcher_ends_nobody_elses_job(
    queue: LocalQueue, end: str, dies: bool
) -> None:
    first, then = queue.until_open("a"), queue.until_open("b")
    host = queue.submit("echo $$ >> ~/host; %s; %s; touch ~/nested; %s" % (first, nested(queue), then))
    queue.wait(host, "RUNNING")
    kill(queue.dispatcher())
    queue.open_gate("a")
    queue.until((queue.user_home / "nested").exists, "the job starts a dispatcher")
    lodger = queue.dispatcher()
    assert len([p for p in lodger.parents() if "_node" in words_of(p)]) == 1, queue.evidence()
    guest = queue.submit("echo $$ >> ~/guest; trap 'exit 9' TERM; %s; exit 4" % queue.until_open("c"))
    pids = pids_of(queue, 1, "guest")
    if dies:
        kill(lodger)
    if end == "exits":
        queue.open_gate("b")
    elif end == "is cancelled":
        queue.ok("cancel", "local", "-y", str(host))
    else:
        kill(shim_of(queue, pids_of(queue, 1, "host")[0]))
    queue.wait(host, *{"exits": ["SUCCEEDED"], "is cancelled": ["CANCELLED"]}.get(end, ["FAILED_DRIVER"]))

    assert len(living(pids)) == 1, queue.evidence()
    if not dies and end != "'s shim is killed":
        assert lodger.is_running()
    queue.open_gate("c")
    assert queue.wait(guest, "FAILED")["exit_codes"] == [4]


def test_ctrl_c_ends_the_view_and_not_the_job(queue: LocalQueue) -> None:
    process = queue.start("exec", "local", "echo started; %s; exit 6" % queue.until_open())
    assert process.stdout
    shown = process.stdout
    queue.until(lambda: shown.readline().endswith(b") started\n"), "the view shows the job")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert queue.job(1)["status"] == "RUNNING"
    queue.open_gate()
    assert queue.wait(1, "FAILED")["exit_codes"] == [6]
