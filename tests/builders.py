"""The language of the scheduler's tests: clusters, jobs, a queue that plays them, and a judge of plans.

CPUs are whole CPUs and memory is GB here, as users say them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skyq.core.model import (
    UNIT,
    Array,
    Device,
    Grant,
    Holding,
    Node,
    Quarantine,
    Request,
    Snapshot,
    Start,
    Waiting,
)
from skyq.core.schedule import explain, plan

NOW = 0.0


def a_node(
    gpus: int = 8,
    kind: str = "H100",
    cpus: float = 64,
    memory: float = 512,
    unusable: str = "",
    extra: Sequence[str] = (),
    quarantined: Sequence[int] = (),
) -> Node:
    """One machine; `extra` names devices beside the `gpus` of one kind, `quarantined` those nobody gets."""
    kinds = [kind] * gpus + list(extra)
    devices = tuple(Device(index, kind) for index, kind in enumerate(kinds))
    kept = tuple(Quarantine(index, 1, 1, "run-0", 0.0, "pid 4711 (python)") for index in quarantined)
    node = Node("node0", 0, devices, round(cpus * 1000), round(memory * 1024), unusable)
    return node._replace(quarantined=kept)


def a_cluster(
    *mixed: Node, nodes: int = 1, gpus: int = 8, kind: str = "H100", cpus: float = 64
) -> tuple[Node, ...]:
    """Equal nodes, or the given ones; named node0, node1 and so on."""
    members = mixed or (a_node(gpus, kind, cpus),) * nodes
    return tuple(node._replace(name="node%d" % index, index=index) for index, node in enumerate(members))


def a_request(gpus: float = 1, kind: str = "H100", cpus: float = 0.5, memory: float = 0) -> Request:
    """What each node must give."""
    amount = round(gpus * UNIT)
    return Request(kind if amount else None, amount, round(cpus * 1000), round(memory * 1024))


def a_job(
    id: int,
    nodes: int = 1,
    gpus: float = 1,
    kind: str = "H100",
    priority: int = 0,
    cpus: float = 0.5,
    memory: float = 0,
    either: Sequence[Request] = (),
    array: Array | None = None,
) -> Waiting:
    """A waiting job; `either` gives several alternatives."""
    return Waiting(id, nodes, tuple(either) or (a_request(gpus, kind, cpus, memory),), priority, array=array)


def holding(job: int, on: str, devices: Iterable[int] = (), share: float = 1, cpus: float = 0.5) -> Holding:
    """A running job that has `share` of each of some devices of one node."""
    taken = tuple((index, round(share * UNIT)) for index in devices)
    return Holding(job, (Grant(on, 0, taken, round(cpus * 1000)),))


class AQueue:
    """A queue in memory that plays the plans of its ticks, each of which is judged."""

    def __init__(self, cluster: Sequence[Node], *jobs: Waiting | Holding) -> None:
        self.nodes = tuple(cluster)
        self.running = {job.id: job for job in jobs if isinstance(job, Holding)}
        self.waiting = {job.id: job for job in jobs if isinstance(job, Waiting)}

    def snapshot(self) -> Snapshot:
        """The queue as the scheduler sees it now."""
        return Snapshot(self.nodes, tuple(self.running.values()), tuple(self.waiting.values()))

    def submit(self, *jobs: Waiting) -> None:
        """Put jobs into the queue."""
        self.waiting.update((job.id, job) for job in jobs)

    def tick(self) -> list[int]:
        """Start what the plan starts; the ids, in the plan's order."""
        starts = plan(self.snapshot(), NOW).starts
        assert faults(self.snapshot(), starts) == []
        for start in starts:
            array = self.waiting.pop(start.job).array
            self.running[start.job] = Holding(start.job, start.grants, array=array)
        return [start.job for start in starts]

    def end(self, *ids: int) -> None:
        """Running jobs end, or waiting ones are cancelled."""
        for id in ids:
            self.running.pop(id, None)
            self.waiting.pop(id, None)

    def place(self, id: int) -> dict[str, list[int]]:
        """Where a running job is: node → device indices, in rank order."""
        return {grant.node: [index for index, _ in grant.devices] for grant in self.running[id].grants}

    def why(self, id: int) -> str:
        """The reason of a waiting job."""
        return explain(self.snapshot(), NOW)[id]


def placed(cluster: Sequence[Node], *jobs: Waiting | Holding) -> dict[int, dict[str, list[int]]]:
    """Where one tick puts the waiting ones among these jobs: id → node → device indices."""
    queue = AQueue(cluster, *jobs)
    return {id: queue.place(id) for id in queue.tick()}


def why(cluster: Sequence[Node], *jobs: Waiting | Holding) -> str:
    """Why the last of these jobs waits, once all that can start has started."""
    queue = AQueue(cluster, *jobs)
    queue.tick()
    return queue.why(jobs[-1].id)


# --- the judge: slow, and simple enough to be believed; it shares nothing with skyq.core.schedule ---------


