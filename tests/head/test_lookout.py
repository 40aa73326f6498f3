"""When nodes are asked who uses their devices, and what is made of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skyq.core.model import Device, Grant, Holding, Node, Stranger
from skyq.head.board import Board
from skyq.head.lookout import EVERY, IGNORE, LIMIT, RULE, SEEN, SKIP, Lookout, told
from skyq.store.store import Store

NODE = Node("node1", 1, tuple(Device(index, "H100", "GPU-%d" % index) for index in range(3)))
DECLARED = Node("node2", 2, (Device(0, "H100"),))
ASK = {"do": "look", "devices": [[0, "GPU-0"], [1, "GPU-1"], [2, "GPU-2"]]}
UNKNOWN = tuple(Stranger(index, "") for index in range(3))


class Line:
    """A node's connection, as far as it is needed."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.ready = True
        self.trouble = ""
        self.said: list[Any] = []

    def say(self, message: Any) -> None:
        self.said.append(message)


class Scene:
    """A lookout, two nodes and their dispatcher."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.board = Board()
        self.lines = {node.name: Line(node) for node in (NODE, DECLARED)}
        self.lookout = Lookout()
        self.lookout.read(store, (NODE, DECLARED))

    def at(self, now: float) -> tuple[Stranger, ...]:
        """A look and a tick at that time; what is known then of the node."""
        marked = self.lookout.mark((NODE, DECLARED), not self.board.jobs, now)
        self.lookout.keep_up(self.lines, self.board, now)  # type: ignore[arg-type]
        assert (
            marked[1].strangers == () and self.lines["node2"].said == []
        )  # what is declared isn't looked at
        return marked[0].strangers

    def answer(self, now: float, *found: list[object], why: str = "", gone: tuple[int, ...] = ()) -> str:
        missing = [[device, "it says \x1b[2Jso"] for device in gone]
        message = {"is": "strangers", "found": list(found), "missing": missing, "why": why}
        return self.lookout.hear(NODE, message, self.board, now)

    def hold(self, *devices: int) -> None:
        grant = Grant("node1", 0, tuple((device, 10_000) for device in devices))
        self.board.holding = {1: Holding(1, (grant,))} if devices else {}

    def work(self) -> None:
        self.board.jobs = {1: None}  # type: ignore[dict-item]

    @property
    def asked(self) -> int:
        assert all(message == ASK for message in self.lines["node1"].said)
        return len(self.lines["node1"].said)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    store = Store.open(str(tmp_path / "queue.db"))
    yield Scene(store)
    store.close()


def test_a_node_is_asked_first_and_its_devices_wait_for_the_answer(scene: Scene) -> None:
    assert scene.at(0.0) == UNKNOWN
    assert scene.asked == 1 and scene.lookout.awaits
    scene.answer(0.1, [1, 4711, "python", "bob", 4096])

    assert scene.at(0.2) == (Stranger(1, "pid 4711 python of bob, 4096 MB"),)
    assert scene.asked == 1 and not scene.lookout.awaits


def test_while_there_is_work_it_is_asked_again_and_what_is_known_stays_meanwhile(scene: Scene) -> None:
    scene.work()
    scene.at(0.0)
    scene.answer(0.1, [1, 4711, "python", "bob", 0])
    known = scene.at(EVERY - 1)
    assert scene.asked == 1
    assert scene.at(EVERY + 1) == known
    assert scene.asked == 2
    scene.answer(EVERY + 2)

    assert scene.at(EVERY + 3) == ()


def test_after_an_idle_time_it_is_asked_before_anything_starts(scene: Scene) -> None:
    scene.at(0.0)
    scene.answer(0.1)
    assert scene.at(0.5) == ()  # a loop of submits
    assert scene.at(5.0) == UNKNOWN
    assert scene.asked == 2


def test_nodes_that_answer_one_after_the_other_are_not_asked_for_ever(scene: Scene) -> None:
    other = NODE._replace(name="node3", index=3)
    scene.lines["node3"] = Line(other)
    scene.lookout.read(scene.store, (NODE, DECLARED, other))
    now = 0.0
    scene.at(now)
    for node in (NODE, other) * 5:
        now += 2.0
        scene.lookout.hear(node, {"is": "strangers", "found": [], "why": ""}, scene.board, now)
        scene.at(now)

    assert not scene.lookout.awaits
    assert [len(scene.lines[name].said) for name in ("node1", "node3")] == [1, 1]


def test_who_does_not_answer_is_taken_as_it_is(scene: Scene) -> None:
    scene.work()
    scene.at(0.0)
    assert scene.at(LIMIT - 1) == UNKNOWN and not scene.lookout.gave_up
    scene.at(LIMIT)

    assert scene.lookout.gave_up
    assert scene.at(LIMIT) == ()


def test_who_can_not_tell_is_taken_as_it_was_and_that_is_said_once(scene: Scene) -> None:
    scene.work()
    scene.at(0.0)
    scene.answer(0.1, [0, 1, "x", "y", 0])
    scene.at(EVERY + 1)
    assert scene.answer(EVERY + 2, why="nvidia-smi hangs\x1b[2J") == "nvidia-smi hangs"
    assert [each.device for each in scene.at(EVERY + 3)] == [0]
    scene.at(2 * EVERY + 2)
    assert scene.answer(2 * EVERY + 3, why="nvidia-smi hangs\x1b[2J") == ""


def test_what_a_job_holds_is_not_judged_whether_it_began_or_ended_meanwhile(scene: Scene) -> None:
    scene.hold(0)
    scene.at(0.0)
    scene.hold(1)
    scene.answer(0.1, *([device, 1, "x", "y", 0] for device in (0, 1, 2)))

    assert [each.device for each in scene.at(0.2)] == [2]


def test_devices_that_the_node_does_not_have_are_passed_over_and_text_is_plain(scene: Scene) -> None:
    scene.at(0.0)
    scene.answer(0.1, [9, 1, "x", "y", 0], [2, 7, "\x1b]0;evil\x07", "bo\nb", 0], [2, 0, "", "", 70000])

    (only,) = scene.at(0.2)
    assert only.device == 2 and only.who.isprintable()
    assert "a process that can't be seen from here, 70000 MB" in only.who


def test_what_is_missing_is_missing_for_a_job_that_has_it_too(scene: Scene) -> None:
    scene.hold(0)
    scene.at(0.0)
    scene.answer(0.1, [1, 1, "x", "y", 0], gone=(0, 1, 9))

    assert scene.at(0.2) == tuple(Stranger(device, "it says so", missing=True) for device in (0, 1))
    scene.lookout.tell(scene.store, scene.lines, 0.2)  # type: ignore[arg-type]
    assert told(scene.store, (NODE, DECLARED))[0].strangers == scene.at(0.2)


def test_a_node_that_was_away_is_asked_again(scene: Scene) -> None:
    scene.at(0.0)
    scene.answer(0.1)
    scene.lines["node1"].ready = False
    scene.at(0.2)
    scene.lines["node1"].ready = True

    assert scene.at(0.3) == UNKNOWN
    assert scene.asked == 2


def test_who_ignores_them_asks_nobody(scene: Scene) -> None:
    with scene.store.transaction():
        scene.store.set(RULE, IGNORE)
    scene.lookout.read(scene.store, (NODE, DECLARED))
    assert scene.at(0.0) == () and scene.asked == 0
    with scene.store.transaction():
        scene.store.set(RULE, SKIP)
    scene.lookout.read(scene.store, (NODE, DECLARED))
    assert scene.at(1.0) == UNKNOWN and scene.asked == 1


def test_what_is_known_is_told_to_who_asks_and_written_only_when_it_changes(scene: Scene) -> None:
    def tell(now: float) -> None:
        scene.lookout.tell(scene.store, scene.lines, now)  # type: ignore[arg-type]

    scene.at(0.0)
    tell(0.0)
    assert json.loads(scene.store.get(SEEN)) == {"node1": None}
    assert told(scene.store, (NODE, DECLARED))[0].strangers == UNKNOWN
    scene.answer(0.1, [1, 4711, "python", "bob", 0])
    tell(0.2)
    assert told(scene.store, (NODE, DECLARED))[0].strangers == (Stranger(1, "pid 4711 python of bob"),)
    assert told(scene.store, (NODE._replace(devices=NODE.devices[:1]), DECLARED))[0].strangers == ()
    scene.lines["node1"].ready, scene.lines["node1"].trouble = False, "unreachable since yesterday"
    scene.at(0.3)
    tell(0.3)  # nobody waits for what can't be known
    assert scene.store.get(SEEN) == ""
