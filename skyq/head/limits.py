"""When jobs with a time limit have ended: what the nodes tell of it, and what is passed on to who asks.

The nodes end them, each by its own clock. Here it is only known by when they surely have: for the plan, and
for people. What a node has not told since it was connected to isn't known.
"""

from __future__ import annotations

import json
import time

from skyq.core import states
from skyq.core.model import ENDING, Job
from skyq.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, Mapping, Optional, Sequence

_ENDS = "ends"


class Ends:
    """When the running steps reach their limits; in this machine's monotonic time."""

    def __init__(self) -> None:
        self._at: Dict[int, Dict[str, float]] = {}
        self._kept: Optional[str] = None

    def __iter__(self) -> Iterator[int]:
        """The jobs of which something is known."""
        return iter(self._at)

    def told(self, job_id: int, step: str, at: float) -> None:
        """A node has told it. It may be earlier by what the message took."""
        self._at.setdefault(job_id, {})[step] = at

    def forget(self, job_id: int, step: str = "") -> None:
        """Of one step, or of all of a job."""
        if not step or self._at.get(job_id, {}).keys() == {step}:
            self._at.pop(job_id, None)
        elif job_id in self._at:
            self._at[job_id].pop(step, None)

    def surely(self, job: Job, running: Sequence[str]) -> Optional[float]:
        """When nothing of an active job lives any more; None: that isn't known. `running`: those of its steps
        of which the script is not over.
        """
        at = self._at.get(job.id, {})
        if not running or any(step not in at for step in running):
            return None
        rest = job.time_limit.most() or 0.0 if job.state == states.SETTING_UP else 0.0
        return max(at[step] for step in running) + job.time_limit.grace + ENDING + rest

    def keep(self, store: Store, ends: Mapping[int, float]) -> None:
        """Pass on what surely() says of each job. Within a transaction."""
        text = json.dumps([_boot(), list(ends.items())]) if ends else ""
        if text != (store.get(_ENDS) if self._kept is None else self._kept):
            store.set(_ENDS, text)
        self._kept = text


def read(store: Store) -> Dict[int, float]:
    """In how many seconds active jobs have surely ended, as far as that is known."""
    boot, ends = json.loads(store.get(_ENDS) or '["", []]')
    now = time.monotonic()
    return {job_id: max(0.0, at - now) for job_id, at in ends} if boot == _boot() else {}


def until_limit(job: Job, ends_in: float) -> float:
    """Seconds until the limit of a running job is reached, of what read() says of it."""
    return max(0.0, ends_in - job.time_limit.grace - ENDING)


def _boot() -> str:
    """Monotonic time is told of one boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
