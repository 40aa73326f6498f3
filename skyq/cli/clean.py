"""`skyq clean`: give disk space back."""

from __future__ import annotations

import sys
import time

from skyq.cli import cluster
from skyq.cli.parser import Parser, confirm
from skyq.cli.progress import size_text
from skyq.core.errors import SkyqError, UsageError
from skyq.core.logtext import plain
from skyq.core.words import parsed_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from skyq.core.model import Job, Node
    from skyq.head.clean import Leftover
    from skyq.head.head import Head
    from skyq.transport.base import Channel

_EXAMPLES = """\
  skyq clean                 what jobs that ended over 30 days ago left
  skyq clean --older 2d -y
  skyq clean lab --older 0d --logs
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
    """Exit code 0, or 1 where a node could not be cleaned."""
    found = parser().read(words)
    seconds(found.older)  # a slip is told of before anybody is asked
    if not cluster.here(found.cluster):
        from skyq.cli import remote

        return remote.run(found.cluster, "clean", words)
    head = cluster.open_head(found.cluster)
    from skyq.head import clean

    jobs = clean.ended(head.store, time.time() - seconds(found.older))
    kept = clean.kept_copies(head.store, head.where)
    left = clean.leftovers(head.where, jobs, kept, found.logs)
    away = _Workers(head)
    left += away.leftovers(jobs, kept)
    if not left:
        print("Nothing to remove: no job that ended over %s ago left anything." % found.older)
        clean.remove(head.store, head.where, [])
        return away.code
    count = len({leftover.job for leftover in left})
    print("%s of %d ended jobs:" % (size_text(sum(leftover.size for leftover in left)), count))
    for leftover in sorted(left, key=lambda one: -one.size)[:10]:
        print("  %10s  job %d  %s" % (size_text(leftover.size), leftover.job, leftover.path))
    if len(left) > 10:
        print("  and %d more" % (len(left) - 10))
    if not found.yes and not confirm("Remove them?", default=False):
        raise SkyqError("Aborted!")
    clean.remove(head.store, head.where, [leftover for leftover in left if not leftover.node])
    away.remove(left)  # last: no new job can need there what is no longer here
    print("Removed.")
    return away.code


class _Workers:
    """Those of a cluster; what can't be asked is told of, and the others are cleaned."""

    def __init__(self, head: Head) -> None:
        self.where = head.where
        self.nodes = [node for node in head.store.nodes() if node.reach]
        self.code = 0

    def leftovers(self, jobs: Mapping[str, Job], kept: set[str]) -> list[Leftover]:
        """What these jobs left there."""
        if not self.nodes:
            return []
        from skyq.head import remains

        left, troubles = remains.found(self._connect, self.nodes, jobs, kept)
        self._tell(troubles)
        return left

    def remove(self, left: list[Leftover]) -> None:
        """What of that is there."""
        if any(leftover.node for leftover in left):
            from skyq.head import remains

            self._tell(remains.remove(self._connect, self.nodes, left))

    def _connect(self, node: Node) -> Channel:
        from skyq.transport.channel import SshChannel

        assert node.reach
        return SshChannel(node.reach, self.where.key, self.where.known_hosts, "skyq")

    def _tell(self, troubles: Mapping[str, str]) -> None:
        for name, why in troubles.items():
            self.code = 1
            print("What is on %s stays: %s" % (plain(name), plain(why)), file=sys.stderr)


def seconds(age: str) -> float:
    """Of 90m, 12h, 30d, 4w. Raises UsageError."""
    found = parsed_duration(age)
    if found is None:
        raise UsageError("Invalid age: %s. Write a number and a unit: 90m, 12h, 30d, 4w." % age)
    return found