def faults(snapshot: Snapshot, starts: Sequence[Start]) -> list[str]:
    """What is wrong with a plan: goes through the queue job by job and checks each decision at its turn."""
    ledger = Ledger(snapshot)
    decided = {start.job: start for start in starts}
    found = ["job %d does not wait" % id for id in decided.keys() - {job.id for job in snapshot.waiting}]
    found += ["a job starts twice"] * (len(decided) != len(starts))
    running = [job.array for job in snapshot.holding]
    for job in sorted(snapshot.waiting, key=lambda job: (-job.priority, job.id)):
        start = decided.get(job.id)
        if job.array is not None and running.count(job.array) >= job.array.at_once:
            found += ["job %d: more of its array than may run at once" % job.id] * (start is not None)
            continue
        running += [job.array] * (start is not None)
        passed = job.alternatives if start is None else job.alternatives[: start.alternative]
        for request in passed:
            if ledger.could_hold(job.num_nodes, request):
                found.append("job %d: %s would fit at its turn" % (job.id, request))
        if start is not None:
            found += ["job %d: %s" % (job.id, fault) for fault in ledger.judge(job, start)]
    return found


class Ledger:
    """What is left of each device, of the CPUs and of the memory, in the plainest form."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.nodes = {node.name: node for node in snapshot.nodes}
        self.cpus = {node.name: node.cpus for node in snapshot.nodes}
        self.memory = {node.name: node.memory for node in snapshot.nodes}
        self.kind = {(n.name, d.index): d.accelerator.lower() for n in snapshot.nodes for d in n.devices}
        self.left = dict.fromkeys(self.kind, UNIT)
        for job in snapshot.holding:
            for grant in job.grants:
                self.take(grant)
        for node in snapshot.nodes:
            kept = {(node.name, each.device) for each in node.quarantined}
            self.left.update(dict.fromkeys(kept & self.left.keys(), 0))

    def take(self, grant: Grant) -> None:
        if grant.node in self.nodes:
            self.cpus[grant.node] -= grant.cpus
            self.memory[grant.node] -= grant.memory
        for index, amount in grant.devices:
            if (grant.node, index) in self.left:
                self.left[grant.node, index] -= amount

    def could_hold(self, num_nodes: int, request: Request) -> bool:
        wanted = (request.accelerator or "").lower()
        kinds = set(self.kind.values()) if wanted == "gpu" else {wanted}
        return any(
            sum(self.node_could_hold(node, kind, request) for node in self.nodes.values()) >= num_nodes
            for kind in kinds
        )

    def node_could_hold(self, node: Node, kind: str, request: Request) -> bool:
        left = [self.left[key] for key in self.left if key[0] == node.name and self.kind[key] == kind]
        if not request.accelerator:
            devices = True
        elif request.amount < UNIT:
            devices = any(amount >= request.amount for amount in left)
        else:
            whole, rest = divmod(request.amount, UNIT)
            devices = rest == 0 and left.count(UNIT) >= whole
        cpus = request.cpus == 0 or request.cpus <= self.cpus[node.name]
        memory = request.memory == 0 or request.memory <= self.memory[node.name]
        return devices and cpus and memory and not node.unusable

    def judge(self, job: Waiting, start: Start) -> list[str]:
        request = job.alternatives[start.alternative]
        names = [grant.node for grant in start.grants]
        kinds = {self.kind[grant.node, index] for grant in start.grants for index, _ in grant.devices}
        rules = {
            "as many ranks as nodes asked for": len(names) == job.num_nodes,
            "distinct nodes in cluster order": names == [name for name in self.nodes if name in names],
            "ranks count from 0": [grant.rank for grant in start.grants] == list(range(job.num_nodes)),
            "usable nodes": not any(self.nodes[name].unusable for name in names),
            "the asked accelerator, the same for all": kinds in self.allowed(request),
            "each rank gets what was asked for": all(gives(grant, request) for grant in start.grants),
        }
        for grant in start.grants:
            self.take(grant)
            rules["no CPU twice"] = not grant.cpus or self.cpus[grant.node] >= 0
            rules["no memory twice"] = not grant.memory or self.memory[grant.node] >= 0
            rules["no device twice"] = all(self.left[grant.node, index] >= 0 for index, _ in grant.devices)
            if not all(rules.values()):
                break
        return [rule for rule, holds in rules.items() if not holds]

    def allowed(self, request: Request) -> list[set[str]]:
        if not request.accelerator:
            return [set()]
        wanted = request.accelerator.lower()
        return [{kind} for kind in self.kind.values() if wanted in (kind, "gpu")]


def gives(grant: Grant, request: Request) -> bool:
    """Whether a grant is what a request asks for: whole devices each, or one share."""
    amounts = [amount for _, amount in grant.devices]
    wanted = [request.amount] if request.amount <= UNIT else [UNIT] * (request.amount // UNIT)
    in_order = grant.devices == tuple(sorted(set(grant.devices)))
    return (
        in_order
        and amounts == (wanted if request.accelerator else [])
        and (grant.cpus, grant.memory) == (request.cpus, request.memory)
    )
