"""`skyq hold`: waiting jobs are kept from starting."""

from __future__ import annotations

from argparse import Namespace

from skyq.cli.jobwords import add_jobs, on_jobs
from skyq.cli.parser import Parser
from skyq.cli.user import user
from skyq.core import states
from skyq.core.words import jobs_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

_EXAMPLES = """\
  skyq hold lab 7 9
  skyq hold lab 'sweep-*'
  skyq release lab 7
"""


def parser() -> Parser:
    """Its flags."""
    about = "Keep waiting jobs from starting. They keep their turn."
    found = Parser("hold", "CLUSTER JOBS...", about, _EXAMPLES)
    add_jobs(found)
    return found


def main(words: list[str]) -> int:
    """Exit code 0, or 1 where none of them waits."""
    return on_jobs(parser(), "hold", words, _hold)


def _hold(head: Head, ids: list[int], found: Namespace) -> int:
    from skyq.head.waits import signed

    held = head.hold(ids, signed("held", user()))
    if held:
        print("Held: %s. To let it start: skyq release %s %s" % (jobs_text(held), head.cluster, held[0]))
    return tell_others(head, ids, held)


def tell_others(head: Head, ids: list[int], concerned: list[int]) -> int:
    """Say what became of the others; the exit code."""
    for job_id in ids:
        job = head.job(job_id)
        if job is None:
            print("Job %d is not there." % job_id)
        elif job_id not in concerned:
            waits = "held already" if job.held else "not held"
            print("Job %d is %s." % (job_id, waits if job.state in states.WAITING else job.state))
    return 0 if concerned else 1
