"""Nodes of a cluster as people give them: a name, `head` or `worker3` as the logs call them, or a pattern
with * ? [ ]; and the verbs about them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from skyq.cli import cluster
from skyq.cli.parser import Parser
from skyq.core.errors import SkyqError
from skyq.core.model import Node
from skyq.core.paths import host_word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head


def add_cluster(parser: Parser) -> None:
    """The cluster's name; see read()."""
    parser.add_argument("cluster", nargs="?", metavar="CLUSTER", help="its name")


def add_words(parser: Parser) -> None:
    """A cluster and nodes of it."""
    add_cluster(parser)
    parser.add_argument(
        "nodes", nargs="*", metavar="NODES", help="names as `skyq status` prints them, or patterns"
    )


def read(parser: Parser, words: list[str], *needed: str) -> Namespace:
    """The flags, with a cluster and what else is needed."""
    found = parser.read(words)
    for name in ("cluster", *needed):
        if not getattr(found, name):
            parser.error("Missing argument '%s'." % name.upper())
    return found


def on_nodes(
    parser: Parser, verb: str, words: list[str], act: Callable[[Head, list[Node], Namespace], None]
) -> int:
    """Run a verb about nodes where the head of their cluster is; returns the exit code."""
    found = read(parser, words, "nodes")
    if not cluster.here(found.cluster):
        from skyq.cli import remote

        return remote.run(found.cluster, verb, words)
    head = cluster.open_head(found.cluster)
    act(head, resolve(head.store.nodes(), found.nodes, found.cluster), found)
    return 0


def resolve(nodes: Sequence[Node], words: Iterable[str], cluster: str) -> list[Node]:
    """The nodes that the words mean, in cluster order. SkyqError for a word that means none."""
    chosen: set[str] = set()
    for word in words:
        found = [node.name for node in nodes if word in (node.name, host_word(node.index))]
        found = found or [node.name for node in nodes if fnmatchcase(node.name, word)]
        if not found:
            names = ", ".join(node.name for node in nodes)
            raise SkyqError("Cluster %s has no node '%s'. It has %s." % (cluster, word, names))
        chosen.update(found)
    return [node for node in nodes if node.name in chosen]
