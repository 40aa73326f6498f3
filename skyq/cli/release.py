"""`skyq release`: held jobs may start."""

from __future__ import annotations

from argparse import Namespace

from skyq.cli.hold import tell_others
from skyq.cli.jobwords import add_jobs, on_jobs
from skyq.cli.parser import Parser
from skyq.core.words import jobs_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

_EXAMPLES = """\
  skyq release lab 7
  skyq release lab '*'       all of yours
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("release", "CLUSTER JOBS...", "Let held jobs start when it is their turn.", _EXAMPLES)
    add_jobs(found)
    return found


def main(words: list[str]) -> int:
    """Exit code 0, or 1 where none of them was held."""
    return on_jobs(parser(), "release", words, _release)


def _release(head: Head, ids: list[int], found: Namespace) -> int:
    released = head.hold(ids, "")
    if released:
        print("Released: %s." % jobs_text(released))
    return tell_others(head, ids, released)
