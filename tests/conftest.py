"""What every test of the whole program starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import LocalQueue
from tests.program import program, unpacked


@pytest.fixture(scope="session")
def session_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """One folder for the whole run, whichever worker asks."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def skyq_argv(session_dir: Path) -> list[str]:
    """What starts the program under test."""
    return program(session_dir)


@pytest.fixture
def queue(tmp_path: Path, session_dir: Path, skyq_argv: list[str]) -> Iterator[LocalQueue]:
    """A `local` queue of its own, 4 H100 and 8 CPUs declared. Nothing of it outlives the test."""
    app = None if "-m" in skyq_argv else unpacked(session_dir, skyq_argv)
    found = LocalQueue(tmp_path / "q", skyq_argv, app)
    try:
        yield found
    finally:
        found.close()
