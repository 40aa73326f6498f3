"""Processes are told apart by pid and start: no signal ever reaches a stranger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from skyq.node import proc
from tests.program import ROOT
from tests.waiting import wait_until


@contextmanager
def sleeping(*program: object, **options: Any) -> Iterator[proc.Stat]:
    """A process that is none of ours."""
    with subprocess.Popen([*map(str, program or ["sleep"]), "600"], **options) as process:
        try:
            found = proc.stat(process.pid)
            assert found is not None
            yield found
        finally:
            process.kill()


@pytest.fixture
def stranger() -> Iterator[proc.Stat]:
    """One that leads a session."""
    with sleeping(start_new_session=True) as found:
        yield found


def test_a_pid_that_was_given_to_another_process_is_not_signalled(stranger: proc.Stat) -> None:
    assert not proc.send_signal(stranger.pid, stranger.start - 1, signal.SIGKILL)
    assert not proc._kill_by_pid(stranger.pid, stranger.start - 1, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        proc.pidfd(stranger.pid, stranger.start - 1)

    assert proc.lives(stranger.pid, stranger.start)


def test_the_session_of_a_pid_that_was_given_to_another_process_is_not_a_steps(stranger: proc.Stat) -> None:
    def found(since: int) -> list[int]:
        return [entry.pid for entry in proc.strays("none", "/nonexistent", stranger.pid, since)]

    assert found(since=stranger.start) == [stranger.pid]
    assert found(since=stranger.start - 1) == []


def test_a_kill_takes_the_whole_group_at_once() -> None:
    """Who forks between the look at /proc and the signal is in it."""
    line = "sleep 600 & sleep 600 & echo ready; wait"
    with subprocess.Popen(["bash", "-c", line], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        leader = proc.stat(process.pid)
        assert leader is not None and len(proc.descendants([process.pid])) == 2
        proc.signal_all([leader], signal.SIGKILL)

        wait_until(lambda: process.stdout.read() == b"", "the last of them closes the pipe")


def test_a_script_does_not_go_on_when_what_it_waits_for_is_killed_with_it() -> None:
    """It would run its next line, or at least say "Killed", if what it started were killed first."""
    told = []
    for _ in range(30):
        line = "while :; do sleep 600; echo went on; done"
        with subprocess.Popen(
            ["bash", "-c", line], stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            sleeper = wait_until(lambda pid=process.pid: proc.descendants([pid]), "it sleeps")  # type: ignore[misc]
            proc.signal_all(sleeper, signal.SIGKILL)
            told.append(process.communicate()[0])

    assert set(told) == {b""}


def test_a_process_is_found_by_its_cookie_as_a_whole_word() -> None:
    def found(step: str) -> list[int]:
        return [entry.pid for entry in proc.strays(step, "/nonexistent", -1, 0)]

    with sleeping(env={"SKYQ_STEP_ID": "abc.10.run-1"}) as process:
        wait_until(lambda: found("abc.10.run-1") == [process.pid], "its exec is complete")
        assert found("abc.1") == []
        assert found("abc.10.run-10") == []


def test_names_of_programs_may_hold_anything(tmp_path: Path) -> None:
    program = tmp_path / ") R 1 1 1 ("
    program.symlink_to("/bin/sleep")
    with sleeping(program) as found:
        assert (found.parent, found.session) == (os.getpid(), os.getsid(0))


def test_a_boot_is_told_from_the_next_also_where_only_the_container_was_restarted() -> None:
    command = "from skyq.node import proc; print(proc.boot())"
    done = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount-proc", sys.executable, "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("unshare --pid: %s" % done.stderr)

    here, there = proc.boot(), done.stdout.strip()
    assert here.split(".")[0] == there.split(".")[0]
    assert here != there
