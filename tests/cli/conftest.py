"""A laptop, and a head that it reaches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.laptop import Far, Laptop
from tests.program import unpacked


@pytest.fixture
def head(tmp_path: Path, session_dir: Path, skyq_argv: list[str]) -> Iterator[Far]:
    """The head of the cluster `lab`: 4 H100 and 8 CPUs. Nothing of it outlives the test."""
    app = None if "-m" in skyq_argv else unpacked(session_dir, skyq_argv)
    found = Far(tmp_path / "h", skyq_argv, app)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def laptop(tmp_path: Path, head: Far) -> Iterator[Laptop]:
    """A machine that isn't part of `lab`, and reaches its head."""
    found = Laptop(tmp_path / "l")
    found.knows(head)
    try:
        yield found
    finally:
        found.close()
