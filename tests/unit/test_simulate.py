"""A trace of jobs is played as a head would, and nothing is lost or used twice on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.cli import simulate
from skyq.core.errors import SkyqError, UsageError
from skyq.core.model import Snapshot
from skyq.core.simulate import Arrival, play, share_of, utilisation
from tests.builders import Ledger, a_cluster, a_request


def arrival(at: float, lasts: float, gpus: float = 1, nodes: int = 1) -> Arrival:
    return Arrival(at, lasts, nodes, a_request(gpus))


def test_jobs_wait_for_each_other() -> None:
    played = play(
        a_cluster(gpus=2), [arrival(0, 10, 2), arrival(1, 5, 1), arrival(1, 5, 1), arrival(2, 1, 2)], None
    )
    assert [each.waited for each in played] == [0, 9, 9, 13]
    assert utilisation(a_cluster(gpus=2), played) == {"H100": 32 / 32}
    assert share_of(played) == (4, 31 / 4, 9, 13, 13)


def test_a_large_job_is_not_overtaken_for_ever() -> None:
    small = [arrival(at, 10) for at in range(0, 200, 5)]
    for reserve_after, waited in ((None, 195), (20.0, 30)):
        played = play(a_cluster(gpus=2), [*small, arrival(1, 1, 2)], reserve_after)
        large = next(each for each in played if each.arrival.request.amount > 10_000)
        assert large.waited <= waited + 20
        assert (large.waited > 100) == (reserve_after is None)


def test_who_is_over_in_time_uses_what_is_kept_for_another() -> None:
    long, large = arrival(0, 100)._replace(limit=100.0), arrival(1, 5, 2)
    overtakes = arrival(2, 5)
    for limit, started in ((10.0, 20), (None, 105)):
        small = arrival(20, 10)._replace(limit=limit)
        played = play(a_cluster(gpus=2), [long, large, overtakes, small], 0.0)
        assert [each.started for each in played] == [0, 100, 2, started]


JOBS = st.builds(
    arrival,
    st.integers(0, 20).map(float),
    st.integers(1, 9).map(float),
    st.sampled_from([0.5, 1, 2]),
    st.sampled_from([1, 1, 2]),
)


@given(st.lists(JOBS, max_size=20), st.sampled_from([None, 0.0, 5.0]))
def test_every_job_ends_and_no_device_is_used_twice(jobs: list[Arrival], reserve_after: float | None) -> None:
    nodes = a_cluster(nodes=2, gpus=2)
    played = play(nodes, jobs, reserve_after)
    assert sorted(each.arrival for each in played) == sorted(jobs)
    assert all(each.waited >= 0 for each in played)
    for moment in {each.started for each in played}:
        ledger = Ledger(Snapshot(nodes))
        for each in played:
            if each.started <= moment < each.ended:
                for grant in each.grants:
                    ledger.take(grant)
        assert all(left >= 0 for left in ledger.left.values())


def report(tmp_path, text: str, *words: str) -> int:  # type: ignore[no-untyped-def]
    (tmp_path / "trace.csv").write_text(text)
    return simulate.main([str(tmp_path / "trace.csv"), *words])


def test_a_trace_is_read_and_told_of(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    trace = "submit,duration,gpus,nodes,name\n0,1h,H100:2,1,a\n60,90,H100:1,2,b\n"
    assert report(tmp_path, trace, "--nodes", "2", "--gpus", "H100:2") == 0
    out = capsys.readouterr().out
    assert "1x[H100:2]  1     0s" in out and "2x[H100:1]  1     59m" in out
    assert "2 nodes; 1h 1m 30s from the first submit to the last end; devices in use: H100 " in out
    (tmp_path / "pools.yaml").write_text(
        "lab: {hosts: [{ip: a, accelerators: {H100: 2}}, {ip: b, accelerators: {H100: 2}}]}"
    )
    assert report(tmp_path, trace, str(tmp_path / "pools.yaml")) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    "text, words, told",
    [
        ("a,b\n", ["--nodes", "1"], "should name the columns"),
        ("", ["--nodes", "1"], "should name the columns"),
        ("duration\n", ["--nodes", "1"], "has no jobs"),
        ("duration\nsoon\n", ["--nodes", "1"], "line 2: duration should be a time"),
        ("duration,nodes\n1,two\n", ["--nodes", "1"], "line 2: nodes should be a whole number"),
        ("duration,gpus\n1,H100:1.5\n", ["--nodes", "1"], "line 2: Accelerator count above 1"),
        ("duration,gpus\n1,H100:9\n", ["--nodes", "1", "--gpus", "H100:8"], "do not match"),
        ("duration\n1\n", [], "Give the nodes"),
        ("duration\n1\n", ["--nodes", "1", "--reserve-after", "soon"], "should be a time"),
        ("duration\n1\n", ["nothing.yaml"], "can't be read"),
    ],
)
def test_what_is_off_is_told_with_its_line(tmp_path, text: str, words: list[str], told: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((SkyqError, UsageError), match=told):
        report(tmp_path, text, *words)
