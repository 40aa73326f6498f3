"""Nodes leave and come back: drained, resumed, removed. Each is one transaction; the dispatcher is told."""

from __future__ import annotations

import json

from skyq.core import states
from skyq.core.errors import SkyqError
from skyq.core.model import Job
from skyq.head import specs, waits
from skyq.head.head import Head
from skyq.head.nodestate import UNREACHABLE
from skyq.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence, Set

ABANDONED = "abandoned"
"""The setting with the names of unreachable nodes that are being removed: what runs there is lost."""


def drain(head: Head, names: Sequence[str], by: str, why: str) -> None:
    """Start nothing new on these; what runs there goes on."""
    _mark(head, dict.fromkeys(names, waits.signed("drained", by, why)))


def resume(head: Head, names: Sequence[str]) -> None:
    """Jobs may start on these again, and get devices whose processes can't be killed."""
    with head.store.transaction():
        for name in names:
            head.store.end_quarantine(name)
        _set_abandoned(head.store, set(abandoned(head.store)) - set(names))
    _mark(head, dict.fromkeys(names, ""))


def _mark(head: Head, texts: dict[str, str]) -> None:
    with head.store.transaction():
        for name, text in texts.items():
            head.store.set_unusable(name, text)
    head.wake()


def users_of(head: Head, name: str) -> List[Job]:
    """The active jobs that hold something of a node, or are being set up on it; lowest id first."""
    jobs = head.store.jobs(unfinished=True)
    return sorted((job for job in jobs if job.state in states.ACTIVE and name in _places(job)), key=_id)


def _id(job: Job) -> int:
    return job.id


def _places(job: Job) -> List[str]:
    setups = specs.setup_nodes(job) if job.state == states.SETTING_UP else ()
    return [*setups, *(grant.node for grant in job.grants)]


def is_unreachable(head: Head, name: str) -> bool:
    """Whether a node can't be asked to end anything now."""
    return head.trouble().get(name, "").startswith(UNREACHABLE)


def unreachable_of(head: Head, jobs: Sequence[Job]) -> Set[str]:
    """The unreachable nodes that active ones of these jobs are on."""
    places = {name for job in jobs if job.state in states.ACTIVE for name in _places(job)}
    return {name for name in places if is_unreachable(head, name)}


def abandon(head: Head, name: str) -> None:
    """What runs on an unreachable node is lost. Its claim stays there: nobody gets its devices meanwhile."""
    with head.store.transaction():
        _set_abandoned(head.store, {*abandoned(head.store), name})
    head.wake()


def abandoned(store: Store) -> List[str]:
    """The names of those."""
    return list(json.loads(store.get(ABANDONED) or "[]"))


def _set_abandoned(store: Store, names: set[str]) -> None:
    store.set(ABANDONED, json.dumps(sorted(names)))


def remove(head: Head, name: str) -> bool:
    """Take a node out; False while a job still holds something of it."""
    with head.store.transaction():
        node = next((node for node in head.store.nodes() if node.name == name), None)
        if node is None:
            return True
        if node.index == 0:
            raise SkyqError("%s is the head of the cluster, which can't do without it." % name)
        if users_of(head, name):
            return False
        head.store.remove_node(name)
        _set_abandoned(head.store, set(abandoned(head.store)) - {name})
    head.wake()
    return True
