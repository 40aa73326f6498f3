"""What tests of connections start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyq.core.paths import Home
from skyq.transport.hosts import Target
from skyq.transport.ssh import Session, connect
from skyq.transport.trust import Trust
from tests.transport.server import Relay, Silent, Sshd, why_not


@pytest.fixture(scope="session")
def sshd_possible() -> None:
    if reason := why_not():
        pytest.skip("no sshd: " + reason)


@pytest.fixture
def make_sshd(sshd_possible: None, tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """An sshd that doesn't run yet."""
    made: list[Sshd] = []

    def make(**more: object) -> Sshd:
        made.append(Sshd(tmp_path / ("sshd%d" % len(made)), **more))
        return made[-1]

    yield make
    for each in made:
        print(each.log())  # pytest shows it where a test failed
        each.stop()


@pytest.fixture
def sshd(make_sshd: Callable[..., Sshd]) -> Sshd:
    """One with common options, which runs."""
    return make_sshd().start()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The user's ~/.skyq."""
    return Home(str(tmp_path / "skyq"))


@pytest.fixture
def log_in(home: Home) -> Iterator[Callable[..., Session]]:
    """connect(), with what the test doesn't care about; closed afterwards."""
    sessions: list[Session] = []

    def log_in(target: Target, trust: Trust | None = None, **more: object) -> Session:
        sessions.append(connect(target, trust or Trust(home), **more))
        return sessions[-1]

    yield log_in
    for session in reversed(sessions):
        session.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    found = Silent()
    yield found
    found.close()


@pytest.fixture
def relay(sshd: Sshd) -> Iterator[Relay]:
    """In front of `sshd`."""
    found = Relay(sshd.port)
    yield found
    found.close()
