"""The verbs that skyq calls itself with: the dispatcher of a cluster, and the agent of a node."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.core.model import Node
    from skyq.transport.local import LocalChannel


def main(verb: str, words: list[str]) -> int:
    """`_dispatcher CLUSTER` or `_node RUNS`."""
    if verb == "_node":
        return _node(words[0])
    return _dispatcher(words[0])


def _node(runs: str) -> int:
    """Python 3.8 and the standard library only, from here on."""
    from skyq.core.paths import ClaimDir
    from skyq.node.agent import Agent

    try:
        Agent(runs, ClaimDir(os.environ.get("SKYQ_CLAIM_DIR", "/var/tmp"))).serve()
    except BrokenPipeError:
        pass  # the dispatcher is gone: the next one starts another agent
    os._exit(0)  # without a last try to write to it


def _dispatcher(cluster: str) -> int:
    from skyq import program
    from skyq.head import dispatcher
    from skyq.store.place import state_home

    where = state_home().cluster(cluster)

    def connect(node: Node) -> LocalChannel:
        from skyq.transport.local import LocalChannel

        return LocalChannel([*program.argv(), "_node", where.runs])

    dispatcher.run(where, cluster, connect)
    return 0
