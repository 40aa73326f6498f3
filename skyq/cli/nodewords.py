"""Nodes as people give them: a name, `head` or `worker3` as the logs call them, or a pattern with * ? [ ]."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from skyq.cli.parser import Parser
from skyq.core.errors import SkyqError
from skyq.core.model import Node
from skyq.core.paths import host_word


def add_words(parser: Parser) -> None:
    """A cluster and nodes of it."""
    parser.add_argument("cluster", nargs="?", metavar="CLUSTER", help="its name")
    parser.add_argument(
        "nodes", nargs="*", metavar="NODES", help="names as `skyq status` prints them, or patterns"
    )


def read(parser: Parser, words: list[str]) -> Namespace:
    """The flags, with both of them."""
    found = parser.read(words)
    if not found.cluster or not found.nodes:
        parser.error("Missing argument '%s'." % ("NODES" if found.cluster else "CLUSTER"))
    return found


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
