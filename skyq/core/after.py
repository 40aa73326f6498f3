"""Jobs that wait for others: what must have become of those. Pure."""

from __future__ import annotations

from skyq.core import states
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Mapping, Sequence, Tuple, TypeAlias

OK, ANY, FAILED = "ok", "any", "failed"
_FAILED = frozenset({states.FAILED, states.FAILED_SETUP, states.FAILED_DRIVER})
_WANTED: Dict[str, frozenset[str]] = {
    OK: frozenset({states.SUCCEEDED}),
    ANY: states.FINAL,
    FAILED: _FAILED,
}
_TO = {OK: "succeed", ANY: "end", FAILED: "fail"}

After: TypeAlias = "Tuple[int, str]"
"""A job's id, and OK, ANY or FAILED."""


class Standing(NamedTuple):
    """How it stands with all that a job waits for."""

    met: bool = False
    never: str = ""
    """Why it can't be met any more."""
    waits: str = ""
    """What it waits for."""


def standing(after: Sequence[After], now: Mapping[int, str]) -> Standing:
    """`now`: the states of the jobs concerned; one that isn't there never will be."""
    open_ones = []
    for job_id, kind in after:
        state = now.get(job_id, "")
        if state in _WANTED[kind]:
            continue
        if state in states.FINAL or not state:
            became = "is %s" % state if state else "isn't there"
            return Standing(never="job %d, which it waits for to %s, %s" % (job_id, _TO[kind], became))
        open_ones.append("for job %d to %s" % (job_id, _TO[kind]))
    shown = ", ".join(open_ones[:3]) + (", and %d more" % (len(open_ones) - 3) if len(open_ones) > 3 else "")
    return Standing(met=not open_ones, waits="waits " + shown if open_ones else "")
