"""Times in words, as SkyPilot's users know them, and ids. Pure: the caller brings the seconds.

A negative time (a clock was set back) reads like no time at all.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence, Tuple

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY

_CLOCK = ((DAY, HOUR, "h"), (HOUR, MINUTE, "m"), (MINUTE, 1, "s"))
_UNITS = {"w": WEEK, "d": DAY, "h": HOUR, "m": MINUTE, "s": 1}
_MANY = 8  # ids
_CAP = 1e12
"""Keeps infinity out of int()."""


def ago(seconds: float) -> str:
    """How long ago something was, in one unit: "< 1 sec", "a few secs ago", "2 hrs ago", "3 weeks ago"."""
    if not seconds >= 1:  # also true of nan
        return "< 1 sec"
    whole = int(min(seconds, _CAP))
    if whole <= 10:
        return "a few secs ago"
    return _floored(whole) if whole < WEEK else _rounded(whole // DAY)


def _floored(whole: int) -> str:
    if whole < MINUTE:
        return "%d secs ago" % whole
    if whole < HOUR:
        return _count(whole // MINUTE, "min")
    if whole < DAY:
        return _count(whole // HOUR, "hr")
    return _count(whole // DAY, "day")


def _rounded(days: int) -> str:
    """From a week on the nearer unit is named: 13 days are 2 weeks, 11 months and 16 days a year."""
    years, months, rest = _calendar(days)
    if years == 0 and months == 0:
        return _count((days + 3) // 7, "week")
    if years == 0 and (months < 11 or rest <= 15):
        return _count(months + (rest >= 27), "month")
    return _count(max(1, years + (months > 6)), "year")


def _count(number: int, unit: str) -> str:
    return "%d %s%s ago" % (number, unit, "" if number == 1 else "s")


def ids_text(ids: Sequence[int]) -> str:
    """The ids in their order; of many, those in a row as a range, the least first: "3, 12-111"."""
    if len(ids) <= _MANY:
        return ", ".join(map(str, ids))
    runs: List[List[int]] = []
    for each in sorted(ids):
        if not runs or each > runs[-1][-1] + 1:
            runs.append([each])
        runs[-1].append(each)
    return ", ".join("%d" % run[0] if run[0] == run[-1] else "%d-%d" % (run[0], run[-1]) for run in runs)


def jobs_text(ids: Sequence[int]) -> str:
    """ "job 3", "jobs 3, 5, 6", or only the first ones of many."""
    shown = ", ".join(map(str, ids[:_MANY])) + (
        " and %d more" % (len(ids) - _MANY) if len(ids) > _MANY else ""
    )
    return "job%s %s" % ("" if len(ids) == 1 else "s", shown)


def duration(seconds: float) -> str:
    """How long something lasted, all units but those that are zero: "59s", "1h 30m", "1 year 1mo 4d"."""
    if not seconds >= 1:
        return "< 1s"
    whole = int(min(seconds, _CAP))
    parts = _long_parts(whole // DAY) if whole >= DAY else []
    for larger, size, unit in _CLOCK:
        number = whole % larger // size
        if number:
            parts.append("%d%s" % (number, unit))
    return " ".join(parts)


def within(seconds: float) -> str:
    """How long something may still take, never less than it does: "35s", "40m", "1d 2h"."""
    step = 1 if seconds < 2 * MINUTE else MINUTE if seconds < DAY else HOUR
    return duration(max(1, -(-seconds // step) * step))


def parsed_duration(text: str) -> Optional[int]:
    """Seconds of 90s, 10m, 2h, 1d12h, 4w; None for what is none."""
    if not re.fullmatch(r"([0-9]{1,6}[wdhms])+", text):
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([wdhms])", text))


def _long_parts(days: int) -> List[str]:
    years, months, rest = _calendar(days)
    parts = ["%d year%s" % (years, "" if years == 1 else "s")] if years else []
    parts += ["%d%s" % (n, unit) for n, unit in ((months, "mo"), (rest // 7, "w"), (rest % 7, "d")) if n]
    return parts


def _calendar(days: int) -> Tuple[int, int, int]:
    """Years of 365 days, months that begin on every twelfth of one (rounded up to a day), and days."""
    years, rest = divmod(days, 365)
    months = rest * 12 // 365
    return years, months, rest - (months * 365 + 11) // 12
