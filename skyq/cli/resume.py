"""`skyq resume`: jobs may start on a drained node again."""

from __future__ import annotations

from skyq.cli import cluster
from skyq.cli.nodewords import add_words, read, resolve
from skyq.cli.parser import Parser

_EXAMPLES = """\
  skyq resume lab node2
  skyq resume lab '*'        all of them
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("resume", "CLUSTER NODES...", "Let jobs start on drained nodes again.", _EXAMPLES)
    add_words(found)
    return found


def main(words: list[str]) -> int:
    """Exit code 0."""
    found = read(parser(), words)
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
