"""The verbs that skyq calls itself with: the dispatcher of a cluster, and the agent of a node."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.core.model import Node
    from skyq.transport.base import Channel


def main(verb: str, words: list[str]) -> int:
    """`_dispatcher CLUSTER`; `_node RUNS`, on a worker `_node @CLUSTER`; `_courier CLUSTER NODE COPY...`."""
    if verb == "_node":
        return _node(words[0])
    if verb == "_courier":
        return _courier(words[0], words[1], words[2:])
    return _dispatcher(words[0])


def _node(runs: str) -> int:
    """Python 3.8 and the standard library only, from here on."""
    from skyq.core.paths import ClaimDir
    from skyq.node.agent import Agent

    if runs.startswith("@"):
        if os.environ.get("XDG_SESSION_ID"):
            _outlive_this_login()
        runs = _worker_runs(runs[1:])
    try:
        Agent(runs, ClaimDir(os.environ.get("SKYQ_CLAIM_DIR", "/var/tmp"))).serve()
    except BrokenPipeError:
        pass  # the dispatcher is gone: the next one starts another agent
    os._exit(0)  # without a last try to write to it


def _outlive_this_login() -> None:
    """The shims are this process's children, and shall live when the connection breaks."""
    from skyq import program
    from skyq.transport import logout

    env = dict(os.environ)
    argv = [*program.bare_argv(), *sys.argv[1:]]
    words = logout.escape(argv, env)
    if words != argv:
        os.execve(words[0], words, env)


def _worker_runs(cluster: str) -> str:
    """Where a worker's run directories are: on a disk of its own, or at least in a folder of its own."""
    import hashlib

    from skyq.store.place import make_private, state_home

    try:
        with open("/etc/machine-id", "rb") as file:
            machine = file.read().strip()
    except OSError:
        machine = b""
    machine += os.uname().nodename.encode()  # clones of a machine share the id, and here and there the home
    runs = state_home().node(cluster, hashlib.sha256(machine).hexdigest()[:8])
    make_private(runs)
    return runs


def _dispatcher(cluster: str) -> int:
    from skyq import program
    from skyq.head import dispatcher
    from skyq.store.place import state_home

    where = state_home().cluster(cluster)

    def connect(node: Node) -> Channel:
        if node.reach is not None:
            from skyq.transport.channel import SshChannel

            return SshChannel(node.reach, where.key, where.known_hosts, "skyq")
        from skyq.transport.local import LocalChannel

        return LocalChannel([*program.argv(), "_node", where.runs])

    def courier(node: str, names: list[str]) -> list[str]:
        return [*program.argv(), "_courier", cluster, node, *names]

    dispatcher.run(where, cluster, connect, courier)
    return 0


def _courier(cluster: str, name: str, copies: list[str]) -> int:
    from skyq.core.paths import Home
    from skyq.head import courier
    from skyq.store.place import home_root, state_home
    from skyq.store.store import Store
    from skyq.transport.channel import SshChannel

    where = state_home().cluster(cluster)
    store = Store.of(where)
    reach = next(node.reach for node in store.nodes() if node.name == name)
    store.close()
    assert reach is not None

    def connect() -> Channel:
        return SshChannel(reach, where.key, where.known_hosts, "skyq")

    code, why = courier.main(connect, where, Home(home_root()), copies)
    print(why, flush=True)
    return code
