"""`skyq add`: more hosts for a cluster, while its jobs run."""

from __future__ import annotations

from skyq.cli import cluster
from skyq.cli.nodewords import add_cluster, read
from skyq.cli.parser import Parser
from skyq.core.errors import SkyqError

_EXAMPLES = """\
  skyq add lab node4 node5     names of ~/.ssh/config, or of your pools
  skyq add lab                 all free hosts of its pool
  skyq add lab node2           a node that is one already: see again what devices it has
"""


def parser() -> Parser:
    """Its flags."""
    about = "Take more hosts into a cluster. Its jobs go on; those that wait may start there."
    found = Parser("add", "[OPTIONS] CLUSTER [HOSTS]...", about, _EXAMPLES)
    add_cluster(found)
    found.add_argument("hosts", nargs="*", metavar="HOSTS", help="all free ones of its pool if none is named")
    found.add_argument(
        "--accept-new-host-keys", action="store_true", help="don't ask about hosts that are met first"
    )
    return found


def main(words: list[str]) -> int:
    """Exit code 0, or 1 where a host could not be taken."""
    found = read(parser(), words)
    if found.cluster == cluster.LOCAL:
        raise SkyqError("`local` is this machine alone. For several, name a pool: see README, Inventory.")
    if cluster.here(found.cluster):
        raise SkyqError(
            "This machine is the head of cluster '%s'. Type it on one from which the cluster is used: "
            "it is that one's SSH which reaches the new host." % found.cluster
        )
    return int(bool(cluster.add_hosts(found.cluster, found.hosts, found.accept_new_host_keys)))
