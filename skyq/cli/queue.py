"""`skyq queue`: the jobs of clusters."""

from __future__ import annotations

import argparse
import os
import sys
import time

from skyq.cli import cluster, many
from skyq.cli.parser import Parser
from skyq.core.errors import SkyqError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.cli.render import QueueRow

_EXAMPLES = """\
  skyq queue local            newest first; REASON tells why a job waits
  skyq queue local -s         without those that have ended
  skyq queue local --each     a row for each job of an array, too
  skyq queue -u -o json | jq '.local[] | select(.status == "FAILED")'
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("queue", "[OPTIONS] [CLUSTERS]...", "Show the jobs of clusters.", _EXAMPLES)
    found.add_argument("clusters", nargs="*", metavar="CLUSTERS", help="all of them if none is named")
    found.add_argument("-s", "--skip-finished", action="store_true", help="only jobs that wait or run")
    found.add_argument("-u", "--all-users", action="store_true", help="jobs of all users")
    found.add_argument("--each", action="store_true", help="a row for each job of an array")
    found.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="json: for programs"
    )
    return found


def main(words: list[str]) -> int:
    """Exit code 0, or 1 if a cluster could not be asked."""
    found = parser().read(words)
    names = list(dict.fromkeys(found.clusters)) or cluster.known()
    options = (
        ["-u"] * found.all_users
        + ["--each"] * found.each
        + ["-s"] * found.skip_finished
        + ["-o", found.output]
    )

    def show(name: str) -> int:
        return _show(name, _rows(name, found), found)

    def record(name: str) -> tuple[object, int]:
        from skyq.cli.render import queue_json

        return queue_json(name, _rows(name, found))[name], 0

    question = many.Question("queue", options, show, record, _failed, gap=True)
    return many.ask(names, question, found.output == "json")


def _show(name: str, rows: list[QueueRow], found: argparse.Namespace) -> int:
    from skyq.cli.render import QueueView, Style, queue_table

    style = Style.of(sys.stdout.isatty(), os.environ)
    print(
        queue_table(
            name, rows, QueueView(time.time(), found.all_users, os.path.expanduser("~"), found.each), style
        )
    )
    return 0


def _failed(name: str, error: SkyqError) -> str:
    return "Failed to get the job queue for cluster '%s'.\n  %s" % (name, error)


def _rows(name: str, found: argparse.Namespace) -> list[QueueRow]:
    from skyq.cli.render import QueueRow
    from skyq.cli.user import user

    head = cluster.open_head(name)
    head.look()
    jobs = head.jobs(None if found.all_users else user(), found.skip_finished)
    reasons = head.reasons(jobs)
    return [QueueRow(job, head.resources(job), head.log_folder(job), reasons.get(job.id, "")) for job in jobs]
