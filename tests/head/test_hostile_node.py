"""A node that lies: the dispatcher lives, nobody else's job or log changes, and the other nodes go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from skyq.core import protocol, states
from skyq.core.protocol import Message
from skyq.head.nodestate import UNREACHABLE
from skyq.head.pulls import Pulls, Source
from tests.head.gang import Cluster
from tests.head.hostile import HUGE, lies
from tests.head.test_links import linked
from tests.waiting import wait_until

Make = Callable[..., Cluster]


def said(cluster: Cluster) -> int:
    path = cluster.root / "said"
    return int(path.read_text()) if path.exists() else 0


def test_whatever_a_node_says_the_dispatcher_lives_and_the_others_jobs_are_untouched(make: Make) -> None:
    cluster = make(2, gpus=1)
    gate = cluster.root / "gate"
    script = "echo true words; while [ ! -e %s ]; do sleep 0.02; done; echo the end" % gate
    jobs = [cluster.submit(script, gpus=1) for _ in range(2)]
    for job in jobs:
        cluster.wait(job, states.RUNNING)
    its = {cluster.job(job).grants[0].node: job for job in jobs}
    target = its["node0"]
    (cluster.root / "target").write_text(target)
    assert cluster.dispatcher

    cluster.make_hostile(1)
    wait_until(lambda: said(cluster) > len(lies("")), "it has told all its lies", evidence=cluster.evidence)
    assert cluster.dispatcher.poll() is None, cluster.evidence()
    assert "Traceback" not in cluster.evidence()
    assert [cluster.job(job).state for job in jobs] == [states.RUNNING] * 2
    assert "\\u001b" not in cluster.store.get("trouble")
    gate.touch()
    assert cluster.wait(target).state == states.SUCCEEDED
    assert cluster.log(target, "run-0") == b"true words\nthe end\n"
    assert list(cluster.root.rglob("*canary*")) == []

    (cluster.root / "hostile1").unlink()
    assert cluster.wait(its["node1"]).state == states.SUCCEEDED
    assert cluster.log(its["node1"], "run-0") == b"true words\nthe end\n"


STEP = {"job": "j", "attempt": 1, "step": "run-0"}


@pytest.mark.parametrize(
    "message",
    [
        {"is": "hello", "alive": [[1, 2, 3]]},
        {**STEP, "is": "gone"},
        {**STEP, "is": "gone", "code": HUGE},
        {**STEP, "is": "running", "pid": "7"},
        {**STEP, "is": "running", "pid": True},
        {**STEP, "is": "log-end", "size": -1},
        {**STEP, "is": "log", "offset": 0, "data": "text"},
        {**STEP, "is": "gone", "code": 0, "step": "run-0/../x"},
        {**STEP, "is": "gone", "code": 0, "why": 5},
        {"is": "strangers"},
        {"is": "strangers", "found": [[0, 1, "x", "y"]]},
        {"is": "strangers", "found": [[0, -1, "x", "y", 0]]},
        {"is": "strangers", "found": [[0, 1, "x" * 65, "y", 0]]},
        {"is": "strangers", "found": [[0, 1, "x", "y", 0]] * 257},
    ],
)
def test_a_word_that_makes_no_sense_ends_the_connection_and_is_passed_on_to_nobody(message: Message) -> None:
    link, quiet = linked()
    quiet.said = protocol.greeting() + protocol.encode(message)

    assert link.hear(1.0) == []
    assert link.trouble.startswith(UNREACHABLE) and not quiet.open


def test_a_message_of_more_than_a_node_has_to_say_ends_the_connection() -> None:
    link, quiet = linked()
    quiet.said = protocol.greeting() + protocol.encode({"is": "pong", "x": "x" * 5_000_000})

    assert link.hear(1.0) == []
    assert not quiet.open


def test_nothing_that_a_node_says_of_itself_is_more_than_a_line_of_plain_text() -> None:
    link, quiet = linked()
    quiet.said = protocol.greeting() + protocol.encode(
        {"is": "refused", "why": "\x1b]0;owned\a\x9b\u202e" * 500}
    )
    link.hear(1.0)

    assert link.trouble.isprintable() and len(link.trouble) < 600


def test_what_a_newer_node_says_beyond_what_is_known_is_passed_over() -> None:
    link, quiet = linked()
    words = [{"is": "sings"}, {**STEP, "is": "late", "loudly": [1]}]
    quiet.said = protocol.greeting() + b"".join(map(protocol.encode, words))

    assert link.hear(1.0) == [words[1]] and quiet.open


@pytest.mark.parametrize("kind", ["kept", "not-kept", "entered", "not-entered"])
def test_what_is_for_others_is_passed_on_to_nobody(kind: str) -> None:
    link, quiet = linked()
    quiet.said = protocol.greeting() + protocol.encode({"is": kind, "job": []})

    assert link.hear(1.0) == [] and quiet.open


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("node2", {"is": "log", "offset": 4, "data": b"lie\n"}),
        ("node2", {"is": "log-end", "size": 0}),
        ("node1", {"is": "grew", "size": 1 << 40}),
        ("node1", {"is": "log", "offset": 1 << 40, "data": b"lie\n"}),
        ("node1", {"is": "log", "offset": 0, "data": b"lie"}),
    ],
    ids=["others", "others-end", "grew", "hole", "over"],
)
def test_a_log_takes_only_what_its_own_node_adds_at_its_end(
    tmp_path: Path, node: str, message: Message
) -> None:
    path = tmp_path / "tasks" / "1-worker1.log"
    path.parent.mkdir()
    pulls = Pulls()
    pulls.wish(Source(1, "j", 1, "run-1", "node1", str(path), remote=True, ranks=2))
    step = {"job": "j", "attempt": 1, "step": "run-1"}
    pulls.hear("node1", {**step, "is": "log", "offset": 0, "data": b"true"})

    pulls.hear(node, {**step, **message})
    pulls.hear("node1", {**step, "is": "log", "offset": 4, "data": b" words\n"})

    assert path.read_bytes() == b"true words\n"
    assert (tmp_path / "run.idx").read_text() == "run-1 0 4\nrun-1 4 7\n"
    assert not pulls.complete("j", 1, "run-1")
