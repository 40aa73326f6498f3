"""`skyq queue`: the jobs of clusters."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from skyq.cli import cluster
from skyq.cli.parser import Parser
from skyq.cli.render import QueueRow, QueueView, Style, queue_json, queue_table
from skyq.core.errors import SkyqError

_EXAMPLES = """\
  skyq queue local            newest first; REASON tells why a job waits
  skyq queue local -s         without those that have ended
  skyq queue -u -o json | jq '.local[] | select(.status == "FAILED")'
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("queue", "[OPTIONS] [CLUSTERS]...", "Show the jobs of clusters.", _EXAMPLES)
    found.add_argument("clusters", nargs="*", metavar="CLUSTERS", help="all of them if none is named")
    found.add_argument("-s", "--skip-finished", action="store_true", help="only jobs that wait or run")
    found.add_argument("-u", "--all-users", action="store_true", help="jobs of all users")
    found.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="json: for programs"
    )
    return found


def main(words: list[str]) -> int:
    """Exit code 0, or 1 if a cluster could not be asked."""
    found = parser().read(words)
    names = list(dict.fromkeys(found.clusters)) or cluster.known()
    if found.output == "json":
        answer = {name: _ask(name, found) for name in names}
        print(json.dumps({name: queue_json(name, rows)[name] for name, rows in answer.items()}, indent=2))
        return 0
    style = Style.of(sys.stdout.isatty(), os.environ)
    view = QueueView(time.time(), found.all_users, os.path.expanduser("~"))
    failed = 0
    for number, name in enumerate(names):
        try:
            rows = _ask(name, found)
        except SkyqError as error:
            from skyq.core.logtext import plain

            print(
                style.yellow("Failed to get the job queue for cluster '%s'.\n  %s" % (plain(name), error)),
                file=sys.stderr,
            )
            failed = 1
            continue
        print(("\n" if number else "") + queue_table(name, rows, view, style))
    return failed


def _ask(name: str, found: argparse.Namespace) -> list[QueueRow]:
    from skyq.cli.submit import user

    head = cluster.open_head(name)
    head.look()
    jobs = head.jobs(None if found.all_users else user(), found.skip_finished)
    reasons = head.reasons(jobs)
    return [QueueRow(job, head.resources(job), head.log_folder(job), reasons.get(job.id, "")) for job in jobs]
