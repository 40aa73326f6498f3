"""Which devices others use, and which are missing: asked of nodes that have real ones, while there is work.

A job that wants devices starts on a node only once that has told: after an idle time a stranger may have
come. A node that doesn't answer is taken as it is; nothing hangs for long.
"""

from __future__ import annotations

import json

from skyq.core.logtext import plain
from skyq.core.model import Node, Stranger
from skyq.core.protocol import Message
from skyq.head.nodestate import CONNECTING
from skyq.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, FrozenSet, Iterable, List, Mapping, Optional, Set, Tuple

    from skyq.head.board import Board
    from skyq.head.links import Link

RULE = "strangers"
"""The setting: SKIP, or IGNORE."""
SKIP, IGNORE = "skip", "ignore"
SEEN = "strangers_seen"
"""The setting that has, by node, the devices that others use, and who that is; null: it isn't known yet."""
EVERY = 30.0  # seconds between two looks while there is work
SOON = 10.0  # the same on a node with strangers, while jobs wait
LIMIT = 25.0  # seconds that a node gets to answer: nvidia-smi has its own limit there, twice
FRESH = 60.0  # seconds for which an answer is good enough to start something
IDLE = 1.0  # the same where there was no work


class _Seen:
    """What is known of one node."""

    def __init__(self, asked_at: float, held: FrozenSet[int]) -> None:
        self.asked_at = asked_at
        self.held = held
        """Devices that jobs had when it was asked: of those nobody is judged."""
        self.told_at: Optional[float] = None
        """When it answered last; also when it was too late for that."""
        self.answered = False
        """Whether the answer has come, or isn't awaited any more."""
        self.strangers: Tuple[Stranger, ...] = ()
        self.trouble = ""
        """Why the node could not tell."""

    def pause(self, board: Board) -> float:
        """Seconds between two questions."""
        return SOON if self.strangers and board.waiting else EVERY


