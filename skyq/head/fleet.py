"""The cluster's nodes as the dispatcher has them: connections, troubles, pauses."""

from __future__ import annotations

import json
import socket
import time

from skyq.core.model import Node
from skyq.core.paths import ClusterDir
from skyq.head.links import Link, Unwanted
from skyq.head.nodestate import CONNECTING, UNGROUPED
from skyq.store.store import Store
from skyq.transport.base import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Set, Tuple, TypeAlias

NODE_PAUSE = 5.0  # seconds that a node gets nothing new after it could not start something

Connect: TypeAlias = "Callable[[Node], Channel]"


class Fleet:
    """One link per node. `unwanted`: see Link."""

    def __init__(self, cluster: str, where: ClusterDir, connect: Connect) -> None:
        self.links: Dict[str, Link] = {}
        self.nodes: Dict[str, Node] = {}
        """In cluster order."""
        self.unwanted: Unwanted = lambda name, keys: []
        self._claim = {"cluster": cluster, "head": socket.gethostname(), "state_dir": where.root}
        self._connect = connect
        self._paused: Dict[str, Tuple[float, str]] = {}
        """Node → until when nothing new starts there (monotonic), and why."""
        self._told = ("", "")
        """What the store has of tell(), as JSON; "": of a former dispatcher."""
        self._noted: Dict[str, str] = {}
        """Node → its trouble, as news() told it last."""

    def read(self, store: Store) -> None:
        """See which nodes there are."""
        self.nodes = {node.name: node for node in store.nodes()}
        since = json.loads(store.get("since") or "{}")
        claim = {**self._claim, "id": store.get("cluster_id")}
        self._part()
        for node in self.nodes.values():
            if node.name in self.links:
                self.links[node.name].node = node
            else:
                # A worker sees no folder of the head's: its claim must not look like a deleted queue's.
                its = {**claim, "state_dir": ""} if node.reach else claim
                link = Link(node, its, self._connect, since.get(node.name, ""))
                link.unwanted = self.unwanted
                self.links[node.name] = link

    def _part(self) -> None:
        """From nodes that are no longer of the cluster, or are reached otherwise now."""
        for name, link in list(self.links.items()):
            node = self.nodes.get(name)
            if node is None or node.reach != link.node.reach:
                link.close(release=node is None)
                del self.links[name]
                self._paused.pop(name, None)

    @property
    def is_watched(self) -> bool:
        """Whether who asks for the nodes' state waits until it is known."""
        return self.has_workers or any(node.quarantined for node in self.nodes.values())

    @property
    def has_workers(self) -> bool:
        """Whether there are nodes besides the head."""
        return any(node.reach for node in self.nodes.values())

    def pause(self, node: str, why: str) -> None:
        """Start nothing there for a while."""
        self._paused[node] = (time.monotonic() + NODE_PAUSE, why)

    def pauses_end(self) -> List[float]:
        """When; monotonic."""
        return [until for until, _ in self._paused.values()]

    def usable(self, now: float) -> Tuple[Node, ...]:
        """The nodes, each with why nothing may start on it now."""
        self._paused = {name: entry for name, entry in self._paused.items() if entry[0] > now}
        nodes = self.nodes.values()
        return tuple(n._replace(unusable=n.unusable or self._trouble(n)) for n in nodes)

    def away(self) -> Set[str]:
        """The nodes that can't be had now, or have still to end what former jobs left there."""
        return {name for name, link in self.links.items() if not link.ready}

    def down(self, name: str, now: float) -> float:
        """For how many seconds a node has been unreachable; 0.0: it isn't."""
        at = self.links[name].down_at if name in self.links else None
        return 0.0 if at is None else now - at

    def news(self) -> List[str]:
        """For the log: what is wrong with nodes, and was not yet when this was called last."""
        found = {name: why for name in self.nodes if (why := self._trouble(self.nodes[name]))}
        new = [name for name, why in found.items() if why not in (CONNECTING, self._noted.get(name))]
        self._noted = found
        return ["%s is %s" % (name, found[name]) for name in new]

    def tell(self, store: Store) -> None:
        """Let the store know what is wrong with nodes now, for who asks why a job waits, and how they contain
        jobs.
        """
        found = self._all_trouble(), self._ungrouped()
        if found == self._told:
            return
        with store.transaction():
            store.set("trouble", found[0])
            store.set(UNGROUPED, found[1])
            since = {name: link.since for name, link in self.links.items() if link.since}
            store.set("since", json.dumps(since))
        self._told = found

    def _all_trouble(self) -> str:
        found = {node.name: why for node in self.nodes.values() if (why := self._trouble(node))}
        # The head itself is connected to in no time: not worth a commit.
        return json.dumps({name: why for name, why in found.items() if why != CONNECTING or self.is_watched})

    def _ungrouped(self) -> str:
        """The head tells for itself: not worth a commit."""
        found = {name: link.ungrouped for name, link in self.links.items() if link.node.reach}
        return json.dumps({name: why for name, why in found.items() if why is not None})

    def _trouble(self, node: Node) -> str:
        if node.name not in self._paused:
            return self.links[node.name].trouble
        return "unable to start jobs: " + self._paused[node.name][1]

    def close(self, release: bool) -> None:
        """The end of all conversations. `release`: the machine is given back."""
        for link in self.links.values():
            link.close(release)
