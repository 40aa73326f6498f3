"""What a node has free, what fits there, and how well. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from operator import attrgetter

from skyq.core.model import ANY_DEVICE, UNIT, Grant, Node, Request, Stranger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple, TypeAlias


class Room:
    """What one node has free now. Accelerators go by their lower-case names."""

    __slots__ = ("cpus", "devices", "idle", "memory", "node", "position", "type_of")

    def __init__(self, node: Node, position: int = 0) -> None:
        self.node = node
        self.position = position
        """In cluster order."""
        self.cpus = node.cpus
        self.memory = node.memory
        self.type_of: dict[int, str] = {}
        """Device index → accelerator."""
        self.devices: dict[str, dict[int, int]] = {}
        """Accelerator → device index → free amount, by index."""
        self.idle: dict[str, int] = {}
        """Accelerator → number of wholly free devices."""
        for device in sorted(node.devices, key=attrgetter("index")):
            accelerator = device.accelerator.lower()
            self.type_of[device.index] = accelerator
            self.devices.setdefault(accelerator, {})[device.index] = UNIT
        for accelerator, devices in self.devices.items():
            self.idle[accelerator] = len(devices)

    def take(self, grant: Grant) -> None:
        """Take a grant's share away. A device that the node no longer has is passed over."""
        self.cpus -= grant.cpus
        self.memory -= grant.memory
        for index, amount in grant.devices:
            accelerator = self.type_of.get(index)
            if accelerator is not None:
                devices = self.devices[accelerator]
                self.idle[accelerator] -= devices[index] == UNIT
                devices[index] -= amount

    def give(self, grant: Grant) -> None:
        """Undo take()."""
        self.cpus += grant.cpus
        self.memory += grant.memory
        for index, amount in grant.devices:
            devices = self.devices[self.type_of[index]]
            devices[index] += amount
            self.idle[self.type_of[index]] += devices[index] == UNIT

    def lock_up(self) -> None:
        """Nothing is free of a device in quarantine, or that others use, whoever holds a share of it."""
        locked = {each.device for each in self.node.quarantined}
        locked.update(each.device for each in self.node.strangers)
        for index in locked & self.type_of.keys():
            accelerator = self.type_of[index]
            self.idle[accelerator] -= self.devices[accelerator][index] == UNIT
            self.devices[accelerator][index] = 0

    def locked_up(self, accelerator: str) -> int:
        """How many devices of a type are in quarantine."""
        indices = {each.device for each in self.node.quarantined}
        return sum(self.type_of.get(index) == accelerator for index in indices)

    def strangers(self, accelerator: str) -> list[Stranger]:
        """Those on devices of a type."""
        return [each for each in self.node.strangers if self.type_of.get(each.device) == accelerator]

    def amount(self, index: int) -> int:
        """What is free of a device."""
        return self.devices[self.type_of[index]][index]

    def grant(self, request: Request, rank: int) -> Grant:
        """Take what a request that fits asks for."""
        grant = Grant(self.node.name, rank, self._pick(request), request.cpus, request.memory)
        self.take(grant)
        return grant

    def _pick(self, request: Request) -> tuple[tuple[int, int], ...]:
        """Whole devices: the lowest free indices. A share: the fullest device that still has it."""
        if not request.accelerator:
            return ()
        free = self.devices[request.accelerator].items()
        if request.amount >= UNIT:
            idle = ((index, UNIT) for index, left in free if left == UNIT)
            return tuple(islice(idle, request.amount // UNIT))
        _, index = min((left, index) for index, left in free if left >= request.amount)
        return ((index, request.amount),)


Fit: TypeAlias = "Tuple[int, ...]"
"""How well a room suits a request: the least is the best. The last item is the room's position."""


def fit(request: Request, room: Room) -> Optional[Fit]:
    """Best fit: the room left with the fewest devices, then cluster order. None: the request doesn't fit.

    A share goes beside another share before it opens a device. A job without devices goes to a node without
    devices, else to the one with the fewest free, and there to where the fewest CPUs are.
    """
    if (request.cpus and request.cpus > room.cpus) or (request.memory and request.memory > room.memory):
        return None
    accelerator = request.accelerator
    if not accelerator:
        return (bool(room.idle), sum(room.idle.values()), room.cpus, room.position)
    idle = room.idle.get(accelerator, 0)
    if request.amount >= UNIT:
        return (idle, room.position) if idle * UNIT >= request.amount else None
    devices = room.devices.get(accelerator, {})
    if idle < len(devices) and any(request.amount <= left < UNIT for left in devices.values()):
        return (0, idle, room.position)
    return (1, idle, room.position) if idle else None


class Candidates:
    """The rooms that one request fits in, best first.

    A heap in which only the last entry of a room counts; a room that has changed since is entered again
    before the next look. So a start costs what has changed, not the number of nodes.
    """

    def __init__(
        self, request: Request, rooms: Sequence[Room], groups: Iterable[Sequence[int]], touched: Sequence[int]
    ) -> None:
        """`groups`: see alike(). `touched`: positions of the rooms that have changed since."""
        self.request = request
        self._rooms = rooms
        self._touched = touched
        self._seen = 0
        self._now: list[Optional[Fit]] = [None] * len(rooms)
        self._heap: list[Fit] = []
        changed = set(touched)
        for positions in groups:
            same = [each for each in positions if each not in changed] if changed else positions
            found = fit(request, rooms[same[0]]) if same else None
            if found:
                for position in same:
                    self._now[position] = entry = (*found[:-1], position)
                    self._heap.append(entry)
        heapify(self._heap)

    def best(self, count: int) -> list[Room]:
        """The `count` best rooms, in each of which the caller then places the request; or none at all."""
        self._catch_up()
        found: list[Fit] = []
        while self._heap and len(found) < count:
            entry = heappop(self._heap)
            if entry is self._now[entry[-1]]:
                found.append(entry)
        if len(found) < count:
            self._heap = found  # in order, thus a heap
            return []
        return [self._rooms[entry[-1]] for entry in found]

    def _catch_up(self) -> None:
        for position in set(self._touched[self._seen :]):
            self._now[position] = entry = fit(self.request, self._rooms[position])
            if entry:
                heappush(self._heap, entry)
        self._seen = len(self._touched)


def alike(rooms: Iterable[Room]) -> list[list[int]]:
    """The positions of rooms that are up, those together that suit every request equally."""
    found: dict[object, list[int]] = {}
    for room in rooms:
        if not room.node.unusable:
            devices = tuple((kind, *amounts.values()) for kind, amounts in room.devices.items())
            found.setdefault((room.cpus, room.memory, devices), []).append(room.position)
    return list(found.values())


def types_of(rooms: Iterable[Room]) -> list[str]:
    """The types of accelerator there, in cluster order."""
    return list(dict.fromkeys(accelerator for room in rooms for accelerator in room.devices))


def concrete(asked: Request, types: list[str]) -> list[Request]:
    """A request as the rooms understand it: a lower-case name, one request per type where any will do."""
    if not asked.accelerator or not asked.amount:
        return [asked._replace(accelerator=None, amount=0)]
    if asked.amount > UNIT and asked.amount % UNIT:
        return []  # above one device there are whole ones only
    name = asked.accelerator.lower()
    return [asked._replace(accelerator=each) for each in (types if name == ANY_DEVICE.lower() else [name])]