class Lookout:
    """Of all nodes. Times are monotonic."""

    def __init__(self) -> None:
        self._real: Set[str] = set()
        """Nodes with devices at which can be looked: not only declared ones. None, if that isn't wanted."""
        self._seen: Dict[str, _Seen] = {}
        self._told = ""
        """What the store has."""
        self._told_all_at = 0.0
        """When the last awaited answer came. They come one by one: none is too old for the others' sake."""
        self.gave_up = False
        """Whether an answer isn't awaited any more, since somebody set this back: devices are given out."""

    def read(self, store: Store, nodes: Iterable[Node]) -> None:
        """See what is wanted, and which nodes there are."""
        real = {node.name for node in nodes if any(device.uuid for device in node.devices)}
        self._real = set() if store.get(RULE) == IGNORE else real
        self._seen = {name: seen for name, seen in self._seen.items() if name in self._real}

    @property
    def has_real(self) -> bool:
        """Whether there is any node to look at."""
        return bool(self._real)

    @property
    def awaits(self) -> bool:
        """Whether some node will answer."""
        return any(not seen.answered for seen in self._seen.values())

    def keep_up(self, links: Mapping[str, Link], board: Board, now: float) -> float:
        """Ask whom it is time to ask; returns when to look again."""
        next_at = now + EVERY
        for name in self._real:
            link = links[name]
            if not link.ready:
                self._seen.pop(name, None)  # whatever was known: when it is back it is asked first
                continue
            seen = self._seen.get(name)
            due = seen is not None and board.jobs and now >= seen.asked_at + seen.pause(board)
            if seen is None or (seen.answered and (due or seen.told_at is None)):
                self._ask(link, board, now)
                seen = self._seen[name]
            elif not seen.answered and now >= seen.asked_at + LIMIT:
                seen.told_at, self.gave_up = now, True
                self._has_answered(seen, now)
            pause = seen.pause(board) if seen.answered else LIMIT
            next_at = min(next_at, max(seen.asked_at + pause, now + 0.1))
        return next_at

    def _ask(self, link: Link, board: Board, now: float) -> None:
        seen = _Seen(now, _held(link.node.name, board))
        before = self._seen.get(link.node.name)
        if before is not None:
            seen.told_at, seen.strangers, seen.trouble = before.told_at, before.strangers, before.trouble
        self._seen[link.node.name] = seen
        devices = [[device.index, device.uuid] for device in link.node.devices if device.uuid]
        link.say({"do": "look", "devices": devices})

    def hear(self, node: Node, message: Message, board: Board, now: float) -> str:
        """A node has answered. Returns why it could not tell, if that is news."""
        seen = self._seen.get(node.name)
        if seen is None:
            return ""
        before, seen.trouble = seen.trouble, plain(message.get("why", "")[:200])
        seen.told_at = now
        self._has_answered(seen, now)
        if seen.trouble:
            return seen.trouble if seen.trouble != before else ""
        real = {device.index for device in node.devices if device.uuid}
        judged = real - seen.held - _held(node.name, board)
        found: Dict[int, List[str]] = {}
        for device, pid, program, user, memory in message["found"]:
            if device in judged:
                found.setdefault(device, []).append(_who(pid, program, user, memory))
        its = {device: Stranger(device, _some(whos)) for device, whos in found.items()}
        for device, why in message.get("missing", []):
            if device in real:  # one that a job has, too: the next one shall not get it
                its[device] = Stranger(device, plain(why), missing=True)
        seen.strangers = tuple(its[device] for device in sorted(its))
        return ""

    def _has_answered(self, seen: _Seen, now: float) -> None:
        seen.answered = True
        if not self.awaits:
            self._told_all_at = now

    def mark(self, nodes: Iterable[Node], idle: bool, now: float) -> Tuple[Node, ...]:
        """The nodes, each with the devices that others use, or may use as far as is known.

        `idle`: there was no work until now.
        """
        if not self._real:
            return tuple(nodes)
        if idle and not self.awaits and now > self._told_all_at + IDLE:
            for seen in self._seen.values():
                seen.told_at = None
        return tuple(node._replace(strangers=its) if (its := self._of(node, now)) else node for node in nodes)

    def _of(self, node: Node, now: float) -> Tuple[Stranger, ...]:
        if node.name not in self._real:
            return ()
        seen = self._seen.get(node.name)
        if seen is None or seen.told_at is None or now > seen.told_at + FRESH:
            return tuple(Stranger(device.index, "") for device in node.devices if device.uuid)
        return seen.strangers

    def begin(self, store: Store) -> None:
        """See what a former dispatcher has told: it may be old."""
        self._told = store.get(SEEN)

    def tell(self, store: Store, links: Mapping[str, Link], now: float) -> None:
        """Let who asks for the nodes' state know, where it has changed."""
        found: Dict[str, object] = {}
        for name in sorted(self._real):
            link = links[name]
            its = self._of(link.node, now)
            if its and (link.ready or link.trouble == CONNECTING):
                found[name] = [list(each) for each in its] if all(each.who for each in its) else None
        text = json.dumps(found) if found else ""
        if text != self._told:
            with store.transaction():
                store.set(SEEN, text)
            self._told = text


def told(store: Store, nodes: Iterable[Node]) -> Tuple[Node, ...]:
    """The nodes with what the dispatcher told of strangers last."""
    found = json.loads(store.get(SEEN) or "{}")
    return tuple(node._replace(strangers=_told_of(node, found.get(node.name, []))) for node in nodes)


def _told_of(node: Node, found: Optional[List[List[object]]]) -> Tuple[Stranger, ...]:
    if found is None:
        return tuple(Stranger(device.index, "") for device in node.devices if device.uuid)
    its = {device.index for device in node.devices}  # by now: `skyq add` may have seen it since
    return tuple(Stranger(*each) for each in found if each[0] in its)  # type: ignore[arg-type]


def _held(node: str, board: Board) -> FrozenSet[int]:
    """The devices of a node that jobs have. Who else is there isn't judged: maybe a container of theirs."""
    grants = (grant for job in board.holding.values() for grant in job.grants if grant.node == node)
    return frozenset(index for grant in grants for index, _ in grant.devices)


def _who(pid: int, program: str, user: str, memory: int) -> str:
    """ "pid 4711 python of bob, 4096 MB"."""
    if not pid:
        text = "a process that can't be seen from here"
    else:
        whose = user or "another container"
        text = " ".join(word for word in ("pid %d" % pid, program, "of", whose) if word)
    return plain(text + (", %d MB" % memory if memory else ""))[:120]


def _some(whos: List[str]) -> str:
    return "; ".join(whos[:3]) + (" and %d more" % (len(whos) - 3) if len(whos) > 3 else "")
