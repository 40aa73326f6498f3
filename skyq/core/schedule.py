"""Who starts now and on what, and why the others wait. No I/O, no clock, no randomness.

    plan(snapshot, now)     the starts of one tick
    explain(snapshot, now)  a sentence for every waiting job
    misfit(nodes, …)        what to tell who asks for more than there is

A pass goes through the waiting jobs by priority, then id, and starts each one that fits on what is left.
Within a pass capacity only shrinks: a shape that did not fit is not tried again, so a long queue is cheap.

The one exception to "what fits starts": the first blocked job, once later ones have overtaken it for
`reserve_after`, has a place kept for it (reserve.py). From then on it starts when who is there has ended.

Nodes are taken as given: one with 0 CPUs or 0 MB has none to give. A request for 0 of them always fits.
"GPU:n" stands for one alternative per type of accelerator in the cluster, in cluster order; so the ranks of
a gang get the same type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import attrgetter

from skyq.core.accelerators import amount_text, spelled
from skyq.core.model import UNIT, Array, Holding, Node, Request, Snapshot, Start, Stranger, Waiting
from skyq.core.reserve import Kept, begin, choose
from skyq.core.rooms import Candidates, Room, alike, concrete, fit, types_of
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple, TypeAlias

STARTING = "starts as soon as the dispatcher sees it"

Shape: TypeAlias = "Tuple[int, Tuple[Request, ...]]"
"""What the fit of a job depends on: its number of nodes and its alternatives."""


class Plan:
    """The decisions of one pass. The reasons of those who must wait are worked out when asked for."""

    def __init__(self, holding: tuple[Holding, ...], left: _Free) -> None:
        self.starts: tuple[Start, ...] = ()
        self.first_blocked: Optional[Waiting] = None
        """The first job, in order, that waits for others to end."""
        self.overtaken = False
        """Whether a later one started in this pass, for the first time, where that one might have."""
        self.kept: Optional[Kept] = None
        """What nobody else gets, for that one."""
        self.running: Counter[Array] = Counter()
        """How many of each array run, with those that start, where only some of it may."""
        self._holding = holding
        self._left = left

    def reason(self, job: Waiting) -> str:
        """Why a job of the snapshot that is not in `starts` waits: one short sentence."""
        if job.array and self.running[job.array] >= job.array.at_once:
            return "%d of its array may run at once, and do" % job.array.at_once
        text = self._reasons.of((job.num_nodes, job.alternatives))
        if self.kept is None:
            return text
        start = self.kept.start
        names = ", ".join(grant.node for grant in start.grants[:3]) + " ..." * (len(start.grants) > 3)
        if start.job == job.id:
            return "%s; what gets free on %s is kept for it" % (text, names)
        if self._left.fits(job, self.kept):
            return "%s is kept for job %d, which others have overtaken" % (names, start.job)
        return text

    @cached_property
    def _reasons(self) -> _Reasons:
        started = (Holding(start.job, start.grants) for start in self.starts)
        return _Reasons(self._left, (*self._holding, *started))


def plan(snapshot: Snapshot, now: float) -> Plan:
    """Start every waiting job that fits, in order; not on what is kept for one that was overtaken."""
    free = _Free(snapshot)
    made = Plan(snapshot.holding, free)
    starts: list[Start] = []
    blocked = _Blocked(), _Blocked()
    running = _running(snapshot.holding)
    for job in in_order(snapshot.waiting):
        if job.array and running[job.array] >= job.array.at_once:
            continue
        let_in = made.kept is not None and made.kept.lets(job)
        shape = job.num_nodes, job.alternatives
        if blocked[let_in].covers(shape):
            continue
        start = free.start(job, made.kept if let_in else None)
        if start is None:
            blocked[let_in].add(shape)
            if made.first_blocked is None and free.could_hold(job):
                made.first_blocked = job
                made.kept = _keep(snapshot, free, job, starts)
            continue
        starts.append(start)
        if job.array:
            running[job.array] += 1
        if made.first_blocked and made.first_blocked.overtaken is None and not made.overtaken:
            made.overtaken = free.could_be_on(made.first_blocked, start)
    made.starts = tuple(starts)
    made.running = running
    return made


def _running(holding: Iterable[Holding]) -> Counter[Array]:
    """How many run of each array of which only some may."""
    return Counter(job.array for job in holding if job.array)


def _keep(snapshot: Snapshot, free: _Free, job: Waiting, starts: Sequence[Start]) -> Optional[Kept]:
    """What the first blocked job has a right to, if it has by now."""
    if snapshot.reserve_after is None or job.overtaken is None or job.overtaken < snapshot.reserve_after:
        return None
    holding = (*snapshot.holding, *(Holding(start.job, start.grants) for start in starts))
    place = choose(free.rooms, holding, job, snapshot.reserved)
    return free.keep(place, begin(place, holding)) if place else None


def in_order(waiting: Iterable[Waiting]) -> list[Waiting]:
    """Jobs in the order in which they get their turn: higher priority first, then the lower id."""
    jobs = sorted(waiting, key=attrgetter("id"))
    jobs.sort(key=attrgetter("priority"), reverse=True)  # a stable sort keeps the ids in order
    return jobs


def explain(snapshot: Snapshot, now: float) -> dict[int, str]:
    """Why each waiting job waits: one short sentence each."""
    decided = plan(snapshot, now)
    starting = {start.job for start in decided.starts}
    return {job.id: STARTING if job.id in starting else decided.reason(job) for job in snapshot.waiting}


class _Blocked:
    """The shapes that did not fit in this pass; what asks for no less of anything doesn't fit either."""

    def __init__(self) -> None:
        self._shapes: set[Shape] = set()
        self._least: dict[object, list[tuple[int, int]]] = {}
        """Nodes and devices → CPUs and memory that did not fit with them."""

    def add(self, shape: Shape) -> None:
        self._shapes.add(shape)
        if len(shape[1]) == 1:
            kind, cpus, memory = _split(shape)
            least = self._least.setdefault(kind, [])
            least[:] = [each for each in least if each[0] < cpus or each[1] < memory]
            least.append((cpus, memory))

    def covers(self, shape: Shape) -> bool:
        """Whether it need not be tried."""
        if shape in self._shapes:
            return True
        if not self._least or len(shape[1]) > 1:
            return False
        kind, cpus, memory = _split(shape)
        return any(c <= cpus and m <= memory for c, m in self._least.get(kind, ()))


