"""The wording of times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core.words import DAY, HOUR, ago, duration, parsed_duration

FAR = 400 * 365 * DAY


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "< 1 sec"),
        (0.99, "< 1 sec"),
        (1, "a few secs ago"),
        (10.9, "a few secs ago"),
        (11, "11 secs ago"),
        (59.9, "59 secs ago"),
        (60, "1 min ago"),
        (119, "1 min ago"),
        (120, "2 mins ago"),
        (HOUR, "1 hr ago"),
        (23.9 * HOUR, "23 hrs ago"),
        (DAY, "1 day ago"),
        (6.9 * DAY, "6 days ago"),
        (7 * DAY, "1 week ago"),
        (13 * DAY, "2 weeks ago"),
        (30 * DAY, "4 weeks ago"),
        (31 * DAY, "1 month ago"),
        (58 * DAY, "2 months ago"),
        (350 * DAY, "11 months ago"),
        (351 * DAY, "1 year ago"),
        (550 * DAY, "1 year ago"),
        (580 * DAY, "2 years ago"),
    ],
)
def test_how_long_ago(seconds, words):
    assert ago(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "< 1s"),
        (59.9, "59s"),
        (89, "1m 29s"),
        (1.5 * HOUR, "1h 30m"),
        (DAY - 1, "23h 59m 59s"),
        (25 * HOUR, "1d 1h"),
        (10 * DAY, "1w 3d"),
        (199 * DAY, "6mo 2w 2d"),
        (400 * DAY, "1 year 1mo 4d"),
        (730 * DAY, "2 years"),
        (DAY + 1, "1d 1s"),
    ],
)
def test_how_long(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize("seconds", [-3599, -0.001, float("nan"), float("-inf")])
def test_a_clock_that_jumped_back_shows_no_negative_time(seconds):
    assert (ago(seconds), duration(seconds)) == ("< 1 sec", "< 1s")


@given(st.floats())
def test_no_number_is_too_odd_for_words(seconds):
    assert "-" not in ago(seconds) + duration(seconds)


@given(st.integers(1, FAR))
def test_the_parts_of_a_duration_add_up(seconds):
    sizes = {"s": 1, "m": 60, "h": HOUR, "d": DAY, "w": 7 * DAY}
    words = duration(seconds).replace(" years", "y").replace(" year", "y").split()
    months = sum(int(w[:-2]) for w in words if w.endswith("mo"))
    years = sum(int(w[:-1]) for w in words if w.endswith("y"))
    rest = sum(int(w[:-1]) * sizes[w[-1]] for w in words if w[-1] in sizes)
    assert years * 365 * DAY + -(-months * 365 // 12) * DAY + rest == seconds
    assert months < 12


@pytest.mark.parametrize(
    "text, seconds",
    [("90s", 90), ("10m", 600), ("2h", 7200), ("1d12h", 129_600), ("4w", 2_419_200), ("0s", 0)],
)
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert parsed_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "1.5h", "-1h", "1h 2m", "1y", "1234567s", "١h"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert parsed_duration(text) is None
