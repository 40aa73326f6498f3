from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.client.process import Process

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runs a command line on a machine that is this one, but for its home. All ends with the test."""
    started: list[Process] = []
    home = tmp_path / "home"
    home.mkdir()

    def run(line: str, shell: str = "/bin/sh", **environment: str) -> Process:
        started.append(Process(line, home, shell, **environment))
        return started[-1]

    yield run
    for process in started:
        process.process.kill()
        process.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of the machine."""
    return tmp_path / "home"


@pytest.fixture
def pyz(skyq_argv: list[str]) -> str:
    """The program under test, as a file."""
    if "-m" in skyq_argv:
        pytest.skip("NOT TESTED: only skyq.pyz goes to another machine, and this is a checkout")
    return skyq_argv[-1]
