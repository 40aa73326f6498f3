"""`skyq clean`: give disk space back."""

from __future__ import annotations

import time

from skyq.cli import cluster
from skyq.cli.parser import Parser, confirm
from skyq.cli.progress import size_text
from skyq.core.errors import SkyqError, UsageError
from skyq.core.words import parsed_duration

_EXAMPLES = """\
  skyq clean                 what jobs that ended over 30 days ago left
  skyq clean --older 2d -y
  skyq clean --older 0d --logs
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("clean", "[OPTIONS] [CLUSTER]", "Remove what ended jobs left on disk.", _EXAMPLES)
    found.add_argument("cluster", nargs="?", default=cluster.LOCAL, metavar="CLUSTER")
    found.add_argument(
        "--older", default="30d", metavar="AGE", help="of jobs that ended longer ago: 12h, 30d, 4w"
    )
    found.add_argument("--logs", action="store_true", help="their logs too")
    found.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    return found


def main(words: list[str]) -> int:
    """Exit code 0."""
    found = parser().read(words)
    seconds(found.older)  # a slip is told of before anybody is asked
    if not cluster.here(found.cluster):
        from skyq.cli import remote

        return remote.run(found.cluster, "clean", words)
    head = cluster.open_head(found.cluster)
    from skyq.head import clean

    left = clean.leftovers(head.store, head.where, time.time() - seconds(found.older), found.logs)
    if not left:
        print("Nothing to remove: no job that ended over %s ago left anything." % found.older)
        clean.remove(head.store, head.where, [])
        return 0
    jobs = sorted({leftover.job for leftover in left})
    print("%s of %d ended jobs:" % (size_text(sum(leftover.size for leftover in left)), len(jobs)))
    for leftover in sorted(left, key=lambda one: -one.size)[:10]:
        print("  %10s  job %d  %s" % (size_text(leftover.size), leftover.job, leftover.path))
    if len(left) > 10:
        print("  and %d more" % (len(left) - 10))
    if not found.yes and not confirm("Remove them?", default=False):
        raise SkyqError("Aborted!")
    clean.remove(head.store, head.where, left)
    print("Removed.")
    return 0


def seconds(age: str) -> float:
    """Of 90m, 12h, 30d, 4w. Raises UsageError."""
    found = parsed_duration(age)
    if found is None:
        raise UsageError("Invalid age: %s. Write a number and a unit: 90m, 12h, 30d, 4w." % age)
    return found
