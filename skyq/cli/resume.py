"""`skyq resume`: jobs may start again, on drained nodes or after a pause."""

from __future__ import annotations

from argparse import Namespace

from skyq.cli.jobwords import on_head
from skyq.cli.nodewords import add_words, on_nodes, read
from skyq.cli.parser import Parser
from skyq.core.model import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

_EXAMPLES = """\
  skyq resume lab node2
  skyq resume lab '*'        all of them
  skyq resume lab            after `skyq pause lab`
"""


def parser() -> Parser:
    """Its flags."""
    about = "Let jobs start on nodes again, and on devices in quarantine; without nodes: after a pause."
    found = Parser("resume", "CLUSTER [NODES]...", about, _EXAMPLES)
    add_words(found)
    return found


def main(words: list[str]) -> int:
    """Exit code 0."""
    found = read(parser(), words)
    if found.nodes:
        return on_nodes(parser(), "resume", words, _resume)
    return on_head(found.cluster, "resume", words, _go_on)


def _go_on(head: Head) -> int:
    was = head.paused()
    head.pause("")
    print("Queue %s starts jobs%s." % (head.cluster, " again" if was else ", as before: it was not paused"))
    return 0


def _resume(head: Head, chosen: list[Node], found: Namespace) -> None:
    from skyq.head import nodes

    nodes.resume(head, [node.name for node in chosen])
    for node in chosen:
        print("%s takes jobs%s." % (node.name, " again" if node.unusable else ""))
        for kept in node.quarantined:
            words = (kept.device, kept.who, kept.job)
            print("Device %d is given out again, though %s of job %d may still use it." % words)
