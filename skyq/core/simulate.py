"""A queue played in no time: what the scheduler would do with given jobs on given nodes. Pure.

Time goes from event to event: jobs come, jobs end; at each of them `plan()` decides, as it does on a head.
What isn't played: setups, the time that a start takes, nodes that are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Optional

from skyq.core.model import UNIT, Grant, Holding, Node, Request, Snapshot, Start, Waiting
from skyq.core.schedule import plan


class Arrival(NamedTuple):
    """One job of a trace. Times are seconds from the trace's beginning."""

    submitted: float
    lasts: float
    num_nodes: int
    request: Request
    priority: int = 0


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
    return _Play(nodes, sorted(arrivals, key=lambda job: job.submitted), reserve_after).to_the_end()


class _Play:
    def __init__(
        self, nodes: Sequence[Node], arrivals: list[Arrival], reserve_after: Optional[float]
    ) -> None:
        self.nodes = tuple(nodes)
        self.arrivals = arrivals
        self.reserve_after = reserve_after
        self.moment = 0.0
        self.come = 0
        """How many have arrived."""
        self.waiting: dict[int, Waiting] = {}
        self.running: dict[int, Holding] = {}
        self.ends: list[tuple[float, int]] = []
        self.overtaken: dict[int, float] = {}
        """Job → since when."""
        self.reserved: Optional[Start] = None
        self.played: dict[int, Played] = {}

    def to_the_end(self) -> list[Played]:
        while self.come < len(self.arrivals) or self.ends:
            self.step()
        return [self.played[number] for number in range(len(self.arrivals))]

    def step(self) -> None:
        """To the next event, and what is decided then."""
        times = [self.ends[0][0]] if self.ends else []
        times += [self.arrivals[self.come].submitted] if self.come < len(self.arrivals) else []
        self.moment = min(times)
        while self.ends and self.ends[0][0] <= self.moment:
            del self.running[heappop(self.ends)[1]]
        while self.come < len(self.arrivals) and self.arrivals[self.come].submitted <= self.moment:
            job = self.arrivals[self.come]
            self.waiting[self.come] = Waiting(self.come, job.num_nodes, (job.request,), job.priority)
            self.come += 1
        if self.waiting:
            self.decide()

    def decide(self) -> None:
        waiting = tuple(
            job._replace(overtaken=self.moment - self.overtaken[number]) if number in self.overtaken else job
            for number, job in self.waiting.items()
        )
        running = tuple(self.running.values())
        made = plan(Snapshot(self.nodes, running, waiting, self.reserve_after, self.reserved), self.moment)
        if made.overtaken and made.first_blocked is not None:
            self.overtaken[made.first_blocked.id] = self.moment
        self.reserved = made.kept.start if made.kept else None
        for start in made.starts:
            del self.waiting[start.job]
            played = self.played[start.job] = Played(self.arrivals[start.job], self.moment, start.grants)
            self.running[start.job] = Holding(start.job, start.grants)
            heappush(self.ends, (played.ended, start.job))


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
