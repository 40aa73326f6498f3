"""What lets jobs wait that would fit: other jobs, and what people have ordered."""

from __future__ import annotations

import time

from skyq.core import after
from skyq.core.after import Standing
from skyq.core.model import Job
from skyq.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable


def standings(store: Store, jobs: Iterable[Job]) -> Dict[int, Standing]:
    """Of those that wait for others: how it stands with these."""
    bound = [job for job in jobs if job.after]
    now = store.states_of({job_id for job in bound for job_id, _ in job.after}) if bound else {}
    return {job.id: after.standing(job.after, now) for job in bound}


def signed(what: str, by: str, why: str = "") -> str:
    """An order as it is shown: what, by whom, since now, and why, on one line."""
    why = " ".join(why.split())[:200]
    return "%s by %s since %s" % (what, by, time.strftime("%Y-%m-%d %H:%M:%S")) + (": " + why if why else "")
