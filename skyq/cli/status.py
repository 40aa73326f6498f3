"""`skyq status`: what a cluster has, and what of it is in use."""

from __future__ import annotations

import json
import os
import sys

from skyq.cli import cluster
from skyq.cli.parser import Parser
from skyq.cli.render import Style, nodes_json, nodes_table
from skyq.core import states
from skyq.core.errors import SkyqError
from skyq.head.head import Head

_EXAMPLES = """\
  skyq status            every cluster: nodes, devices in use and free, jobs
  skyq status local -o json
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser(
        "status", "[OPTIONS] [CLUSTERS]...", "Show what clusters have, and what is in use.", _EXAMPLES
    )
    found.add_argument("clusters", nargs="*", metavar="CLUSTERS", help="all of them if none is named")
    found.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="json: for programs"
    )
    return found


def main(words: list[str]) -> int:
    """Exit code 0, or 1 if a cluster could not be asked."""
    found = parser().read(words)
    names = list(dict.fromkeys(found.clusters)) or cluster.known()
    answers: dict[str, object] = {}
    failed = 0
    for name in names:
        try:
            head = cluster.open_head(name)
        except SkyqError as error:
            print(error, file=sys.stderr)
            failed = 1
            continue
        head.look()
        if found.output == "json":
            answers.update(nodes_json(name, head.nodes(), head.holding()))
        else:
            _show(name, head)
    if found.output == "json":
        print(json.dumps(answers, indent=2))
    return failed


def _show(name: str, head: Head) -> None:
    style = Style.of(sys.stdout.isatty(), os.environ)
    holding = head.holding()
    waiting = sum(job.state in states.WAITING for job in head.jobs(None, unfinished=True))
    print(style.bold("Cluster " + name) + ": %d running, %d waiting" % (len(holding), waiting))
    print(nodes_table(head.nodes(), holding, style))
