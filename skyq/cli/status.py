"""`skyq status`: what a cluster has, and what of it is in use."""

from __future__ import annotations

import os
import sys

from skyq.cli import cluster, many
from skyq.cli.parser import Parser
from skyq.cli.render import Style, nodes_json, nodes_table, quarantine_text, strangers_text
from skyq.core import states
from skyq.core.logtext import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

PATIENCE = 3.0  # seconds to find out which workers can be reached

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
    question = many.Question("status", ["-o", found.output], _show, _record, lambda name, error: str(error))
    return many.ask(names, question, found.output == "json")


def _open(name: str) -> Head:
    head = cluster.open_head(name)
    head.see_nodes(PATIENCE)
    return head


def _record(name: str) -> tuple[object, int]:
    head = _open(name)
    return nodes_json(name, head.nodes(), head.holding())[name], 0


def _show(name: str) -> int:
    head = _open(name)
    style = Style.of(sys.stdout.isatty(), os.environ)
    holding = head.holding()
    waiting = sum(job.state in states.WAITING for job in head.jobs(None, unfinished=True))
    print(style.bold("Cluster " + name) + ": %d running, %d waiting" % (len(holding), waiting))
    if paused := head.paused():
        text = paused[0].upper() + paused[1:] + ". Nothing starts until: skyq resume " + name
        print(style.yellow(plain(text)))
    print(nodes_table(head.nodes(), holding, style))
    quarantine = quarantine_text(head.nodes(), name)
    if quarantine:
        print(style.red(quarantine))
    strangers = strangers_text(head.nodes(), name, grows=name != cluster.LOCAL)
    if strangers:
        print(style.yellow(strangers))
    return 0
