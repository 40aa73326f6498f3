"""`skyq resume`: jobs may start on a drained node again, or on devices in quarantine."""

from __future__ import annotations

from argparse import Namespace

from skyq.cli.nodewords import add_words, on_nodes
from skyq.cli.parser import Parser
from skyq.core.model import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

_EXAMPLES = """\
  skyq resume lab node2
  skyq resume lab '*'        all of them
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser(
        "resume",
        "CLUSTER NODES...",
        "Let jobs start on drained nodes again, and on devices in quarantine.",
        _EXAMPLES,
    )
    add_words(found)
    return found


def main(words: list[str]) -> int:
    """Exit code 0."""
    return on_nodes(parser(), "resume", words, _resume)


def _resume(head: Head, chosen: list[Node], found: Namespace) -> None:
    from skyq.head import nodes

    nodes.resume(head, [node.name for node in chosen])
    for node in chosen:
        print("%s takes jobs%s." % (node.name, " again" if node.unusable else ""))
        for kept in node.quarantined:
            words = (kept.device, kept.who, kept.job)
            print("Device %d is given out again, though %s of job %d may still use it." % words)
