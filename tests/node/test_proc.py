"""Processes are told apart by pid and start: no signal ever reaches a stranger."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from skyq.node import proc


@pytest.fixture
def stranger() -> Iterator[proc.Stat]:
    """A process that leads a session, and is none of ours."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        found = proc.stat(process.pid)
        assert found is not None
        yield found
        process.kill()


def test_a_pid_that_was_given_to_another_process_is_not_signalled(stranger: proc.Stat) -> None:
    assert not proc.send_signal(stranger.pid, stranger.start - 1, signal.SIGKILL)
    assert not proc._kill_by_pid(stranger.pid, stranger.start - 1, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        proc.pidfd(stranger.pid, stranger.start - 1)

    assert proc.lives(stranger.pid, stranger.start)


def test_the_session_of_a_pid_that_was_given_to_another_process_is_not_a_steps(stranger: proc.Stat) -> None:
    def found(since: int) -> list[int]:
        return [entry.pid for entry in proc.strays(b"NONE=1", "/nonexistent", stranger.pid, since)]

    assert found(since=stranger.start) == [stranger.pid]
    assert found(since=stranger.start - 1) == []


def test_a_process_is_found_by_its_cookie_as_a_whole_word(stranger: proc.Stat) -> None:
    with subprocess.Popen(["sleep", "600"], env={"SKYQ_STEP_ID": "abc.10.run-1"}) as process:

        def found(cookie: bytes) -> list[int]:
            return [entry.pid for entry in proc.strays(cookie, "/nonexistent", 0, 0)]

        assert found(b"SKYQ_STEP_ID=abc.10.run-1") == [process.pid]
        assert found(b"SKYQ_STEP_ID=abc.1") == []
        assert found(b"SKYQ_STEP_ID=abc.10.run-10") == []
        process.kill()


def test_names_of_programs_may_hold_anything(tmp_path) -> None:  # type: ignore[no-untyped-def]
    program = tmp_path / ") R 1 1 1 ("
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "600"]) as process:
        found = proc.stat(process.pid)
        process.kill()

    assert found is not None
    assert (found.parent, found.session) == (os.getpid(), os.getsid(0))


def test_a_boot_is_told_from_the_next_also_where_only_the_container_was_restarted() -> None:
    command = (
        "import sys; sys.path.insert(0, %r); from skyq.node import proc; print(proc.boot())" % os.getcwd()
    )
    done = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount-proc", "python3", "-c", command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("unshare --pid: %s" % done.stderr)

    here, there = proc.boot(), done.stdout.strip()
    assert here.split(".")[0] == there.split(".")[0]
    assert here != there
