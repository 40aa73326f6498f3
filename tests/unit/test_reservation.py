"""Small jobs may pass a large one for a while; then its place is kept, and it starts when it is free."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core.model import Holding, Node, Snapshot, Start, Waiting
from skyq.core.schedule import Plan, explain, plan
from tests.builders import NOW, Ledger, a_cluster, a_job, a_node, a_request, faults, holding

LONG = 100.0


def late(job: Waiting, overtaken: float | None = LONG) -> Waiting:
    """A job that others have overtaken for so long."""
    return job._replace(overtaken=overtaken)


def decided(
    nodes: tuple[Node, ...],
    *jobs: Waiting | Holding,
    reserve_after: float | None = LONG,
    reserved: Start | None = None,
) -> Plan:
    """One pass."""
    running = tuple(job for job in jobs if isinstance(job, Holding))
    waiting = tuple(job for job in jobs if isinstance(job, Waiting))
    return plan(Snapshot(nodes, running, waiting, reserve_after, reserved), NOW)


def started(made: Plan) -> list[int]:
    return [start.job for start in made.starts]


def kept(made: Plan) -> dict[str, list[int]]:
    """Node → indices of the devices that are kept."""
    assert made.kept is not None
    return {grant.node: [index for index, _ in grant.devices] for grant in made.kept.start.grants}


def test_who_was_overtaken_for_long_has_its_place_kept() -> None:
    running = holding(1, on="node0", devices=[0])
    made = decided(a_cluster(gpus=2), running, late(a_job(2, gpus=2)), a_job(3, gpus=1))
    assert (started(made), kept(made)) == ([], {"node0": [0, 1]})


@pytest.mark.parametrize(
    "overtaken, reserve_after", [(None, 0.0), (LONG - 1, LONG), (LONG, LONG + 1), (LONG, None)]
)
def test_before_that_small_jobs_pass(overtaken: float | None, reserve_after: float | None) -> None:
    jobs = [holding(1, on="node0", devices=[0]), late(a_job(2, gpus=2), overtaken), a_job(3, gpus=1)]
    made = decided(a_cluster(gpus=2), *jobs, reserve_after=reserve_after)
    assert (started(made), made.kept) == ([3], None)


def test_a_job_is_overtaken_when_a_later_one_starts_where_it_might() -> None:
    nodes = a_cluster(a_node(2), a_node(2, kind="T4"))
    big = a_job(2, gpus=2)
    running = holding(1, on="node0", devices=[0])
    assert decided(nodes, running, big, a_job(3, gpus=1)).overtaken
    assert not decided(nodes, running, big, a_job(3, gpus=1, kind="T4")).overtaken
    assert not decided(nodes, running, big).overtaken
    assert not decided(nodes, running, late(big, 0.0), a_job(3, gpus=1)).overtaken  # it is known already


def test_only_the_first_blocked_job_has_a_place_kept() -> None:
    jobs = [late(a_job(2, gpus=2)), late(a_job(3, gpus=4)), a_job(4, gpus=1)]
    made = decided(a_cluster(gpus=4), holding(1, on="node0", devices=[0, 1, 2]), *jobs)
    assert made.first_blocked is not None and made.first_blocked.id == 2
    assert (started(made), kept(made)) == ([], {"node0": [0, 3]})


def test_the_place_is_where_the_fewest_are_in_use() -> None:
    running = [holding(1, on="node0", devices=[0, 1]), holding(2, on="node1", devices=[2])]
    made = decided(a_cluster(nodes=2, gpus=4), *running, late(a_job(3, gpus=4)), a_job(4, gpus=1))
    assert kept(made) == {"node1": [0, 1, 2, 3]}
    assert [grant.node for start in made.starts for grant in start.grants] == ["node0"]


def test_the_place_stays_unless_another_is_nearer() -> None:
    nodes, big = a_cluster(nodes=2, gpus=2), late(a_job(9, gpus=2))
    running = [holding(1, on="node0", devices=[0]), holding(2, on="node1", devices=[0])]
    second = decided(nodes, holding(1, on="node0", devices=[0, 1]), running[1], big).kept
    assert second is not None and second.start.grants[0].node == "node1"
    made = decided(nodes, *running, big, reserved=second.start)
    assert kept(made) == {"node1": [0, 1]}
    made = decided(nodes, *running, big)
    assert kept(made) == {"node0": [0, 1]}


def test_a_place_on_a_node_that_is_lost_is_given_up() -> None:
    nodes, big = a_cluster(nodes=2, gpus=2), late(a_job(9, gpus=2))
    running = [holding(1, on="node0", devices=[0, 1]), holding(2, on="node1", devices=[0])]
    before = decided(nodes, *running, big).kept
    assert before is not None and before.start.grants[0].node == "node1"
    lost = (nodes[0], nodes[1]._replace(unusable="unreachable"))
    assert kept(decided(lost, *running, big, reserved=before.start)) == {"node0": [0, 1]}


def test_who_waits_for_a_node_to_come_back_keeps_nobody_from_starting() -> None:
    nodes = a_cluster(a_node(4, unusable="drained"), a_node(2))
    made = decided(nodes, late(a_job(1, gpus=4)), a_job(2, gpus=2))
    assert (started(made), made.kept, made.first_blocked) == ([2], None, None)


def test_a_device_in_quarantine_is_no_place_and_who_needs_it_keeps_nobody_from_starting() -> None:
    running = holding(1, on="node0", devices=[1])
    made = decided(a_cluster(a_node(4, quarantined=[0])), running, late(a_job(2, gpus=3)), a_job(3, gpus=1))
    assert (started(made), kept(made)) == ([], {"node0": [1, 2, 3]})
    assert made.kept is not None
    worse = a_cluster(a_node(4, quarantined=[0, 2]))
    again = decided(worse, running, late(a_job(2, gpus=3)), a_job(3, gpus=1), reserved=made.kept.start)
    assert (started(again), again.kept) == ([3], None)


def test_a_higher_priority_takes_what_is_kept_for_a_lower_one() -> None:
    jobs = [holding(1, on="node0", devices=[0]), late(a_job(2, gpus=2)), a_job(3, gpus=1, priority=1)]
    assert started(decided(a_cluster(gpus=2), *jobs)) == [3]


def test_who_ends_before_the_place_is_free_may_use_it_meanwhile() -> None:
    running = holding(1, on="node0", devices=[0])._replace(ends_in=60.0)
    big, short, long = late(a_job(2, gpus=2)), a_job(3)._replace(limit=60.0), a_job(4)._replace(limit=61.0)
    assert started(decided(a_cluster(gpus=2), running, big, long)) == []
    assert started(decided(a_cluster(gpus=2), running, big, short)) == [3]
    assert started(decided(a_cluster(gpus=2), running, big, long, short)) == [3]
    endless = running._replace(ends_in=None)
    assert started(decided(a_cluster(gpus=2), endless, big, short)) == []


def test_cpus_and_memory_are_kept_with_the_devices() -> None:
    nodes = a_cluster(a_node(2, cpus=8, memory=8))
    jobs = [holding(1, on="node0", devices=[0], cpus=1), late(a_job(2, gpus=2, cpus=6, memory=6))]
    assert started(decided(nodes, *jobs, a_job(3, gpus=0, cpus=1, memory=2))) == [3]
    assert started(decided(nodes, *jobs, a_job(3, gpus=0, cpus=2))) == []
    assert started(decided(nodes, *jobs, a_job(3, gpus=0, cpus=1, memory=3))) == []


def test_a_share_is_kept_beside_others() -> None:
    jobs = [holding(1, on="node0", devices=[0], share=0.6), late(a_job(2, gpus=0.5)), a_job(3, gpus=0.2)]
    made = decided(a_cluster(gpus=1), *jobs)
    assert (started(made), kept(made)) == ([], {"node0": [0]})


def test_a_gang_has_a_place_on_each_of_its_nodes() -> None:
    running = [holding(n, on="node%d" % n, devices=[0]) for n in range(2)]
    jobs = [late(a_job(8, nodes=2, gpus=2)), *(a_job(n) for n in range(9, 15))]
    made = decided(a_cluster(nodes=3, gpus=2), *running, *jobs)
    assert kept(made) == {"node0": [0, 1], "node2": [0, 1]}
    assert {grant.node for start in made.starts for grant in start.grants} == {"node1"}


def test_each_is_told_what_is_kept_for_whom() -> None:
    jobs = (late(a_job(2, gpus=2)), a_job(3, gpus=1), a_job(4, gpus=4))
    nodes = a_cluster(a_node(2), a_node(4, kind="H100", unusable="drained"))
    snapshot = Snapshot(nodes, (holding(1, on="node0", devices=[0]),), jobs, LONG)
    told = explain(snapshot, NOW)
    assert told[2].endswith("; what gets free on node0 is kept for it")
    assert told[3] == "node0 is kept for job 2, which others have overtaken"
    assert "kept" not in told[4]


# Any history.


@dataclass
class Played:
    """A queue in a time of whole seconds, of jobs that say how long they last."""

    nodes: tuple[Node, ...]
    lasts: dict[int, int]
    reserve_after: float
    now: int = 0
    waiting: dict[int, Waiting] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    running: dict[int, Holding] = field(default_factory=dict)
    since: dict[int, int] = field(default_factory=dict)
    reserved: Start | None = None
    due: dict[int, int] = field(default_factory=dict)
    """Job → by when it must have started."""

    def step(self, new: list[Waiting]) -> None:
        for id in [id for id, end in self.ends.items() if end <= self.now]:
            del self.ends[id], self.running[id]
        self.waiting.update((job.id, job) for job in new)
        waiting = tuple(
            job._replace(overtaken=float(self.now - self.since[id]) if id in self.since else None)
            for id, job in self.waiting.items()
        )
        snapshot = Snapshot(
            self.nodes, tuple(self.running.values()), waiting, self.reserve_after, self.reserved
        )
        made = plan(snapshot, NOW)
        self.judge(snapshot, made)
        for start in made.starts:
            del self.waiting[start.job]
            self.running[start.job] = Holding(start.job, start.grants)
            self.ends[start.job] = self.now + self.lasts[start.job]
        if made.overtaken:
            assert made.first_blocked is not None
            self.since[made.first_blocked.id] = self.now
        self.reserved = made.kept.start if made.kept else None
        if self.reserved is not None and self.reserved.job not in self.due:
            nodes = {grant.node for grant in self.reserved.grants}
            there = [
                self.ends[id] for id, job in self.running.items() if nodes & {g.node for g in job.grants}
            ]
            self.due[self.reserved.job] = max(there, default=self.now)
        self.now += 1

    def judge(self, snapshot: Snapshot, made: Plan) -> None:
        late = [id for id, due in self.due.items() if id in self.waiting and self.now > due]
        assert not [id for id in late if id not in started(made)], "not started in time"
        if made.kept is None:
            assert faults(snapshot, made.starts) == []
            return
        if self.reserved is not None and self.reserved.job == made.kept.start.job:
            assert missing(snapshot, made.kept.start) <= missing(snapshot, self.reserved), "it got worse"
        ledger = Ledger(snapshot)
        for start in made.starts:
            job = next(job for job in snapshot.waiting if job.id == start.job)
            assert ledger.judge(job, start) == []
        for grant in made.kept.start.grants:
            ledger.take(only_free(grant, ledger))
        for job in snapshot.waiting:
            if job.id not in started(made) and job.id != made.kept.start.job:
                assert not any(ledger.could_hold(job.num_nodes, each) for each in job.alternatives), job


def missing(snapshot: Snapshot, place: Start) -> int:
    """How many devices of a place are in use."""
    ledger = Ledger(snapshot)
    return sum(ledger.left[g.node, index] < amount for g in place.grants for index, amount in g.devices)


def only_free(grant, ledger):  # type: ignore[no-untyped-def]
    devices = tuple((i, max(0, min(a, ledger.left[grant.node, i]))) for i, a in grant.devices)
    cpus, memory = ledger.cpus[grant.node], ledger.memory[grant.node]
    return grant._replace(
        devices=devices, cpus=max(0, min(grant.cpus, cpus)), memory=max(0, min(grant.memory, memory))
    )


NODES = st.builds(a_node, gpus=st.integers(0, 3), cpus=st.integers(1, 4), memory=st.just(4))
CLUSTERS = st.lists(NODES, min_size=1, max_size=3).map(lambda nodes: a_cluster(*nodes))
ASKED = st.builds(
    a_request,
    gpus=st.sampled_from([0, 0.5, 1, 1, 2, 3]),
    kind=st.just("H100"),
    cpus=st.sampled_from([0.5, 1, 2]),
    memory=st.sampled_from([0, 2]),
)
JOBS = st.tuples(st.sampled_from([1, 1, 1, 2]), ASKED, st.integers(1, 6))


@given(CLUSTERS, st.lists(st.lists(JOBS, max_size=3), max_size=25), st.integers(0, 4))
def test_whoever_is_overtaken_starts_in_time_and_nothing_else_idles(cluster, arrivals, after) -> None:  # type: ignore[no-untyped-def]
    played = Played(cluster, {}, float(after))
    id = 0
    for batch in [*arrivals, *[[]] * 12]:
        new = []
        for count, asked, lasts in batch:
            id += 1
            played.lasts[id] = lasts
            new.append(a_job(id, nodes=count, either=[asked]))
        played.step(new)
