"""skyq has the rights of whoever types, asks for no others, and writes down nothing of a bug."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from skyq.cli.main import guarded
from tests.accounts import NOBODY, as_root
from tests.cluster import LocalQueue


@as_root
@pytest.mark.parametrize("how", ["set-uid", "set-gid"])
def test_it_refuses_to_run_with_anothers_rights(queue: LocalQueue, how: str) -> None:
    def become() -> None:
        os.setresgid(NOBODY, 0, 0) if how == "set-gid" else os.setresuid(NOBODY, 0, 0)

    words = [*queue.program, "exec", "local", "true"]
    done = subprocess.run(words, env=queue.env, preexec_fn=become, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (1, "")
    assert "set-uid" in done.stderr and "Traceback" not in done.stderr
    assert not queue.state_dir.exists()


def test_nothing_ever_asks_for_more_rights(queue: LocalQueue, tmp_path: Path) -> None:
    """sudo and its like come first on the PATH."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sudo", "su", "doas", "pkexec", "runuser"):
        (tools / name).write_text("#!/bin/sh\ntouch %s\n" % (tmp_path / "canary"))
        (tools / name).chmod(0o755)
    queue.env["PATH"] = "%s:%s" % (tools, queue.env["PATH"])
    queue.ok("exec", "local", "true")
    for words in (
        ["queue"],
        ["status"],
        ["doctor"],
        ["why", "1"],
        ["clean", "-y"],
        ["down", "local", "-y", "--purge"],
    ):
        queue.run(*words)

    assert not (tmp_path / "canary").exists()


def test_a_bug_is_told_in_words_and_nothing_of_it_is_kept_or_sent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SKYQ_DEBUG", raising=False)

    def buggy() -> int:
        token = "hunter2"
        raise RuntimeError("it broke" + token[:0])

    assert guarded(buggy) == 1
    said = capsys.readouterr()
    assert said.err == "RuntimeError: it broke\nThis is a mistake in skyq; SKYQ_DEBUG=1 shows where.\n"
    assert said.out == "" and list(tmp_path.iterdir()) == []
