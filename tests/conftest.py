"""What every test of the whole program starts from."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.cluster import LocalQueue
from tests.lab import Lab
from tests.lab.possible import why_not
from tests.program import built, program, unpacked

NO_LAB = "NOT TESTED, since no machines can be made within this one: "


# A shell that starts the tests in the background has SIGINT ignored, and so would have all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    """What a test makes has the modes that it has on most machines, whatever the test before it set."""
    before = os.umask(0o022)
    yield
    os.umask(before)


# Other work on the machine makes no test fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# To search for long: pytest --hypothesis-profile long --hypothesis-seed random tests/fuzz
settings.register_profile("long", settings.get_profile("patient"), max_examples=20_000)
settings.load_profile("patient")

# For what fixtures of the session make, whatever the shell that started them says.
os.umask(0o022)


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


@pytest.fixture(scope="session")
def lab_possible() -> None:
    """Skips where there can be none."""
    if reason := why_not():
        pytest.skip(NO_LAB + reason)


@pytest.fixture
def make_lab(lab_possible: None, tmp_path: Path, session_dir: Path) -> Iterator[Callable[..., Lab]]:
    """Boots labs; the arguments are Lab's. Their clients have the program under test as `skyq`."""
    labs: list[Lab] = []

    def make(nodes: int = 4, gpus: int = 8, **more: Any) -> Lab:
        lab = Lab(tmp_path / ("lab%d" % len(labs)), nodes, gpus, program=built(session_dir), **more)
        labs.append(lab)
        lab.up()
        return lab

    try:
        yield make
    finally:
        for lab in labs:
            print(lab.evidence())  # pytest shows it where a test failed
            lab.down()


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """A client and four machines with 8 H100s each. Nothing of them outlives the test."""
    return make_lab()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """That nothing was tested over SSH is told as loudly as a failure."""
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if NO_LAB in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.section("SSH: %d TESTS DID NOT RUN" % len(skipped), red=True, bold=True)
        terminalreporter.line(NO_LAB + why_not(), red=True)
