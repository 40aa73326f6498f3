"""What a job started is dead when the queue says that the job has ended, and nothing else is."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.cluster import LocalQueue, kill
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


def test_nothing_is_alive_when_cancelled_shows_and_the_neighbour_lives(queue: LocalQueue) -> None:
    truth = Truth(queue)
    neighbour = queue.submit("--gpus", "H100:1", truth.script(zoo_neighbour()))
    victim = queue.submit("--gpus", "H100:3", truth.script(zoo_of(queue)))
    pids, others = pids_of(queue, SIZE), pids_of(queue, 2, "neighbours")
    queue.ok("cancel", "local", "-y", str(victim))
    queue.wait(victim, "CANCELLED")

    assert living(pids) == [], queue.evidence()
    assert len(living(others)) == 2
    after = queue.submit("--gpus", "H100:3", truth.script())
    queue.wait(after, "SUCCEEDED")
    queue.open_gate()
    queue.wait(neighbour, "SUCCEEDED")
    assert truth.violations() == []


def zoo_neighbour() -> str:
    return "sleep 600 & echo $! >> ~/neighbours; echo $$ >> ~/neighbours; " + LocalQueue.until_open()


@pytest.mark.parametrize("also", [(), ("_node",), ("_dispatcher",), ("_node", "_dispatcher")], ids="+".join)
@pytest.mark.parametrize("adopted", [False, True], ids=["own", "adopted"])
def test_a_killed_shim_fails_its_job_alone_and_frees_its_device(
    queue: LocalQueue, also: tuple[str, ...], adopted: bool
) -> None:
    truth = Truth(queue)
    neighbour = queue.submit("--gpus", "H100:1", truth.script(zoo_neighbour() + "; exit 5"))
    known = {"known_to_its_parent_only": not also and not adopted}
    victim = queue.submit("--gpus", "H100:3", truth.script(zoo_of(queue, **known)))
    pids, others = pids_of(queue, SIZE), pids_of(queue, 2, "neighbours")
    shim = shim_of(queue, pids[-1] if "sleep" not in psutil.Process(pids[-1]).name() else _script(pids))
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


def _script(pids: list[int]) -> int:
    """The script among these processes: its parent is the shim, and it is a bash."""
    return next(
        p
        for p in pids
        if psutil.Process(p).name() == "bash" and "prelude.sh" in str(psutil.Process(p).cmdline())
    )


def test_a_background_process_does_not_hold_the_job(queue: LocalQueue) -> None:
    result = queue.run("exec", "local", "sleep 600 & echo $! >> ~/pids; exit 3")

    assert result.code == 100
    assert queue.job(1)["exit_codes"] == [3]
    assert living(pids_of(queue, 1)) == []


def test_a_job_that_kills_all_that_its_user_may_kill_fails_and_the_queue_goes_on(queue: LocalQueue) -> None:
    """In a pid namespace, where that is not the whole machine."""
    skyq = " ".join("'%s'" % word for word in queue.program)
    script = """
        %(skyq)s exec local -d 'kill -9 -1; sleep 600' >/dev/null 2>&1
        until ! pgrep -f _dispatcher >/dev/null; do sleep 0.05; done
        until %(skyq)s logs local 1 --status | grep -v -e PENDING -e RUNNING; do sleep 0.1; done
        %(skyq)s exec local 'echo goes on'
        pgrep -x sleep
    """
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "bash", "-c", script % {"skyq": skyq}],
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
    assert "goes on\n" in done.stdout
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
    host = queue.submit(
        "%s; %s; touch ~/nested; %s" % (queue.until_open("a"), nested(queue), queue.until_open("b"))
    )
    queue.wait(host, "RUNNING")
    kill(queue.dispatcher())
    queue.open_gate("a")
    queue.until((queue.user_home / "nested").exists, "the job starts a dispatcher")
    lodger = queue.dispatcher()
    assert len([p for p in lodger.parents() if "_node" in p.cmdline()]) == 1, queue.evidence()
    guest = queue.submit("echo $$ >> ~/guest; trap 'exit 9' TERM; %s; exit 4" % queue.until_open("c"))
    pids = pids_of(queue, 1, "guest")
    if dies:
        kill(lodger)
    if end == "exits":
        queue.open_gate("b")
    elif end == "is cancelled":
        queue.ok("cancel", "local", "-y", str(host))
    else:
        kill(
            shim_of(queue, queue.job(host)["pids"]["run-0"])
            if "pids" in queue.job(host)
            else _host_shim(queue, host)
        )
    queue.wait(host, *{"exits": ["SUCCEEDED"], "is cancelled": ["CANCELLED"]}.get(end, ["FAILED_DRIVER"]))

    assert len(living(pids)) == 1, queue.evidence()
    if not dies and end != "'s shim is killed":
        assert lodger.is_running()
    queue.open_gate("c")
    assert queue.wait(guest, "FAILED")["exit_codes"] == [4]


def _host_shim(queue: LocalQueue, job_id: int) -> psutil.Process:
    mark = "%d-" % job_id
    for process in queue.job_processes():
        if process.name() == "bash" and any(mark in file.path for file in process.open_files()):
            return shim_of(queue, process.pid)
    raise AssertionError(queue.evidence())


def test_ctrl_c_ends_the_view_and_not_the_job(queue: LocalQueue) -> None:
    process = queue.start("exec", "local", "echo started; %s; exit 6" % queue.until_open())
    assert process.stdout
    queue.until(lambda: b"started" in process.stdout.readline(), "the view shows the job")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert queue.job(1)["status"] == "RUNNING"
    queue.open_gate()
    assert queue.wait(1, "FAILED")["exit_codes"] == [6]
