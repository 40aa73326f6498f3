"""What the dispatcher makes of what nodes tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyq.core import states
from skyq.core.protocol import UNKNOWN
from skyq.head.board import Board
from skyq.head.pulls import Pulls
from skyq.head.tick import Acts, tick
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


def test_a_word_to_go_that_came_too_late_is_said_again(tmp_path: Path) -> None:
    """The node doesn't let go what it hears only after a silence; asked again, it is ready once more."""
    cluster, board = Cluster(tmp_path, 2), Board()
    board.nodes = {node.name: node for node in cluster.store.nodes()}
    uuid = cluster.submit("true", nodes=2, gpus=8)

    def told(*words: tuple[int, str]) -> Acts:
        for rank, what in words:
            message = {"job": uuid, "attempt": 1, "step": "run-%d" % rank, "is": what}
            board.hear("node%d" % rank, message)
        return tick(cluster.store, board, tuple(board.nodes.values()), set(), Pulls())

    told()
    first = told((0, "prepared"), (1, "prepared"))
    assert first.go == [(1, "run-0"), (1, "run-1")]
    board.going |= set(first.go)  # as the dispatcher does that says them
    assert told((0, "late"), (1, "running")).start == [(1, "run-0")]

    assert told((0, "prepared")).go == [(1, "run-0")]
