"""`skyq rerun`: a job once more, as a new one."""

from __future__ import annotations

import os
from argparse import Namespace

from skyq.cli.jobwords import add_jobs, on_jobs
from skyq.cli.parser import Parser
from skyq.cli.user import user
from skyq.core.errors import SkyqError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

_EXAMPLES = """\
  skyq rerun lab 7
  skyq rerun lab 'sweep-*'
"""


def parser() -> Parser:
    """Its flags."""
    about = "Submit jobs once more, as new ones: as they were, in the folders that they ran in."
    found = Parser("rerun", "CLUSTER JOBS...", about, _EXAMPLES)
    add_jobs(found)
    return found


def main(words: list[str]) -> int:
    """Exit code 0 once they are queued."""
    return on_jobs(parser(), "rerun", words, _rerun)


def _rerun(head: Head, ids: list[int], found: Namespace) -> int:
    jobs = [head.job(job_id) for job_id in ids]
    for job_id, job in zip(ids, jobs):
        if job is None:
            raise SkyqError("Job %d is not there. Nothing was submitted." % job_id)
        head.check_rerun(job)
    for job in sorted(filter(None, jobs), key=lambda job: job.id):
        new = head.rerun(job, user(), os.urandom(16).hex())
        print("Job %d is submitted again, ID: %d" % (job.id, new))
    return 0
