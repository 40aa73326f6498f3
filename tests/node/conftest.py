"""What the tests of the node agent start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.agent import Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A machine without an agent yet. Nothing of it outlives the test."""
    found = Node(tmp_path / "node")
    try:
        yield found
    finally:
        found.close()
