"""How long one plan takes for a cluster and a queue of a given size: `python bench plan`. In process time."""

from __future__ import annotations

import random
import time

from skyq.core.model import Device, Holding, Node, Request, Snapshot, Waiting
from skyq.core.schedule import plan


def cluster(nodes: int) -> tuple[Node, ...]:
    """Alike, with 8 devices each."""
    devices = tuple(Device(index, "H100") for index in range(8))
    return tuple(Node("node%d" % number, number, devices, 128_000, 1_000_000) for number in range(nodes))


def queue(jobs: int, distinct: int, seed: int = 7) -> tuple[Waiting, ...]:
    """Of whole devices, shares, gangs and CPUs alone; `distinct` different requests."""
    random_ = random.Random(seed)
    shapes = []
    for number in range(distinct):
        kind = random_.random()
        cpus = 500 + number
        if kind < 0.5:
            shape = (1, (Request("H100", random_.choice([1, 2, 4, 8]) * 10_000, cpus),))
        elif kind < 0.7:
            shape = (1, (Request("H100", random_.choice([1_000, 2_500, 5_000]), cpus),))
        elif kind < 0.9:
            shape = (random_.choice([2, 4, 16]), (Request("GPU", random_.choice([4, 8]) * 10_000, cpus),))
        else:
            shape = (1, (Request(None, 0, 1000 + number, 4096),))
        shapes.append(shape)
    return tuple(
        Waiting(number, *shapes[number % distinct], priority=random_.choice([0, 0, 0, 5]))
        for number in range(1, jobs + 1)
    )


def held(snapshot: Snapshot) -> Snapshot:
    """The same some time later: what started holds, the rest waits."""
    starts = plan(snapshot, 0.0).starts
    started = {start.job for start in starts}
    holding = tuple(Holding(start.job, start.grants) for start in starts)
    return snapshot._replace(
        holding=holding, waiting=tuple(j for j in snapshot.waiting if j.id not in started)
    )


def cpu_ms(snapshot: Snapshot, runs: int = 5) -> float:
    """Least process time of a plan."""
    taken = []
    for _ in range(runs):
        began = time.process_time()
        plan(snapshot, 0.0)
        taken.append(time.process_time() - began)
    return min(taken) * 1e3


def main() -> None:
    """Print the table."""
    sizes = [(10_000, 1_000, 50), (20_000, 1_000, 50), (10_000, 2_000, 50), (10_000, 1_000, 10_000)]
    aims = ["200", "twice the first", "twice the first", ""]
    print(
        "| waiting jobs | nodes of 8 | requests | idle cluster: jobs started, ms | full cluster, ms | aim, ms |"
    )
    print("|---|---|---|---|---|---|")
    for (jobs, nodes, distinct), aim in zip(sizes, aims, strict=True):
        idle = Snapshot(cluster(nodes), (), queue(jobs, distinct))
        full = held(idle)
        started, ms = len(full.holding), cpu_ms(idle)
        line = (jobs, nodes, distinct, started, ms, cpu_ms(full), aim)
        print("| %d | %d | %d | %d, %.0f | %.0f | %s |" % line, flush=True)