def _split(shape: Shape) -> tuple[object, int, int]:
    """Of a shape with one alternative: what it asks for in nodes and devices, in CPUs, in memory."""
    num_nodes, (asked,) = shape
    return (num_nodes, asked.accelerator, asked.amount), asked.cpus, asked.memory


# --- what is free -----------------------------------------------------------------------------------------


class _Free:
    """What the whole cluster has free, in the course of one pass."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.rooms = [Room(node, position) for position, node in enumerate(snapshot.nodes)]
        self._touched: list[int] = []
        """Positions of the rooms that this pass has placed something in, in time order."""
        self._candidates: dict[Request, Candidates] = {}
        self._options: dict[tuple[Request, ...], list[tuple[int, Candidates]]] = {}
        by_name = {room.node.name: room for room in self.rooms}
        for job in snapshot.holding:
            for grant in job.grants:
                if grant.node in by_name:
                    by_name[grant.node].take(grant)
        for room in self.rooms:
            room.lock_up()
        self._alike = alike(self.rooms)
        """Before this pass placed anything."""

    @cached_property
    def types(self) -> list[str]:
        """The types of accelerator in the cluster, in cluster order."""
        return types_of(self.rooms)

    def keep(self, place: Start, until: float) -> Kept:
        """Let nobody else have what is free of a place."""
        kept = Kept(place, until, self.rooms)
        self._touched += kept.positions
        return kept

    @cached_property
    def _usable(self) -> list[Room]:
        return [room for room in self.rooms if not room.node.unusable]

    @cached_property
    def _makes(self) -> list[_Make]:
        return _makes(room.node.at_hand for room in self._usable)

    def _meanings(self, job: Waiting) -> list[Request]:
        return [candidates.request for _, candidates in self._options_of(job.alternatives)]

    def could_hold(self, job: Waiting) -> bool:
        """Whether the nodes that are up could hold a job if they were idle."""
        return any(_capable(request, self._makes) >= job.num_nodes for request in self._meanings(job))

    def could_be_on(self, job: Waiting, start: Start) -> bool:
        """Whether one of the nodes of a start could hold a rank of the job if it were idle."""
        names = {grant.node for grant in start.grants}
        makes = _makes(room.node.at_hand for room in self._usable if room.node.name in names)
        return any(_capable(request, makes) for request in self._meanings(job))

    def fits(self, job: Waiting, lent: Kept) -> bool:
        """Whether all ranks of a job would have room now, but for what is kept for another one."""
        lent.give_back()
        fitting = [_fitting(request, self._usable) for request in self._meanings(job)]
        lent.withhold()
        return any(len(rooms) >= job.num_nodes for rooms in fitting)

    def start(self, job: Waiting, lent: Optional[Kept] = None) -> Optional[Start]:
        """Place a job; also on what is kept for another one, if that is `lent`."""
        if lent is None:
            return self._start(job)
        lent.give_back()
        self._touched += lent.positions
        try:
            return self._start(job)
        finally:
            lent.withhold()
            self._touched += lent.positions

    def _start(self, job: Waiting) -> Optional[Start]:
        """Place all ranks of a job by its first alternative that fits now, or none of them."""
        for index, candidates in self._options_of(job.alternatives):
            rooms = candidates.best(job.num_nodes)
            if rooms:
                rooms.sort(key=attrgetter("position"))
                self._touched += [room.position for room in rooms]
                grants = tuple(room.grant(candidates.request, rank) for rank, room in enumerate(rooms))
                return Start(job.id, index, grants)
        return None

    def _options_of(self, alternatives: tuple[Request, ...]) -> list[tuple[int, Candidates]]:
        """(index of the alternative, where it fits), in order of preference."""
        if alternatives not in self._options:
            self._options[alternatives] = [
                (index, self._candidates_of(request))
                for index, asked in enumerate(alternatives)
                for request in concrete(asked, self.types)
            ]
        return self._options[alternatives]

    def _candidates_of(self, request: Request) -> Candidates:
        if request not in self._candidates:
            self._candidates[request] = Candidates(request, self.rooms, self._alike, self._touched)
        return self._candidates[request]


# --- what the cluster has in all --------------------------------------------------------------------------


class _Make(NamedTuple):
    """Nodes that are alike."""

    nodes: list[Node]
    room: Room
    """What each of them has when idle."""


def _makes(nodes: Iterable[Node]) -> list[_Make]:
    makes: dict[object, _Make] = {}
    for node in nodes:
        alike = (node.cpus, node.memory, tuple(device.accelerator for device in node.devices))
        if alike not in makes:
            makes[alike] = _Make([], Room(node))
        makes[alike].nodes.append(node)
    return list(makes.values())


def _capable(request: Request, makes: Iterable[_Make]) -> int:
    """How many nodes could hold the request when idle."""
    return sum(len(make.nodes) for make in makes if fit(request, make.room))


def misfit(
    nodes: Sequence[Node], num_nodes: int, alternatives: Sequence[Request], cluster: str
) -> str | None:
    """The text of an errors.Misfit if the cluster could never run this, else None.

    Never: not even idle, and with every drained or unreachable node back.
    """
    makes = _makes(nodes)
    types = types_of(make.room for make in makes)

    def could_run(asked: Request) -> bool:
        return any(_capable(request, makes) >= num_nodes for request in concrete(asked, types))

    if any(map(could_run, alternatives)):
        return None
    requested = [_requested_text(asked, could_run(_devices_only(asked))) for asked in alternatives]
    existing = ["%dx %s" % (len(make.nodes), _node_text(make.nodes[0])) for make in makes]
    return (
        "Requested resources do not match the existing cluster.\n"
        "  Requested:\t%dx %s\n"
        "  Existing:\t%s\n"
        "To fix: ask for no more than `skyq status %s` lists."
    ) % (num_nodes, " or ".join(requested), "\n           \t".join(existing), cluster)


def _requested_text(asked: Request, devices_would_fit: bool) -> str:
    """One alternative of a misfit: its CPUs and memory too where it is these that are too many."""
    parts = []
    if asked.accelerator:
        parts.append("{%r: %s}" % (spelled(asked.accelerator), amount_text(asked.amount)))
    if devices_would_fit or not parts:
        parts.append(_cpus_text(asked.cpus))
        parts += [_memory_text(asked.memory)] if asked.memory else []
    return ", ".join(parts)


def _node_text(node: Node) -> str:
    counts = Counter(device.accelerator for device in node.devices)
    parts = [str(dict(counts))] if counts else []
    return ", ".join([*parts, _cpus_text(node.cpus), _memory_text(node.memory)])


def _cpus_text(milli: int) -> str:
    return "1 CPU" if milli == 1000 else "%g CPUs" % (milli / 1000)


def _memory_text(megabytes: int) -> str:
    return "%g GB" % round(megabytes / 1024, 1)


# --- why a job waits --------------------------------------------------------------------------------------


class _Reasons:
    """Why a shape waits, by what is free after the pass."""

    def __init__(self, free: _Free, holding: Sequence[Holding]) -> None:
        self._free = free
        self._holding = holding
        self._texts: dict[Shape, str] = {}

    def of(self, shape: Shape) -> str:
        """The sentence for a shape that the pass found blocked."""
        if shape not in self._texts:
            self._texts[shape] = "needs " + self._sentence(*shape)
        return self._texts[shape]

    @cached_property
    def _up(self) -> list[Room]:
        return [room for room in self._free.rooms if not room.node.unusable]

    @cached_property
    def _down(self) -> list[Room]:
        return [room for room in self._free.rooms if room.node.unusable]

    @cached_property
    def _makes(self) -> list[_Make]:
        return _makes(room.node for room in self._free.rooms)

    @cached_property
    def _makes_up(self) -> list[_Make]:
        return _makes(room.node for room in self._up)

    def _sentence(self, count: int, alternatives: tuple[Request, ...]) -> str:
        possible = [asked for asked in alternatives if self._meanings(count, asked)]
        if not possible:
            asked = alternatives[0]
            need = _need(count, asked if self._meanings(count, _devices_only(asked)) else _brief(asked))
            return "%s; the cluster has %s" % (need, "no such node" if count == 1 else "too few such nodes")
        if len(possible) > 1:
            return "%s; none fits now" % " or ".join(_need(count, _brief(asked)) for asked in possible)
        return self._shortage(count, possible[0])

    def _meanings(self, count: int, asked: Request) -> list[Request]:
        """What a request can mean in this cluster, but for what it could never satisfy."""
        requests = concrete(asked, self._free.types)
        return [request for request in requests if _capable(request, self._makes) >= count]

    def _shortage(self, count: int, asked: Request) -> str:
        """What the one possible alternative waits for."""
        request = max(self._meanings(count, asked), key=lambda request: len(_fitting(request, self._up)))
        if _capable(request, self._makes_up) < count:
            missed = [room for room in self._down if fit(request, Room(room.node))]
            return "%s; %s" % (_need(count, _brief(asked)), _unusable(missed))
        text = self._gang_lacks(count, asked, request) if count > 1 else self._rank_lacks(asked, request)
        text += self._locked_up(count, request)
        missed = _fitting(request, self._down)
        if missed and len(missed) + len(_fitting(request, self._up)) >= count:
            text += ", " + _unusable(missed)
        return text

    def _locked_up(self, count: int, request: Request) -> str:
        """What of the devices is in quarantine, or others use, or is missing, if it is devices that lack."""
        if len(_fitting(_devices_only(request), self._up)) >= count:
            return ""
        found = [
            (room.node.name, each) for room in self._up for each in room.strangers(request.accelerator or "")
        ]
        text = self._in_quarantine(request)
        text += _told("in use by others", [pair for pair in found if not pair[1].missing])
        text += _told("missing", [pair for pair in found if pair[1].missing])
        asked = list(dict.fromkeys(name for name, each in found if not each.who))
        return text + (", being looked at: the devices of " + ", ".join(asked[:3]) if asked else "")

    def _in_quarantine(self, request: Request) -> str:
        kept = [(room.node.name, room.locked_up(request.accelerator or "")) for room in self._up]
        texts = ["%d on %s" % (number, name) for name, number in kept if number]
        return ", in quarantine: " + ", ".join(texts) if texts else ""

    def _gang_lacks(self, count: int, asked: Request, request: Request) -> str:
        have = len(_fitting(request, self._up))
        devices_suffice = len(_fitting(_devices_only(request), self._up)) >= count
        need = _need(count, asked if devices_suffice else _brief(asked))
        return "%s; %s that free" % (need, "%d have" % have if have > 1 else "1 has" if have else "none has")

    def _rank_lacks(self, asked: Request, request: Request) -> str:
        rooms = _fitting(_devices_only(request), self._up)
        if not rooms:
            return "%s; %s" % (_need(1, _brief(asked)), self._devices_free(request))
        cpus = max(room.cpus for room in rooms)
        memory = max(room.memory for room in rooms)
        if asked.cpus > cpus:
            return "%s; %s free" % (_need(1, asked._replace(memory=0)), _cpus_text(max(cpus, 0)))
        if asked.memory > memory:
            return "%s; %s free" % (_need(1, asked._replace(cpus=0)), _memory_text(max(memory, 0)))
        return "%s; no node has all of that free" % _need(1, asked)

    def _devices_free(self, request: Request) -> str:
        """What is free of the devices on the node that has the most."""
        if request.amount < UNIT:
            return "no device has that much free"
        accelerator = request.accelerator or ""
        having = [room for room in self._up if accelerator in room.devices]
        best = max(having, key=lambda room: room.idle[accelerator])
        idle = best.idle[accelerator]
        if len(having) == 1:
            return "%s free%s" % (idle or "none", self._holders(best, accelerator))
        return "at most %d free, on %s" % (idle, best.node.name) if idle else "none free"

    def _holders(self, room: Room, accelerator: str) -> str:
        """Who has the others: " (job 3 holds 2)"."""
        held: Counter[int] = Counter()
        for job in self._holding:
            for grant in job.grants:
                if grant.node == room.node.name:
                    mine = (amount for index, amount in grant.devices if index in room.devices[accelerator])
                    held[job.id] += sum(mine)
        ids = sorted(+held)
        if not ids:
            return ""
        who = "job %d holds" if len(ids) == 1 else "jobs %s hold" if len(ids) < 4 else "%d jobs hold"
        which = len(ids) if len(ids) > 3 else ids[0] if len(ids) == 1 else ", ".join(map(str, ids))
        return " (%s %s)" % (who % which, amount_text(held.total()))


def _need(count: int, asked: Request) -> str:
    """What is asked for: "4 H100 on one node", "2 nodes with 0.5 of one H100 and 8 CPUs each"."""
    parts = []
    if asked.accelerator and asked.amount:
        share = "of one " if asked.amount < UNIT else ""
        parts.append("%s %s%s" % (amount_text(asked.amount), share, spelled(asked.accelerator)))
    parts += [_cpus_text(asked.cpus)] if asked.cpus else []
    parts += [_memory_text(asked.memory) + " memory"] if asked.memory else []
    what = " and ".join(parts) or "a node"
    if count > 1:
        return "%d nodes with %s each" % (count, what)
    return what if len(parts) < 2 and asked.amount <= UNIT and asked.cpus <= 1000 else what + " on one node"


def _told(what: str, found: Sequence[Tuple[str, Stranger]]) -> str:
    """ ", in use by others: device 3 on node1 (pid 4711 python of bob)"; "" where none is known."""
    texts = ["device %d on %s (%s)" % (each.device, name, each.who) for name, each in found if each.who]
    more = " and %d more" % (len(texts) - 2) if len(texts) > 2 else ""
    return ", %s: %s%s" % (what, ", ".join(texts[:2]), more) if texts else ""


def _unusable(rooms: Sequence[Room]) -> str:
    """Which node is missed: "node1 is drained"."""
    node = rooms[0].node
    more = " (and %d more)" % (len(rooms) - 1) if len(rooms) > 1 else ""
    return "%s is %s%s" % (node.name, node.unusable, more)


def _brief(asked: Request) -> Request:
    """A request without the CPUs and memory that come with its devices."""
    return _devices_only(asked) if asked.accelerator else asked


def _devices_only(asked: Request) -> Request:
    return asked._replace(cpus=0, memory=0)


def _fitting(request: Request, rooms: Iterable[Room]) -> list[Room]:
    return [room for room in rooms if fit(request, room)]
