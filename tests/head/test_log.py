"""dispatcher.log: what is wrong, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.head.gang import Cluster
from tests.waiting import wait_until


def test_a_trouble_of_a_node_is_noted_once_as_long_as_it_lasts(make: Callable[..., Cluster]) -> None:
    cluster = make(2)
    log = Path(cluster.where.dispatcher_log)
    cluster.cut(1)
    wait_until(lambda: "cut off" in cluster.store.get("trouble"), "it is seen", evidence=cluster.evidence)
    for _ in range(3):  # each is a look at what is wrong
        cluster.wait(cluster.submit("true"), "SUCCEEDED")

    troubles = [line for line in log.read_text().splitlines() if line.startswith("node1 is")]
    assert troubles and len(troubles) == len({*troubles}), cluster.evidence()
