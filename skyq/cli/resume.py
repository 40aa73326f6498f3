"""`skyq resume`: jobs may start on a drained node again."""

from __future__ import annotations

from skyq.cli import cluster
from skyq.cli.nodewords import NODES, resolve
from skyq.cli.parser import Parser

_EXAMPLES = """\
  skyq resume lab node2
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("resume", "CLUSTER NODES...", "Let jobs start on drained nodes again.", _EXAMPLES)
    found.add_argument("cluster", metavar="CLUSTER", help="its name")
    found.add_argument("nodes", nargs="+", metavar="NODES", help=NODES)
    return found


def main(words: list[str]) -> int:
    """Exit code 0."""
    found = parser().read(words)
    if not cluster.here(found.cluster):
        from skyq.cli import remote

        return remote.run(found.cluster, "resume", words)
    from skyq.head import nodes

    head = cluster.open_head(found.cluster)
    chosen = resolve(head.store.nodes(), found.nodes, found.cluster)
    nodes.resume(head, [node.name for node in chosen])
    for node in chosen:
        print("%s takes jobs%s." % (node.name, " again" if node.unusable else ""))
    return 0
