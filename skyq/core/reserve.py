"""What is kept free for the first blocked job once others have overtaken it for long. Pure.

Its place is chosen once: the devices of which the fewest are in use. As nothing new starts on them, what
lacks only becomes less, and the job starts when the last occupant has ended. Who surely ends before that, by
its time limit, may start there meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from skyq.core.model import UNIT, Grant, Holding, Request, Start, Waiting
from skyq.core.rooms import Room, concrete, types_of
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple, TypeAlias

Cost: TypeAlias = "Tuple[int, int, int]"
"""Devices that are in use, milli-CPUs and MB that are missing: the less, the better."""


class _Spot(NamedTuple):
    """One node as a place for one rank."""

    cost: Cost
    position: int
    devices: tuple[tuple[int, int], ...]


def choose(
    rooms: Sequence[Room], holding: Iterable[Holding], job: Waiting, former: Optional[Start]
) -> Optional[Start]:
    """Where the job shall start one day; None: what is up could not hold it even if it were idle.

    `former`: what was chosen before. It stays as long as nothing is nearer.
    """
    ends = _ends(holding)
    found = [
        (_total(spots), index, spots)
        for index, asked in enumerate(job.alternatives)
        for request in concrete(asked, types_of(rooms))
        if (spots := _spots(rooms, request, job.num_nodes, ends))
    ]
    if not found:
        return None
    cost, index, spots = min(found, key=lambda each: each[:2])
    if former is not None and former.job == job.id:
        now = _cost_of(rooms, former)
        if now is not None and now <= cost:
            return former
    request = job.alternatives[index]
    spots.sort(key=lambda spot: spot.position)
    names = [rooms[spot.position].node.name for spot in spots]
    grants = (
        Grant(name, rank, spot.devices, request.cpus, request.memory)
        for rank, (name, spot) in enumerate(zip(names, spots))
    )
    return Start(job.id, index, tuple(grants))


def begin(start: Start, holding: Iterable[Holding]) -> float:
    """Seconds until the last of those occupants ends whose end is known; 0.0: no end is known.

    Who has no time limit counts as ending now: it may.
    """
    kept = {(grant.node, index) for grant in start.grants for index, _ in grant.devices}
    ends = [
        job.ends_in
        for job in holding
        if job.ends_in is not None
        and any((grant.node, index) in kept for grant in job.grants for index, _ in grant.devices)
    ]
    return max(ends, default=0.0)


def _ends(holding: Iterable[Holding]) -> dict[tuple[str, int], float]:
    """Node and device → when its last occupant ends, as far as that is known."""
    ends: dict[tuple[str, int], float] = {}
    for job in holding:
        for grant in job.grants:
            for index, _ in grant.devices:
                key = grant.node, index
                ends[key] = max(ends.get(key, 0.0), job.ends_in or 0.0)
    return ends


def _spots(
    rooms: Sequence[Room], request: Request, count: int, ends: Mapping[tuple[str, int], float]
) -> list[_Spot]:
    """The `count` nodes that lack the least; fewer can't be had: none."""
    usable = (room for room in rooms if not room.node.unusable)
    spots = sorted(spot for room in usable if (spot := _spot(room, request, ends)))
    return spots[:count] if len(spots) >= count else []


def _spot(room: Room, request: Request, ends: Mapping[tuple[str, int], float]) -> Optional[_Spot]:
    if request.cpus > room.node.cpus or request.memory > room.node.memory:
        return None
    devices: list[tuple[int, int]] = []
    if request.accelerator:
        indices = {device.index for device in room.node.at_hand.devices}
        free = {i: a for i, a in room.devices.get(request.accelerator, {}).items() if i in indices}
        whole = max(1, request.amount // UNIT)
        amount = min(request.amount, UNIT)

        def rank(index: int) -> tuple[bool, int, float, int]:
            """A share goes where enough is free, beside the most; else whatever is free soonest."""
            lacks = free[index] < amount
            return (
                lacks,
                -free[index] if lacks else free[index],
                ends.get((room.node.name, index), 0.0),
                index,
            )

        if whole > len(free):
            return None
        devices = sorted((index, amount) for index in sorted(free, key=rank)[:whole])
    return _Spot(_lacks(room, devices, request.cpus, request.memory), room.position, tuple(devices))


def _lacks(room: Room, devices: Iterable[tuple[int, int]], cpus: int, memory: int) -> Cost:
    in_use = sum(room.amount(index) < amount for index, amount in devices)
    return in_use, max(0, cpus - room.cpus) if cpus else 0, max(0, memory - room.memory) if memory else 0


def _total(spots: Iterable[_Spot]) -> Cost:
    devices, cpus, memory = zip(*(spot.cost for spot in spots))
    return sum(devices), sum(cpus), sum(memory)


def _cost_of(rooms: Sequence[Room], start: Start) -> Optional[Cost]:
    """What it still lacks; None: it can't be any more, as a node or a device is lost."""
    by_name = {room.node.name: room for room in rooms}
    costs = []
    for grant in start.grants:
        room = by_name.get(grant.node)
        if room is None or room.node.unusable:
            return None
        indices = {device.index for device in room.node.at_hand.devices}
        if any(index not in indices for index, _ in grant.devices):
            return None
        costs.append(_lacks(room, grant.devices, grant.cpus, grant.memory))
    devices, cpus, memory = zip(*costs)
    return sum(devices), sum(cpus), sum(memory)


class Kept:
    """Takes what is free of the chosen set out of the rooms, for a pass."""

    def __init__(self, start: Start, until: float, rooms: Iterable[Room]) -> None:
        self.start = start
        self._until = until
        self._rooms = {room.node.name: room for room in rooms}
        self._taken: list[Grant] = []
        self.withhold()

    @property
    def positions(self) -> list[int]:
        """Of the nodes concerned."""
        return [self._rooms[grant.node].position for grant in self.start.grants]

    def lets(self, job: Waiting) -> bool:
        """Whether a job surely ends before what is kept can be used."""
        return job.limit is not None and job.limit <= self._until

    def withhold(self) -> None:
        """Nobody else gets it from now on."""
        for grant in self.start.grants:
            room = self._rooms[grant.node]
            devices = ((index, min(room.amount(index), amount)) for index, amount in grant.devices)
            taken = Grant(
                *(grant.node, grant.rank, tuple(pair for pair in devices if pair[1] > 0)),
                *(max(0, min(room.cpus, grant.cpus)), max(0, min(room.memory, grant.memory))),
            )
            room.take(taken)
            self._taken.append(taken)

    def give_back(self) -> None:
        """For who is let in, until withhold()."""
        for taken in self._taken:
            self._rooms[taken.node].give(taken)
        self._taken.clear()
