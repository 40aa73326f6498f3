"""`skyq drain`: nothing new starts on a node; what runs there goes on."""

from __future__ import annotations

from argparse import Namespace

from skyq.cli.nodewords import add_words, on_nodes
from skyq.cli.parser import Parser
from skyq.cli.user import user
from skyq.core.model import Node
from skyq.core.words import jobs_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

_EXAMPLES = """\
  skyq drain lab node2
  skyq drain lab 'node*' --reason 'new driver tonight'
  skyq resume lab node2      jobs may start there again
"""


def parser() -> Parser:
    """Its flags."""
    about = "Start nothing new on nodes. What runs there goes on."
    found = Parser("drain", "[OPTIONS] CLUSTER NODES...", about, _EXAMPLES)
    add_words(found)
    found.add_argument("--reason", default="", metavar="TEXT", help="shown with the node, and by `why`")
    return found


def main(words: list[str]) -> int:
    """Exit code 0."""
    return on_nodes(parser(), "drain", words, _drain)


def _drain(head: Head, chosen: list[Node], found: Namespace) -> None:
    from skyq.head import nodes

    nodes.drain(head, [node.name for node in chosen], user(), found.reason)
    for node in chosen:
        ids = [job.id for job in nodes.users_of(head, node.name)]
        still = " It still has %s." % jobs_text(ids) if ids else ""
        print("%s is drained: nothing new starts there.%s" % (node.name, still))
