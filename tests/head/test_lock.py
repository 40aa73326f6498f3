"""tick.lock: at most one has it, and who waits for it gets it."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from skyq.store.lock import tick_lock
from tests.cluster import LocalQueue
from tests.program import IMPORTS_TOLD, imported


@pytest.mark.parametrize("wait", [0, 0.1])
def test_only_one_has_it(tmp_path: Path, wait: float) -> None:
    path = str(tmp_path / "tick.lock")
    with tick_lock(path, wait) as first, tick_lock(path, wait) as second:
        assert (first, second) == (True, False)
    with tick_lock(path, wait) as third:
        assert third


def test_who_waits_gets_it_when_the_other_leaves(tmp_path: Path) -> None:
    path = str(tmp_path / "tick.lock")
    waits = threading.Event()
    found = []

    def wait() -> None:
        waits.set()
        with tick_lock(path, 30) as held, tick_lock(path, 0) as another:
            found.append((held, another))

    with tick_lock(path, 0):
        thread = threading.Thread(target=wait)
        thread.start()
        waits.wait()
    thread.join()
    assert found == [(True, False)]


def test_a_lock_that_was_removed_with_its_cluster_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "tick.lock")
    monkeypatch.setattr(fcntl, "flock", lambda file, how: os.unlink(path))

    with tick_lock(path, 0) as held:
        assert not held


def test_a_dispatcher_starts_without_the_library_that_waits_for_locks(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")
    queue.until(lambda: not queue.own_processes(), "the dispatcher leaves")
    result = queue.run("_dispatcher", "local", env=IMPORTS_TOLD)

    assert result.code == 0
    loaded = imported(result.err)
    assert "skyq.head.dispatcher" in loaded
    assert not loaded & {"filelock", "yaml", "pydantic", "argparse", "asyncio", "logging"}
