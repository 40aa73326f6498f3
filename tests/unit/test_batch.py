"""Arrays and sweeps: what the flags mean, and what each of the jobs is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core.batch import MAX_JOBS, batch_of, elements, size, uuid_of
from skyq.core.errors import TaskError
from skyq.core.request import check_name


@pytest.mark.parametrize(
    "text, indices, at_once",
    [
        ("0-3", (0, 1, 2, 3), 0),
        ("7", (7,), 0),
        ("1,3,7-9", (1, 3, 7, 8, 9), 0),
        ("0-10:5", (0, 5, 10), 0),
        ("0-99%8", tuple(range(100)), 8),
        ("3, 1,3", (3, 1), 0),
    ],
)
def test_an_array_is_written_as_for_slurm(text: str, indices: tuple[int, ...], at_once: int) -> None:
    batch = batch_of(text, [], None)
    assert batch is not None
    assert (batch.indices, batch.at_once) == (indices, at_once)


@pytest.mark.parametrize(
    "sweep, values",
    [
        ("lr=1e-3,3e-3", ("1e-3", "3e-3")),
        ("seed=0..3", ("0", "1", "2", "3")),
        ("seed=3..0", ("3", "2", "1", "0")),
        ("n=0..10..5", ("0", "5", "10")),
        ("opt=adam", ("adam",)),
        ("flag=", ("",)),
        ("path=../a,b", ("../a", "b")),
    ],
)
def test_a_sweep_is_a_list_or_a_range(sweep: str, values: tuple[str, ...]) -> None:
    batch = batch_of(None, [sweep], None)
    assert batch is not None and batch.sweeps == ((sweep.partition("=")[0], values),)


def test_each_combination_is_a_job_with_its_values_in_the_environment_and_in_the_name() -> None:
    batch = batch_of("5,6", ["lr=1e-3,3e-3"], 2)
    assert batch is not None and size(batch) == 4
    found = elements(batch, "train")
    assert [each.name for each in found] == [
        "train-lr-1e-3-5", "train-lr-1e-3-6", "train-lr-3e-3-5", "train-lr-3e-3-6",
    ]  # fmt: skip
    assert [each.envs for each in found] == [{"lr": "1e-3"}] * 2 + [{"lr": "3e-3"}] * 2
    assert found[3].facts == {
        **{"SKYQ_ARRAY_INDEX": "6", "SKYQ_JOB_RANK": "3", "SKYPILOT_JOB_RANK": "3"},
        **{"SKYQ_NUM_JOBS": "4", "SKYPILOT_NUM_JOBS": "4"},
    }


@pytest.mark.parametrize(
    "array, sweeps, at_once, said",
    [
        ("", [], None, "--array should be like"),
        ("5-3", [], None, "--array should be like"),
        ("0-9:0", [], None, "--array should be like"),
        ("-1", [], None, "--array should be like"),
        ("0-9%", [], None, "positive number"),
        ("0-9%0", [], None, "positive number"),
        ("0-9%x", [], None, "positive number"),
        ("0-9%2", [], 3, "Give one of them"),
        (None, [], 3, "give --array or --sweep"),
        ("0-9", [], -1, "positive number"),
        ("0-10000", [], None, "at most 10000"),
        ("0-999999999", [], None, "at most 10000"),
        (None, ["a=0..99", "b=0..99", "c=1,2"], None, "at most 10000"),
        (None, ["a=0..99999999"], None, "at most 10000"),
        (None, ["lr"], None, "--sweep should be"),
        (None, ["1x=3"], None, "--sweep should be"),
        (None, ["a=1", "a=2"], None, "twice"),
        (None, ["a=0..5..-1"], None, "goes nowhere"),
        (None, ["a=\0"], None, "NUL"),
    ],
)
def test_what_makes_no_sense_is_refused(
    array: str | None, sweeps: list[str], at_once: int | None, said: str
) -> None:
    with pytest.raises(TaskError, match=re.escape(said)):
        batch_of(array, sweeps, at_once)


VALUES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=80)


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(0, 9))
def test_whatever_is_swept_the_names_are_names_and_the_jobs_differ(values: list[str], last: int) -> None:
    batch = batch_of("0-%d" % last, ["x=" + ",".join(values)], None)
    assert batch is not None
    found = elements(batch, "train")
    assert all(each.name and check_name(each.name) == each.name for each in found)
    assert len({(each.envs["x"], each.facts["SKYQ_ARRAY_INDEX"]) for each in found}) == len(found)
    assert size(batch) == len(found)


def test_a_batch_without_a_name_has_none() -> None:
    batch = batch_of("0-1", [], None)
    assert batch is not None and [each.name for each in elements(batch, None)] == [None, None]


def test_all_jobs_of_a_submit_have_uuids_of_their_own() -> None:
    first = "0123456789abcdef01234567" + "0" * 8
    found = {uuid_of(first, place) for place in range(MAX_JOBS)}
    assert len(found) == MAX_JOBS and uuid_of(first, 0) == first
    assert all(re.fullmatch("[0-9a-f]{32}", uuid) for uuid in found)
