"""`skyq remove`: a node leaves its cluster, once nothing runs there any more."""

from __future__ import annotations

import os
import sys
import time

from skyq.cli import cluster
from skyq.cli.nodewords import add_words, read, resolve
from skyq.cli.parser import Parser, confirm
from skyq.cli.place import AT_HEAD
from skyq.cli.user import user
from skyq.core.errors import SkyqError
from skyq.core.model import Node
from skyq.core.words import jobs_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.client.freeing import Freed
    from skyq.core.protocol import Message
    from skyq.head.head import Head

LOOK = 0.05  # seconds
WAKE = 1.0  # seconds between two looks whether there still is a dispatcher
SEEN = 3.0  # seconds to find out which workers can be reached

_STAYS = "%s stays drained: nothing new starts there. `skyq resume %s %s` takes it back."
_FREE_IT = (
    "What skyq put on %s is still there: this cluster's key and claim. Typed on a machine from which the "
    "cluster is used, `skyq remove` removes that too."
)
_CLAIMED = "It is still claimed for cluster '%s'; `skyq add` takes it back, and removing it again frees it."
_EXAMPLES = """\
  skyq remove lab node3             waits until its jobs have ended
  skyq remove lab node3 --force     ends them; of a dead machine, gives them up
"""


def parser() -> Parser:
    """Its flags."""
    about = "Take nodes out of a cluster, once nothing runs there any more."
    found = Parser("remove", "[OPTIONS] CLUSTER NODES...", about, _EXAMPLES)
    add_words(found)
    found.add_argument("-f", "--force", action="store_true", help="end what runs there, don't wait")
    found.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    return found


def main(words: list[str]) -> int:
    """Exit code 0, or 1 where something of it stays."""
    found = read(parser(), words, "nodes")
    if not cluster.here(found.cluster):
        return _elsewhere(found.cluster, words)
    head = cluster.open_head(found.cluster)
    head.see_nodes(SEEN)
    chosen = resolve(head.store.nodes(), found.nodes, found.cluster)
    if any(node.index == 0 for node in chosen):
        text = "%s is the head of the cluster, which can't do without it. To end the cluster: skyq down %s"
        raise SkyqError(text % (next(node.name for node in chosen if node.index == 0), found.cluster))
    _remove(head, chosen, found.force, found.yes)
    if not os.environ.get(AT_HEAD):
        print(_FREE_IT % ", ".join(node.name for node in chosen), file=sys.stderr)
        return 1
    return 0


def _elsewhere(name: str, words: list[str]) -> int:
    """On its head; then the hosts that left are freed."""
    from skyq.cli import remote

    gone = Gone()
    code = remote.run(name, "remove", words, goods=remote.Goods(gone.take))
    if not gone.names:
        return code
    freed = cluster.free_hosts(name, gone.names)
    for text in freed.undone:
        print("%s\n%s" % (text, _CLAIMED % name), file=sys.stderr)
    tell_kept(freed)
    return code or int(bool(freed.undone))


def tell_kept(freed: Freed) -> None:
    """What jobs wrote on hosts that are free now."""
    from skyq.cli.progress import size_text

    for host, path, size in freed.kept:
        print("What jobs wrote on %s stays: %s in %s" % (host, size_text(size), path))


class Gone:
    """The nodes that left, as the head tells while it takes them out."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.purge = False
        """Whether what jobs wrote there is to go, too."""

    def take(self, message: Message) -> None:
        """One message that isn't for the screen."""
        if message.get("is") == "left":
            self.names += map(str, message["nodes"])
            self.purge = bool(message.get("purge"))


def _remove(head: Head, chosen: list[Node], force: bool, yes: bool) -> None:
    """One after the other, but all of them give up their jobs first: a job may hold something of several."""
    from skyq.head import nodes

    by, left = user(), list(chosen)
    nodes.drain(head, [node.name for node in left], by, "it is being removed")
    try:
        for node in chosen if force else ():
            _end_jobs(head, node, by, yes)
        for node in chosen:
            _wait(head, node, left if force else [])
            tell_left([node.name])
            print("%s is no longer of cluster %s." % (node.name, head.cluster), flush=True)
            left.remove(node)
    except (SkyqError, KeyboardInterrupt):
        for node in left:
            print(_STAYS % (node.name, head.cluster, node.name), file=sys.stderr, flush=True)
        raise


def tell_left(names: list[str], purge: bool = False) -> None:
    """To the machine where it was typed, if that is another one: these hosts are to be freed."""
    if os.environ.get(AT_HEAD):
        from skyq.cli.agent import tell

        tell({"is": "left", "nodes": names, "purge": purge})


def _end_jobs(head: Head, node: Node, by: str, yes: bool) -> None:
    from skyq.head import nodes

    ids = [job.id for job in nodes.users_of(head, node.name)]
    dead = nodes.is_unreachable(head, node.name)
    if ids and not yes:
        how = "gives up" if dead else "ends"
        if not confirm("This %s %s on %s. Proceed?" % (how, jobs_text(ids), node.name), default=False):
            raise SkyqError("Aborted!")
    if dead:
        nodes.abandon(head, node.name)
    elif ids:
        head.cancel(ids, by)


def _wait(head: Head, node: Node, forced: list[Node]) -> None:
    from skyq.head import nodes

    told: list[int] = []
    wake_at = time.monotonic() + WAKE
    while not nodes.remove(head, node.name):
        ids = [job.id for job in nodes.users_of(head, node.name)]
        if ids and ids != told:
            why = head.trouble().get(node.name, "").rstrip(".")
            print("Waiting for %s on %s%s." % (jobs_text(ids), node.name, why and "; " + why), flush=True)
            told = ids
        if time.monotonic() > wake_at:
            for each in forced:
                if nodes.is_unreachable(head, each.name):
                    nodes.abandon(head, each.name)
            head.wake()
            wake_at = time.monotonic() + WAKE
        time.sleep(LOOK)
