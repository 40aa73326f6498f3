"""`skyq wait`: until jobs have ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

from skyq.cli import place
from skyq.cli.jobwords import add_jobs, ids_of, on_head
from skyq.cli.nodewords import read
from skyq.cli.parser import Parser
from skyq.cli.user import user
from skyq.core import states
from skyq.core.logtext import plain
from skyq.core.words import jobs_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

QUICK, SLOW = 0.02, 0.25  # seconds between two looks, at first and later
EAGER = 2.0  # seconds
CARE = 2.0  # seconds between two looks whether the dispatcher, which may be killed, still works
_WORST_FIRST = (states.EXIT_FAILED, states.EXIT_CANCELLED, states.EXIT_NOT_FOUND, states.EXIT_OK)

_EXAMPLES = """\
  skyq wait lab 7 9          exits with the worst one's code: 0, 100 failed, 103 cancelled, 102 not there
  skyq wait lab 12-111       an array
  skyq wait lab 'sweep-*'
  skyq wait lab              for all unfinished jobs of yours
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("wait", "CLUSTER [JOBS]...", "Wait until jobs have ended.", _EXAMPLES)
    add_jobs(found)
    return found


def main(words: list[str]) -> int:
    """The worst job's exit code."""
    flags = parser()
    found = read(flags, words)

    def wait(head: Head) -> int:
        at = place.current()
        if at.resumed:  # others may have come, or ended, since
            return wait_for(head, [int(word) for word in at.said.split()])
        ids = ids_of(head, found.jobs, flags)
        if not found.jobs:
            ids = sorted(job.id for job in head.jobs(user(), unfinished=True))
            print("Waiting for %s." % jobs_text(ids) if ids else "You have no unfinished jobs.", flush=True)
        at.stage, at.job, at.said = place.WAITING, max(ids, default=0), " ".join(map(str, ids))
        at.keep()
        return wait_for(head, ids)

    return on_head(found.cluster, "wait", words, wait)


def wait_for(head: Head, ids: Sequence[int]) -> int:
    """Until these jobs have ended; how those ended that didn't succeed is said. The worst one's code."""
    began = time.monotonic()
    cared_at = began - CARE
    while True:
        now = time.monotonic()
        if now - cared_at >= CARE:
            head.look()
            cared_at = now
        if states.FINAL.issuperset(head.store.states_of(ids).values()):
            break
        time.sleep(QUICK if now - began < EAGER else SLOW)
    codes = {states.EXIT_OK, *(_told(head, job_id) for job_id in sorted(ids))}
    return next(code for code in _WORST_FIRST if code in codes)


def _told(head: Head, job_id: int) -> int:
    """Say how a job ended if it didn't succeed; its code."""
    job = head.job(job_id)
    if job is None:
        print("Job %d is not there." % job_id)
        return states.EXIT_NOT_FOUND
    if job.state != states.SUCCEEDED:
        name = " (%s)" % job.name if job.name else ""
        print(plain("Job %d%s: %s: %s" % (job.id, name, job.state, job.reason)))
    return states.EXIT_CODE[job.state]
