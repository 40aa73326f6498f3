"""A queue played in no time: what the scheduler would do with given jobs on given nodes. Pure.

Time goes from event to event: jobs come, jobs end; at each of them `plan()` decides, as it does on a head.
What isn't played: setups, the time that a start takes, nodes that are lost.

    play(nodes, arrivals, …)      a whole trace
    forecast(snapshot, job_id)    when a job of a queue starts, as far as time limits tell
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush

from skyq.core.model import UNIT, Grant, Holding, Node, Request, Snapshot, Start, Waiting
from skyq.core.schedule import plan
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

MOST = 400_000
"""What a forecast may cost, in microseconds or so."""


class Arrival(NamedTuple):
    """One job of a trace. Times are seconds from the trace's beginning."""

    submitted: float
    lasts: float
    num_nodes: int
    request: Request
    priority: int = 0
    limit: Optional[float] = None
    """By when it has surely ended: it lasts no longer."""


class Played(NamedTuple):
    """What became of one."""

    arrival: Arrival
    started: float
    grants: tuple[Grant, ...]

    @property
    def waited(self) -> float:
        """Seconds."""
        return self.started - self.arrival.submitted

    @property
    def ended(self) -> float:
        """Seconds from the trace's beginning."""
        return self.started + self.arrival.lasts


def play(nodes: Sequence[Node], arrivals: Iterable[Arrival], reserve_after: Optional[float]) -> list[Played]:
    """Every job, in the order of the arrivals. Each must be possible on the idle nodes (schedule.misfit)."""
    jobs = sorted(arrivals, key=lambda job: job.submitted)
    queue = _Queue(Snapshot(tuple(nodes), reserve_after=reserve_after), lambda job: jobs[job.id].lasts)
    played: dict[int, Played] = {}
    come = 0
    while come < len(jobs) or queue.ends:
        times = [end for end, _ in queue.ends[:1]] + [job.submitted for job in jobs[come : come + 1]]
        queue.moment = min(times)
        queue.end_due()
        while come < len(jobs) and jobs[come].submitted <= queue.moment:
            job = jobs[come]
            queue.waiting[come] = Waiting(come, job.num_nodes, (job.request,), job.priority, limit=job.limit)
            come += 1
        for start in queue.decide():
            played[start.job] = Played(jobs[start.job], queue.moment, start.grants)
    return [played[number] for number in range(len(jobs))]


def forecast(snapshot: Snapshot, job_id: int, most: int = MOST) -> Optional[float]:
    """Seconds until a waiting job starts if whatever has a time limit lasts as long as that allows, nothing
    comes, and no node is lost. None: somebody in its way has no limit, or it would take too long to tell.

    `most`: what it may cost; see MOST.
    """
    queue = _Queue(snapshot, lambda job: job.limit)
    shapes = len({(job.num_nodes, job.alternatives) for job in snapshot.waiting})
    each_time = len(queue.nodes) * (50 + shapes)
    while (most := most - each_time - len(queue.waiting) - len(queue.running)) >= 0:
        if any(start.job == job_id for start in queue.decide()):
            return queue.moment
        if not queue.ends:
            return None
        queue.moment = queue.ends[0][0]
        queue.end_due()
    return None


class _Queue:
    """A queue whose time goes from event to event, in seconds from now."""

    def __init__(self, snapshot: Snapshot, lasts: Callable[[Waiting], Optional[float]]) -> None:
        """`lasts`: how long a job runs that starts; None: for ever."""
        self.nodes = snapshot.nodes
        self.moment = 0.0
        self.waiting = {job.id: job for job in snapshot.waiting}
        self.running = {job.id: job for job in snapshot.holding}
        self.ends = [(job.ends_in, job.id) for job in snapshot.holding if job.ends_in is not None]
        heapify(self.ends)
        self._lasts = lasts
        self._limits = {job_id: end for end, job_id in self.ends}
        """When running jobs reach their limits, of which the plan knows."""
        self._overtaken = {job.id: -job.overtaken for job in snapshot.waiting if job.overtaken is not None}
        """Job → since when."""
        self._reserve_after = snapshot.reserve_after
        self._reserved = snapshot.reserved

    def end_due(self) -> None:
        """Who lasts until this moment has ended."""
        while self.ends and self.ends[0][0] <= self.moment:
            job_id = heappop(self.ends)[1]
            del self.running[job_id]
            self._limits.pop(job_id, None)

    def decide(self) -> tuple[Start, ...]:
        """What a head would start at this moment."""
        if not self.waiting:
            return ()
        made = plan(self._snapshot(), self.moment)
        if made.overtaken and made.first_blocked is not None:
            self._overtaken[made.first_blocked.id] = self.moment
        self._reserved = made.kept.start if made.kept else None
        for start in made.starts:
            self._start(self.waiting.pop(start.job), start)
        return made.starts

    def _snapshot(self) -> Snapshot:
        moment, since, limits = self.moment, self._overtaken, self._limits
        waiting = tuple(
            job._replace(overtaken=moment - since[job_id]) if job_id in since else job
            for job_id, job in self.waiting.items()
        )
        running = tuple(
            job._replace(ends_in=limits[job_id] - moment) if job_id in limits else job
            for job_id, job in self.running.items()
        )
        return Snapshot(self.nodes, running, waiting, self._reserve_after, self._reserved)

    def _start(self, job: Waiting, start: Start) -> None:
        self.running[job.id] = Holding(job.id, start.grants, array=job.array)
        lasts = self._lasts(job)
        if lasts is not None:
            heappush(self.ends, (self.moment + lasts, job.id))
        if job.limit is not None:
            self._limits[job.id] = self.moment + job.limit


class Share(NamedTuple):
    """How one group of jobs fared; times in seconds."""

    jobs: int
    mean_wait: float
    median_wait: float
    p95_wait: float
    longest_wait: float


def share_of(played: Sequence[Played]) -> Share:
    """Of one job or more."""
    waits = sorted(each.waited for each in played)
    return Share(
        len(waits),
        sum(waits) / len(waits),
        waits[len(waits) // 2],
        waits[min(len(waits) - 1, len(waits) * 95 // 100)],
        waits[-1],
    )


def utilisation(nodes: Sequence[Node], played: Sequence[Played]) -> dict[str, float]:
    """Accelerator → the part of its device time that was in use, from the first submit to the last end."""
    kinds = {(node.name, device.index): device.accelerator for node in nodes for device in node.devices}
    begin = min((each.arrival.submitted for each in played), default=0.0)
    span = max((each.ended for each in played), default=0.0) - begin
    used = dict.fromkeys(kinds.values(), 0.0)
    for each in played:
        for grant in each.grants:
            for index, amount in grant.devices:
                used[kinds[grant.node, index]] += each.arrival.lasts * amount / UNIT
    counts = {kind: list(kinds.values()).count(kind) for kind in used}
    return {kind: used[kind] / (counts[kind] * span) if span else 0.0 for kind in used}
