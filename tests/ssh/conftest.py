"""What the tests over SSH start from: a cluster that they share, or one of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.program import built
from tests.ssh.remote import Remote

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remembers of a test whether it failed."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


class _Shared:
    """A cluster that lives until a test fails on it; the next test then gets another one."""

    def __init__(self, folder: Path, program: Path) -> None:
        self._folder = folder
        self._program = program
        self._made = 0
        self._cluster: Remote | None = None

    def get(self) -> Remote:
        """A whole cluster, whose nodes are as good as new."""
        if self._cluster is None:
            self._made += 1
            lab = Lab(self._folder / str(self._made), 4, 8, program=self._program, clients=2)
            self._cluster = Remote(lab)
            lab.up()
            self._cluster.pool(own_kinds=True).ok("exec", "lab", "-d", "true")
        return self._cluster

    def drop(self) -> None:
        """Nothing of it is left."""
        if self._cluster is not None:
            self._cluster.lab.down()
            self._cluster = None


@pytest.fixture(scope="session")
def _shared(
    lab_possible: None, tmp_path_factory: pytest.TempPathFactory, session_dir: Path
) -> Iterator[_Shared]:
    shared = _Shared(tmp_path_factory.mktemp("shared"), built(session_dir))
    try:
        yield shared
    finally:
        shared.drop()


@pytest.fixture
def cluster(_shared: _Shared, request: pytest.FixtureRequest) -> Iterator[Remote]:
    """`lab`: node0 (the head) to node3, with 8 H100 and 4 of a kind of its own each (see remote.ON).

    Other tests use it after this one, so its nodes must be well again at the end. Jobs may be left.
    """
    try:
        found = _shared.get()
        yield found
        if not request.node.stash.get(_FAILED, False):
            found.settle()
            return
        print(found.evidence())
    except BaseException:
        _shared.drop()
        raise
    _shared.drop()


@pytest.fixture
def make_cluster(make_lab: Callable[..., Lab]) -> Callable[..., Remote]:
    """Boots a lab whose hosts are the pool `lab` of its client. The arguments are Lab's."""
    return lambda *args, **more: Remote(make_lab(*args, **more)).pool()
