"""The first words of skyq on the head of a cluster, over a process in place of a connection."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skyq.client.heads import Agent
from skyq.client.records import Remote
from skyq.core import protocol
from skyq.core.errors import SkyqError, Unreachable
from skyq.core.host import Host
from skyq.core.keylines import shell_line
from tests.client.conftest import Start

READ = 0.1  # seconds that the conversation waits for a word, once there was one


def agent(start: Start, said: str) -> Agent:
    """On a head whose login shell does this."""
    session: Any = SimpleNamespace(run=lambda line: start(said), close=lambda: None)
    return Agent(Remote("lab", "1", "lab", Host("node0"), (), "~/.skyq/bin/skyq", "/state", "1.0"), session)


def test_a_login_shell_may_be_slow(start: Start) -> None:
    slow = agent(start, "sleep 1; echo Welcome; echo '%s'" % protocol.greeting().decode().strip())
    assert slow.read(READ).endswith(protocol.greeting())


def test_a_login_shell_that_starts_nothing_is_an_error_that_says_what_to_look_at(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "FIRST_WORD", 0.5)
    with pytest.raises(Unreachable, match="node0, the head of cluster 'lab', has not answered") as raised:
        agent(start, "exec sleep 60").read(READ)
    assert "~/.bashrc" in str(raised.value) and "ssh node0 true" in str(raised.value)


def test_a_login_shell_that_ends_at_once_is_quoted(start: Start) -> None:
    with pytest.raises(SkyqError, match="'lab': Going") as raised:
        agent(start, "echo Going").read(READ)
    assert "Try: ssh node0 ~/.skyq/bin/skyq --version" in str(raised.value)


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "fish", "tcsh", "csh"])
def test_a_folder_may_be_called_almost_anything(shell: str, tmp_path: Path) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip("NOT TESTED: there is no %s here" % shell)
    folder = tmp_path / "Jürgen" / "{a,b} ~ (c) [d]* & e; #f|g^h%i=j<k>?"
    folder.mkdir(parents=True)
    (folder / "skyq").write_text("echo ran $1")
    line = shell_line(str(folder / "skyq"), "well", needs=(str(folder),), else_say="gone")
    done = subprocess.run([path, "-c", line], capture_output=True, check=False)
    assert done.stdout == b"ran well\n", done
