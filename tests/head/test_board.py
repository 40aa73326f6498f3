"""What the dispatcher makes of what nodes tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyq.core import states
from skyq.core.protocol import UNKNOWN
from skyq.head.board import Board
from skyq.head.pulls import Pulls
from skyq.head.tick import tick
from tests.head.gang import Cluster


@pytest.mark.parametrize("told", [{"is": "gone", "code": UNKNOWN, "stopped": True}, {"is": "late"}])
def test_a_node_that_was_given_up_changes_nothing_when_it_is_back(
    tmp_path: Path, told: dict[str, object]
) -> None:
    """The gang waits again: it isn't lost because what was ready there has been ended meanwhile."""
    cluster, board = Cluster(tmp_path, 2), Board()
    board.nodes = {node.name: node for node in cluster.store.nodes()}
    uuid = cluster.submit("true", nodes=2, gpus=8)
    tick(cluster.store, board, tuple(board.nodes.values()), set(), Pulls())
    board.give_up("node1", "node1 is unreachable")
    board.hear("node1", {"job": uuid, "attempt": 1, "step": "run-1", **told})
    stopped = {"is": "gone", "code": UNKNOWN, "stopped": True}
    board.hear("node0", {"job": uuid, "attempt": 1, "step": "run-0", **stopped})

    verdict = board.verdict(cluster.job(uuid))
    assert (verdict.state, verdict.reason) == (states.PENDING, "node1 is unreachable")
