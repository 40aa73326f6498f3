"""`skyq status`: what a cluster has, and what of it is in use."""

from __future__ import annotations

import json
import os
import sys

from skyq.cli import cluster
from skyq.cli.parser import Parser
from skyq.cli.render import Style, nodes_json, nodes_table
from skyq.core import states

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
    """Exit code 0."""
    found = parser().read(words)
    names = found.clusters or cluster.known()
    answers: dict[str, object] = {}
    style = Style.of(sys.stdout.isatty(), os.environ)
    for name in names:
        head = cluster.open_head(name)
        head.look()
        nodes, holding = head.nodes(), head.holding()
        if found.output == "json":
            answers.update(nodes_json(name, nodes, holding))
            continue
        waiting = sum(job.state in states.WAITING for job in head.jobs(None, unfinished=True))
        print(style.bold("Cluster " + name) + ": %d running, %d waiting" % (len(holding), waiting))
        print(nodes_table(nodes, holding, style))
    if found.output == "json":
        print(json.dumps(answers, indent=2))
    return 0
