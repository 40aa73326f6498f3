"""Whether what a job waits for has come about, can still, or can't any more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core.after import ANY, FAILED, OK, Standing, standing
from skyq.core.states import FINAL

STATES = ["PENDING", "SETTING_UP", "RUNNING", *sorted(FINAL)]


@pytest.mark.parametrize(
    "kind, met_by",
    [
        (OK, {"SUCCEEDED"}),
        (ANY, set(FINAL)),
        (FAILED, {"FAILED", "FAILED_SETUP", "FAILED_DRIVER"}),
    ],
)
@pytest.mark.parametrize("state", STATES)
def test_one_job_decides_by_how_it_ended(kind: str, met_by: set[str], state: str) -> None:
    found = standing([(3, kind)], {3: state})
    assert found.met == (state in met_by)
    assert bool(found.never) == (state in FINAL - met_by)
    assert bool(found.waits) == (state not in FINAL)


def test_a_job_that_is_gone_never_comes_about() -> None:
    assert standing([(3, ANY)], {}) == Standing(never="job 3, which it waits for to end, isn't there")


def test_many_are_told_of_in_short() -> None:
    found = standing([(n, OK) for n in range(1, 7)], dict.fromkeys(range(1, 7), "RUNNING"))
    assert found.waits == (
        "waits for job 1 to succeed, for job 2 to succeed, for job 3 to succeed, and 3 more"
    )


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([OK, ANY, FAILED])), max_size=5), st.data())
def test_it_is_met_waits_or_never_comes_and_only_one_of_these(after, data) -> None:  # type: ignore[no-untyped-def]
    now = {job: data.draw(st.sampled_from(STATES)) for job in {job for job, _ in after}}
    found = standing(after, now)
    assert [found.met, bool(found.never), bool(found.waits)].count(True) == 1
