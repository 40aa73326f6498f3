"""Time limits as people write them, and what the head knows of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core import states
from skyq.core.errors import TaskError
from skyq.core.model import ENDING, Job, Request, TimeLimit
from skyq.core.request import BEFORE, Overrides, command_task, parse_signal, parse_time
from skyq.core.taskfile import load_task
from skyq.core.words import DAY, HOUR, duration, parsed_duration, within
from skyq.head import limits
from skyq.store.store import Store


@pytest.mark.parametrize(
    "text, seconds",
    [
        *(("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400), ("1w", 604800)),
        *(("1h30m", 5400), ("1h 30m", 5400), (" 2H ", 7200), ("1d12h", 129600)),
        *(("1:30:00", 5400), ("0:00:01", 1), ("100:00:00", 360000)),
        *(("1-12", 129600), ("1-12:30", 131400), ("1-12:30:15", 131415), ("0-0:00:01", 1)),
    ],
)
def test_a_time_limit(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds
    assert load_task("time_limit: %s\nrun: a" % text.strip(), "t.yaml").time_limit.seconds == seconds


@pytest.mark.parametrize("text", ["90", "2", "90:00", "1:30", "007"])
def test_what_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(TaskError, match=r"can be read in two ways. Write the units"):
        parse_time(text)
    with pytest.raises(TaskError, match=r"two ways.*\(t.yaml, line 1\)"):
        load_task("time_limit: %s\nrun: a" % text, "t.yaml")


@pytest.mark.parametrize(
    "text", ["", "soon", "2 hours", "1.5h", "-1h", "1:60:00", "1:2:3", "1-", "h", "2h30", "1e3", "٢h"]
)
def test_what_is_no_time_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(TaskError, match="is written 90s, 30m, 2h"):
        parse_time(text)


@pytest.mark.parametrize("text", ["0s", "0:00:00", "999999d", "9999-00:00:00"])
def test_a_limit_lies_between_a_second_and_ten_years(text: str) -> None:
    with pytest.raises(TaskError, match="a second at least, and ten years at most"):
        parse_time(text)


@pytest.mark.parametrize(
    "text, found",
    [
        *(("USR1@60", ("USR1", 60)), ("SIGUSR1@5m", ("USR1", 300)), ("usr2", ("USR2", BEFORE))),
        *(("TERM@90s", ("TERM", 90)), (" int@1 ", ("INT", 1))),
    ],
)
def test_a_signal(text: str, found: tuple[str, int]) -> None:
    assert parse_signal(text) == found


@pytest.mark.parametrize(
    "text", ["", "@60", "KILL@60", "STOP", "USR1@", "USR1@0", "USR1@-1", "B:USR1@60", "10@60"]
)
def test_what_is_no_signal_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(TaskError, match="is written USR1@60"):
        parse_signal(text)


def test_the_command_line_wins_over_the_file_part_by_part() -> None:
    text = "time_limit: 2h\nsignal: USR1@60\nrun: a"
    assert load_task(text, "t.yaml").time_limit == TimeLimit(7200, "USR1", 60)
    assert load_task(text, "t.yaml", Overrides(time="1h")).time_limit == TimeLimit(3600, "USR1", 60)
    assert load_task(text, "t.yaml", Overrides(signal="TERM@5")).time_limit == TimeLimit(7200, "TERM", 5)
    assert load_task(text, "t.yaml", Overrides(time="none")).time_limit == TimeLimit()
    assert command_task("a", Overrides(time="90s")).time_limit == TimeLimit(90)


def test_a_signal_needs_a_limit_that_is_longer() -> None:
    with pytest.raises(TaskError, match=r"there is none. Give one: --time 2h"):
        command_task("a", Overrides(signal="USR1@60"))
    with pytest.raises(TaskError, match=r"would come before the start. Give less: --signal USR1@6"):
        command_task("a", Overrides(time="1m", signal="USR1@60"))


@pytest.mark.parametrize("text", ["time_limit: [2h]", "time_limit: {a: 1}", "time_limit: true", "signal: 10"])
def test_a_file_that_is_off_is_told_with_its_line(text: str) -> None:
    with pytest.raises(TaskError, match=r"\(t.yaml, line 1\)"):
        load_task(text + "\nrun: a", "t.yaml")


@given(st.floats(0, 6 * DAY))
def test_what_may_still_take_is_never_told_too_short(seconds: float) -> None:
    told = parsed_duration(within(seconds).replace(" ", ""))
    assert told is not None and seconds <= told <= max(1, seconds + HOUR)


@pytest.mark.parametrize(
    "seconds, words",
    [(0, "1s"), (34.2, "35s"), (119.5, "2m"), (121, "3m"), (7200, "2h"), (7201, "2h 1m"), (DAY + 1, "1d 1h")],
)
def test_how_long_something_may_still_take(seconds: float, words: str) -> None:
    assert within(seconds) == words


def test_all_that_a_job_may_take() -> None:
    assert TimeLimit(60, grace=5).most() == 65 + ENDING
    assert TimeLimit(60, grace=5).most(2) == 2 * (65 + ENDING)
    assert TimeLimit(grace=5).most() is None
    assert duration(60) == "1m"


# What the nodes have told.

MINUTE = TimeLimit(60, grace=5)


def a_job(state: str = states.RUNNING, limit: TimeLimit = MINUTE) -> Job:
    """With a time limit."""
    return Job(
        *(7, "uuid", None, "me", state, 0.0, 0.0, None, 1, (Request(),), 0, 1, 0, None, "", (), False),
        *("", "", {}, (), (), 1),
        time_limit=limit,
    )


def test_a_job_has_ended_when_its_last_rank_has() -> None:
    ends = limits.Ends()
    assert ends.surely(a_job(), ["run-0"]) is None
    ends.told(7, "run-0", 100.0)
    assert ends.surely(a_job(), ["run-0", "run-1"]) is None
    ends.told(7, "run-1", 103.0)
    assert ends.surely(a_job(), ["run-0", "run-1"]) == 108 + ENDING
    assert ends.surely(a_job(), ["run-0"]) == 105 + ENDING
    assert ends.surely(a_job(), []) is None


def test_after_a_setup_a_whole_run_may_follow() -> None:
    ends = limits.Ends()
    ends.told(7, "setup-0", 100.0)
    assert ends.surely(a_job(states.SETTING_UP), ["setup-0"]) == 105 + ENDING + 65 + ENDING


def test_what_was_forgotten_is_not_known() -> None:
    ends = limits.Ends()
    for step in ("run-0", "run-1"):
        ends.told(7, step, 100.0)
    ends.forget(7, "run-0")
    assert (ends.surely(a_job(), ["run-0"]), list(ends)) == (None, [7])
    ends.forget(7, "run-1")
    ends.forget(7, "run-1")
    assert list(ends) == []


def test_what_is_known_is_passed_on_for_this_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, ends = Store.open(str(tmp_path / "queue.db")), limits.Ends()
    with store.transaction():
        ends.keep(store, {7: limits.time.monotonic() + 50})
    assert 49 < limits.read(store)[7] <= 50
    monkeypatch.setattr(limits, "_boot", lambda: "another one")
    assert limits.read(store) == {}
    with store.transaction():
        limits.Ends().keep(store, {})  # a new dispatcher that knows nothing yet
    assert store.get("ends") == ""
    store.close()
