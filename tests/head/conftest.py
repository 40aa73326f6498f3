"""What the head's tests start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.head.gang import Cluster


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters whose dispatcher runs, of so many nodes."""
    made: list[Cluster] = []

    def cluster(nodes: int, **more: float) -> Cluster:
        made.append(Cluster(tmp_path / ("cluster%d" % len(made)), nodes, **more))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield cluster
    for each in made:
        each.close()
