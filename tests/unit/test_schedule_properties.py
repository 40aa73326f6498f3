"""Any history of any queue obeys the rules, by the judgement of tests/builders.py."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from skyq.core.model import UNIT, Array, Grant, Holding, Snapshot, Waiting
from skyq.core.schedule import STARTING, explain, misfit, plan
from tests.builders import NOW, AQueue, a_cluster, a_job, a_node, a_request, faults

KINDS = st.sampled_from(["H100", "T4", "h100"])
NODES = st.builds(
    a_node,
    gpus=st.integers(0, 4),
    kind=KINDS,
    cpus=st.integers(0, 6),
    memory=st.integers(0, 4),
    unusable=st.sampled_from(["", "", "", "drained"]),
    extra=st.lists(KINDS, max_size=2),
    quarantined=st.sampled_from([(), (), (), (0,), (1, 9)]),
)
CLUSTERS = st.lists(NODES, min_size=1, max_size=5).map(lambda nodes: a_cluster(*nodes))
REQUESTS = st.builds(
    a_request,
    gpus=st.sampled_from([0, 0.2, 0.5, 0.6, 1, 1, 1, 2, 3, 4, 1.5]),
    kind=st.sampled_from(["H100", "T4", "t4", "GPU", "A100"]),
    cpus=st.sampled_from([0, 0.5, 1, 3]),
    memory=st.sampled_from([0, 0, 1, 2]),
)
ARRAYS = st.sampled_from([None, None, None, Array(1, 9, 1), Array(20, 9, 2)])
SHAPES = st.tuples(st.sampled_from([1, 1, 1, 2, 3]), st.lists(REQUESTS, min_size=1, max_size=3))


@st.composite
def jobs(draw: st.DrawFn, most: int = 12) -> list[Waiting]:
    """Waiting jobs of few shapes, so that equal ones compete; some are of arrays."""
    shapes = draw(st.lists(SHAPES, min_size=1, max_size=4))
    picks = draw(st.lists(st.tuples(st.sampled_from(shapes), st.sampled_from([0, 0, 0, 5])), max_size=most))
    return [
        a_job(id, nodes=num_nodes, either=requests, priority=priority, array=draw(ARRAYS))
        for id, ((num_nodes, requests), priority) in enumerate(picks, start=1)
    ]


GRANTS = st.builds(
    Grant,
    node=st.sampled_from(["node0", "node1", "node2", "node9"]),
    rank=st.just(0),
    devices=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([2000, 6000, UNIT])),
        max_size=4,
        unique_by=lambda pair: pair[0],
    ).map(tuple),
    cpus=st.sampled_from([0, 500, 3000]),
    memory=st.sampled_from([0, 1024]),
)
HOLDINGS = st.lists(st.lists(GRANTS, max_size=3), max_size=4).map(
    lambda all_grants: tuple(
        Holding(100 + id, tuple(grants), array=Array(1, 9, 1) if id == 3 else None)
        for id, grants in enumerate(all_grants)
    )
)
SNAPSHOTS = st.builds(Snapshot, CLUSTERS, HOLDINGS, jobs().map(tuple))


@given(CLUSTERS, jobs(most=24), st.lists(st.integers(0, 2**24)))
def test_every_tick_of_a_history_obeys_the_rules(cluster, waiting, ends):
    queue = AQueue(cluster)
    for tick, ending in enumerate([0, *ends]):
        queue.submit(*waiting[tick * 6 : tick * 6 + 6])
        queue.end(*[id for id in queue.running if ending >> id & 1])
        queue.tick()  # judges itself


@given(SNAPSHOTS)
def test_every_plan_obeys_the_rules_whatever_is_held(snapshot):
    assert faults(snapshot, plan(snapshot, NOW).starts) == []


@given(SNAPSHOTS, st.randoms(use_true_random=False))
def test_a_plan_depends_on_nothing_but_the_snapshot(snapshot, random):
    shuffled = list(snapshot.waiting)
    random.shuffle(shuffled)
    again = plan(snapshot._replace(waiting=tuple(shuffled)), NOW)
    assert plan(snapshot, NOW).starts == plan(snapshot, NOW).starts == again.starts


@given(SNAPSHOTS)
def test_of_equal_jobs_the_later_never_starts_before_the_earlier(snapshot):
    starting = {start.job for start in plan(snapshot, NOW).starts}
    for first, second in combinations(snapshot.waiting, 2):  # ids grow
        same = (first.num_nodes, first.alternatives, first.array)
        if same == (second.num_nodes, second.alternatives, second.array):
            assert second.id not in starting or first.id in starting or second.priority > first.priority


@given(SNAPSHOTS)
def test_every_waiting_job_has_one_short_sentence(snapshot):
    starting = {start.job for start in plan(snapshot, NOW).starts}
    reasons = explain(snapshot, NOW)
    assert reasons.keys() == {job.id for job in snapshot.waiting}
    for id, reason in reasons.items():
        assert (reason == STARTING) == (id in starting)
        assert reason.isprintable()
        assert len(reason) < 200


@given(CLUSTERS, SHAPES)
def test_what_is_no_misfit_would_start_on_the_idle_cluster(cluster, shape):
    num_nodes, requests = shape
    idle = tuple(node._replace(unusable="", quarantined=()) for node in cluster)
    alone = Snapshot(idle, waiting=(a_job(1, nodes=num_nodes, either=requests),))
    assert (misfit(cluster, num_nodes, requests, "c") is None) == bool(plan(alone, NOW).starts)
