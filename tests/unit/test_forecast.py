"""When a job starts, as far as time limits tell: the scheduler is played on from now."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from skyq.core.model import Holding, Node, Snapshot, Waiting
from skyq.core.schedule import misfit, plan
from skyq.core.simulate import forecast
from tests.builders import NOW, a_cluster, a_job, a_request, holding


def until(job: Holding, seconds: float) -> Holding:
    """A running job that has surely ended then."""
    return job._replace(ends_in=seconds)


def limited(id: int, seconds: float | None, gpus: float = 1, nodes: int = 1) -> Waiting:
    """A waiting job."""
    return a_job(id, gpus=gpus, nodes=nodes)._replace(limit=seconds)


def starts_in(gpus: int, *jobs: Waiting | Holding, most: int = 10**9) -> float | None:
    """When the last one does, on one node."""
    running = tuple(job for job in jobs if isinstance(job, Holding))
    waiting = tuple(job for job in jobs if isinstance(job, Waiting))
    return forecast(Snapshot(a_cluster(gpus=gpus), running, waiting), jobs[-1].id, most)


def test_it_starts_when_who_is_there_has_reached_its_limit() -> None:
    assert starts_in(2, until(holding(1, "node0", [0, 1]), 30), limited(2, None)) == 30


def test_who_is_before_it_has_its_time_too() -> None:
    there = until(holding(1, "node0", [0]), 30)
    assert starts_in(1, there, limited(2, 100), limited(3, 10), limited(4, None)) == 140


def test_what_starts_now_starts_now() -> None:
    assert starts_in(1, limited(1, None)) == 0


def test_nothing_is_told_where_somebody_in_its_way_has_no_limit() -> None:
    there = until(holding(1, "node0", [0]), 30)
    assert starts_in(1, there, limited(2, None), limited(3, 10)) is None
    assert starts_in(2, there, holding(2, "node0", [1]), limited(3, 10, gpus=2)) is None


def test_who_has_none_and_is_not_in_its_way_does_not_matter() -> None:
    there = until(holding(1, "node0", [0]), 30)
    assert starts_in(2, there, holding(2, "node0", [1]), limited(3, 10)) == 30


def test_later_ones_may_pass_it_as_they_do() -> None:
    there = until(holding(1, "node0", [0]), 30)
    later = limited(3, 100)
    snapshot = Snapshot(a_cluster(gpus=2), (there,), (limited(2, 10, gpus=2), later))
    assert forecast(snapshot, 2) == 100
    kept = Snapshot(a_cluster(gpus=2), (there,), (limited(2, 10, gpus=2)._replace(overtaken=1.0), later), 1.0)
    assert forecast(kept, 2) == 30


def test_what_would_take_too_long_to_tell_is_not_told() -> None:
    there = until(holding(1, "node0", [0]), 30)
    assert starts_in(1, there, *(limited(id, 10) for id in range(2, 300)), most=2000) is None
    assert starts_in(1, there, limited(2, None), most=0) is None


# Against a slow oracle, which looks at every second.


@dataclass
class Ticking:
    """A queue in a time of whole seconds, in which everybody lasts as long as its limit allows."""

    nodes: tuple[Node, ...]
    running: dict[int, tuple[Holding, float | None]]
    waiting: list[Waiting]
    reserve_after: float | None

    def starts(self, job_id: int, horizon: int) -> int | None:
        since: dict[int, int] = {}
        reserved = None
        for now in range(horizon):
            ended = [id for id, (_, end) in self.running.items() if end is not None and end <= now]
            for id in ended:
                del self.running[id]
            if now and not ended:
                continue
            there = tuple(
                job._replace(ends_in=None if end is None else end - now) for job, end in self.running.values()
            )
            queue = tuple(
                job._replace(overtaken=float(now - since[job.id]) if job.id in since else None)
                for job in self.waiting
            )
            made = plan(Snapshot(self.nodes, there, queue, self.reserve_after, reserved), NOW)
            reserved = made.kept.start if made.kept else None
            if made.overtaken and made.first_blocked is not None:
                since[made.first_blocked.id] = now
            for start in made.starts:
                if start.job == job_id:
                    return now
                (job,) = [job for job in self.waiting if job.id == start.job]
                self.waiting.remove(job)
                end = None if job.limit is None else now + job.limit
                self.running[job.id] = Holding(job.id, start.grants), end
        return None


LIMITS = st.sampled_from([None, 1, 2, 3, 5])
SHAPES = st.tuples(st.sampled_from([1, 1, 2]), st.sampled_from([0.5, 1, 2]), LIMITS)
RUNNING = st.lists(LIMITS, max_size=4)


@given(
    RUNNING, st.lists(SHAPES, min_size=1, max_size=10), st.integers(0, 9), st.sampled_from([None, 0.0, 3.0])
)
def test_it_is_when_the_queue_lets_it_start_second_by_second(
    ends: list[int | None], shapes: list[tuple[int, float, int | None]], at: int, after: float | None
) -> None:
    nodes = a_cluster(nodes=2, gpus=2)
    places = [(node, device) for node in ("node0", "node1") for device in (0, 1)]
    there = [
        holding(100 + number, node, [device])._replace(ends_in=end)
        for number, ((node, device), end) in enumerate(zip(places, ends))
    ]
    jobs = [
        a_job(id, nodes=count, either=[a_request(gpus)])._replace(limit=limit)
        for id, (count, gpus, limit) in enumerate(shapes, 1)
    ]
    job = jobs[at % len(jobs)]
    found = forecast(Snapshot(nodes, tuple(there), tuple(jobs), after), job.id, 10**9)
    running = {job.id: (job, job.ends_in) for job in there}
    assert found == Ticking(nodes, running, jobs, after).starts(job.id, 200)


@given(st.lists(st.integers(1, 5), max_size=4), st.lists(SHAPES, min_size=1, max_size=10))
def test_where_all_have_limits_every_job_is_told_its_time(
    ends: list[int], shapes: list[tuple[int, float, int | None]]
) -> None:
    nodes = a_cluster(nodes=2, gpus=2)
    there = tuple(
        holding(100 + number, "node%d" % (number // 2), [number % 2])._replace(ends_in=end)
        for number, end in enumerate(ends)
    )
    jobs = tuple(
        a_job(id, nodes=count, either=[a_request(gpus)])._replace(limit=limit or 7)
        for id, (count, gpus, limit) in enumerate(shapes, 1)
    )
    assert all(misfit(nodes, job.num_nodes, job.alternatives, "c") is None for job in jobs)
    times = {job.id: forecast(Snapshot(nodes, there, jobs), job.id, 10**9) for job in jobs}
    assert all(time is not None and time <= sum(ends) + 7 * len(jobs) for time in times.values())
