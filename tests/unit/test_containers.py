"""How a step's containers end: asked of engines that may fail, hang, or not know what is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skyq.core.paths import RunDir, Wrappers
from skyq.node import containers
from skyq.node.containers import Containers

ID = "ab" * 32
Write = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A step that has made containers."""
    found = RunDir(str(tmp_path / "job.1.run-0"))
    os.makedirs(found.containers)
    return found


@pytest.fixture
def engine(run: RunDir, tmp_path: Path) -> Write:
    """Writes an engine as a shell script, and the note of it."""

    def write(script: str, name: str = "docker", env: str = "") -> None:
        program = tmp_path / name
        program.write_text('#!/bin/sh\necho "$@" >>%s/said\n%s\n' % (tmp_path, script))
        program.chmod(0o755)
        note = "program=%s\0option=-H\0option=x y\0%s" % (program, env)
        Path(run.containers, "0%s" % name).write_bytes(note.encode())

    return write


def said(tmp_path: Path) -> list[str]:
    return (tmp_path / "said").read_text().splitlines()


def test_an_engine_is_asked_by_label_and_with_its_options(run: RunDir, engine: Write, tmp_path: Path) -> None:
    engine("")

    assert Containers(run, "").tell(signal.SIGTERM)
    assert said(tmp_path) == ["-H x y ps --no-trunc --filter label=skyq.step=job.1.run-0 --format {{.ID}}"]


def test_term_is_said_once_then_kill(run: RunDir, engine: Write, tmp_path: Path) -> None:
    engine('[ "$3" != ps ] || echo %s' % ID)
    them = Containers(run, "")
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        assert not them.tell(number)

    kills = [line for line in said(tmp_path) if " ps " not in line]
    assert kills == ["-H x y kill --signal %s %s" % (name, ID) for name in ("TERM", "KILL", "KILL")]


def test_what_is_no_id_is_a_warning(run: RunDir, engine: Write) -> None:
    engine("echo WARNING: no swap limit; echo")

    assert Containers(run, "").tell(signal.SIGTERM)


def test_a_container_whose_process_is_gone_is_dead_whatever_podman_says(run: RunDir, engine: Write) -> None:
    engine("echo %s 999999999" % ID, "podman")
    assert Containers(run, "").tell(signal.SIGTERM)

    engine("echo %s %d" % (ID, os.getpid()), "podman")
    assert not Containers(run, "").tell(signal.SIGTERM)


def test_what_podman_could_not_remove_is_removed(run: RunDir, engine: Write, tmp_path: Path) -> None:
    engine('[ "$4" != -a ] || printf "%%s true\\n%%s false\\n" %s %s' % (ID, "cd" * 32), "podman")
    them = Containers(run, "")
    assert them.tell(signal.SIGTERM)
    them.close()

    assert said(tmp_path)[-1] == "-H x y rm --force " + ID


def test_an_engine_that_fails_is_given_up_and_the_log_says_so(
    run: RunDir, engine: Write, tmp_path: Path
) -> None:
    engine("echo first; echo no daemon >&2; exit 1")
    log = tmp_path / "log"
    them = Containers(run, str(log))

    assert [them.tell(signal.SIGTERM) for _ in range(3)] == [False, False, True]
    them.close()
    assert log.read_text() == "skyq: containers of this job may be left: docker: no daemon\n"
    assert not containers.used(run)


@pytest.mark.parametrize("script", ["sleep 100", "sleep 100 & exec sleep 100"])
def test_an_engine_that_hangs_is_given_up(
    run: RunDir, engine: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(containers, "LIMIT", 0.2)
    engine(script)
    them = Containers(run, str(tmp_path / "log"))
    since = time.monotonic()
    while not them.tell(signal.SIGTERM):
        pass
    them.close()

    assert time.monotonic() - since < 10
    assert "docker: no answer within" in (tmp_path / "log").read_text()


def test_an_engine_that_leaves_something_behind_is_not_waited_for(run: RunDir, engine: Write) -> None:
    engine("sleep 3 &")
    since = time.monotonic()

    assert Containers(run, "").tell(signal.SIGTERM)
    assert time.monotonic() - since < 2


def test_one_engine_that_fails_does_not_save_the_containers_of_another(
    run: RunDir, engine: Write, tmp_path: Path
) -> None:
    engine("exit 1", "docker")
    engine("echo %s %d" % (ID, os.getpid()), "podman")
    them = Containers(run, str(tmp_path / "log"))
    for _ in range(5):
        assert not them.tell(signal.SIGTERM)
    them.tell(signal.SIGKILL)

    assert "-H x y kill --signal KILL " + ID in said(tmp_path)


def test_containers_that_do_not_die_are_given_up(
    run: RunDir, engine: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine("echo " + ID)
    monkeypatch.setattr(containers, "STUBBORN", 0.1)
    them = Containers(run, str(tmp_path / "log"))
    assert not them.tell(signal.SIGKILL)
    time.sleep(0.2)

    assert them.tell(signal.SIGKILL)
    them.close()
    assert (tmp_path / "log").read_text().endswith("docker: they don't die\n")


def test_the_engine_gets_its_own_environment_and_default_signals(
    run: RunDir, engine: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "x")
    engine(
        "env >%s/env; grep -h ^Sig[IB] /proc/self/status >%s/signals" % (tmp_path, tmp_path),
        env="env=A=1=2\0env=PATH=/usr/bin:/bin\0",
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    try:
        assert Containers(run, "").tell(signal.SIGTERM)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    env = (tmp_path / "env").read_text().splitlines()
    assert "A=1=2" in env and not any(line.startswith("TOKEN") for line in env)
    masks = [int(line.split()[1], 16) for line in (tmp_path / "signals").read_text().splitlines()]
    assert [mask & 0x7FFFFFFF for mask in masks] == [0, 0]  # the C library keeps two others for itself


@pytest.mark.parametrize("note", [b"", b"\xff\0=", b"program=", b"option=x"])
def test_a_damaged_note_ends_too(run: RunDir, tmp_path: Path, note: bytes) -> None:
    Path(run.containers, "0").write_bytes(note)
    them = Containers(run, str(tmp_path / "log"))
    for _ in range(3):
        them.tell(signal.SIGTERM)

    assert them.tell(signal.SIGTERM)
    them.close()
    assert not containers.used(run)


def test_a_note_that_comes_while_one_closes_is_kept(run: RunDir, engine: Write) -> None:
    engine("")
    them = Containers(run, "")
    assert them.tell(signal.SIGTERM)
    Path(run.containers, "1").write_bytes(b"program=/bin/true\0")
    them.close()

    assert containers.used(run)


# The wrappers.


def test_wrappers_are_written_once_and_mended(tmp_path: Path) -> None:
    runs = str(tmp_path / "it's a home" / "run")
    os.makedirs(runs)
    where = Wrappers.beside(runs)
    assert containers.install(runs) == where.root
    docker = Path(where.launcher("docker"))
    first = docker.stat()
    containers.install(runs)
    assert docker.stat().st_ino == first.st_ino

    docker.write_text("")
    containers.install(runs)
    done = subprocess.run(
        [docker, "ps"],
        env={"PATH": "%s:/nowhere" % docker.parent},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (127, "docker: command not found\n")
