"""How long the first blocked job has been overtaken, and the place that is kept for it, between two plans.

Told in the dispatcher's own time and written down now and then: a new dispatcher goes on from what is
written, whatever became of the clock.
"""

from __future__ import annotations

import json
import math

from skyq.core.model import Grant, Job, Start, Waiting
from skyq.core.typed import NamedTuple
from skyq.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Optional, Tuple

RESERVE_AFTER = "reserve_after"
"""The setting: seconds, or NEVER."""
NEVER = "never"
DEFAULT = 1800.0  # seconds
WRITE_EVERY = 60.0  # seconds
_RESERVED = "reserved"


class Rules(NamedTuple):
    """See Snapshot."""

    reserve_after: Optional[float]
    reserved: Optional[Start]


def rules(store: Store) -> Rules:
    """What the next plan goes by."""
    after = store.get(RESERVE_AFTER)
    seconds = None if after == NEVER else float(after or DEFAULT)
    return Rules(seconds, _start(store.get(_RESERVED)))


def keep(store: Store, place: Optional[Start]) -> None:
    """Remember what the last plan kept. Within a transaction."""
    text = "" if place is None else json.dumps(place)
    if store.get(_RESERVED) != text:
        store.set(_RESERVED, text)


def _start(text: str) -> Optional[Start]:
    if not text:
        return None
    job, alternative, grants = json.loads(text)
    return Start(
        *(job, alternative),
        tuple(
            Grant(node, rank, tuple((index, amount) for index, amount in devices), cpus, memory)
            for node, rank, devices, cpus, memory in grants
        ),
    )


class Watch:
    """Since when the waiting jobs have been overtaken; in a process's own time, monotonic."""

    def __init__(self) -> None:
        self._since: Dict[int, float] = {}
        self._written: Dict[int, float] = {}

    def told(self, waiting: Iterable[Waiting], jobs: Dict[int, Job], now: float) -> Tuple[Waiting, ...]:
        """The waiting jobs with what is known of it."""
        return tuple(
            job
            if (written := jobs[job.id].overtaken) is None
            else job._replace(overtaken=now - self._since.setdefault(job.id, now - written))
            for job in waiting
        )

    def due(self, job: Waiting, overtaken: bool, now: float) -> Optional[float]:
        """What is to be written of the first blocked job after a plan; None: nothing."""
        if overtaken:
            self._since[job.id] = self._written[job.id] = now
            return 0.0
        if job.overtaken is None or now - self._written.setdefault(job.id, now) < WRITE_EVERY:
            return None
        self._written[job.id] = now
        return math.floor(job.overtaken)

    def forget(self, job_id: int) -> None:
        """It has started, or ended."""
        self._since.pop(job_id, None)
        self._written.pop(job_id, None)
