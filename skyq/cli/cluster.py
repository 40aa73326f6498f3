"""From a cluster's name to its head: on this machine, or on another one, over SSH.

`local` is this machine, and always there. The state of others lies where their head is: here, if this machine
is the head, else where this machine's records, the inventory or the hosts' claims say.
"""

from __future__ import annotations

import json
import os
import sys

from skyq.core.errors import HostClaimed, InventoryError, SkyqError
from skyq.core.paths import ClaimDir, Home
from skyq.store import place
from skyq.store.place import home_root, make_private, state_home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyq.client.client import Client
    from skyq.client.freeing import Freed
    from skyq.client.guest import Place
    from skyq.client.heads import Agent
    from skyq.client.slices import Whole
    from skyq.client.wanted import Wanted
    from skyq.core.host import Host, Pool
    from skyq.core.model import Node
    from skyq.head.head import Head
    from skyq.transport.ssh import Session

LOCAL = "local"
SKYPILOTS = "~/.sky/ssh_node_pools.yaml"
"""SkyPilot's inventory, read as it is."""


# Here.


def here(name: str) -> bool:
    """Whether the cluster's head is this machine."""
    return name == LOCAL or has_queue(name)


def has_queue(name: str) -> bool:
    """Whether there is a queue of that name on this machine."""
    return place.has_queue(state_home().cluster(name))


def open_head(name: str, refresh: bool = True) -> Head:
    """The head of a cluster that is here, with its nodes as they are now. SkyqError if it isn't.

    Without `refresh` nodes may be as they were: for who doesn't need them, or can't have them.
    """
    if not here(name):
        from skyq.core.logtext import plain

        raise SkyqError("Cluster '%s' does not exist on this machine." % plain(name))
    from skyq.head.head import Head

    home = _own_state()
    head = Head(home.cluster(name), name)
    if refresh and name == LOCAL:
        _refresh_node(head)
    return head


def _own_state() -> Home:
    """The folder for this machine's clusters: there, and private."""
    make_private(home_root())
    home = state_home()
    if home.root != home_root():
        if not os.environ.get("SKYQ_STATE_DIR"):
            _tell_where(home)
            make_private(os.path.dirname(home.root))  # in /var/tmp, where anybody could have made it first
        make_private(home.root)
    return home


def _tell_where(home: Home) -> None:
    """Once: state isn't where its user looks for it."""
    if os.path.isdir(home.root):
        return
    from skyq.cli.taskargs import warn

    text = "%s is on storage that other machines share. This machine's queue, logs and copies are in %s."
    warn(text % (home_root(), home.root))


def known() -> list[str]:
    """The names of all clusters that this machine knows: local, those whose head it is, and others."""
    from skyq.client import records

    found = {name for name in _names(state_home().clusters) if here(name)}
    found.update(records.names(Home(home_root())))
    return [LOCAL, *sorted(found - {LOCAL})]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def has_record(name: str) -> bool:
    """Whether this machine knows where the cluster's head is."""
    from skyq.client import records

    return here(name) or records.read(Home(home_root()), name) is not None


def check_claim(head: Head) -> None:
    """Raise HostClaimed where this machine belongs to another queue."""
    from skyq.node import claim

    why = claim.refusal(claim_dir(), head.store.get("cluster_id"), head.where.root)
    if why:
        raise HostClaimed(why)


def claim_dir() -> ClaimDir:
    """Where this machine's claim is: a place that all accounts see and that outlives a reboot."""
    return ClaimDir(os.environ.get("SKYQ_CLAIM_DIR", "/var/tmp"))


# Elsewhere.


def agent_stream(
    name: str, create: bool, accept_new: bool = False, quiet: bool = False, wanted: Wanted | None = None
) -> Agent:
    """skyq's agent on the head of a cluster that isn't here: an open stream, which greets first.

    With `create` the cluster is made from the pool of its name, or of what is `wanted`, if it isn't there.
    `accept_new`: host keys that nobody knows are pinned without a question. Raises SkyqError:
    client.Unknown where there is no such cluster, client.Gone (at the first read) where its head knows
    nothing of it any more, Unreachable.
    """
    from skyq.client import heads

    return heads.open_agent(_client(accept_new, quiet), name, create, wanted)


def way(name: str, node: str | None) -> tuple[Host, Host | None]:
    """(a node of a cluster elsewhere, the head where it is reached through that); None: the head itself."""
    from skyq.client import search

    return search.way(_client(accept_new=False, quiet=False), name, node)


def end_remote(name: str, nodes: Sequence[str], purge: bool) -> Freed:
    """After its head has ended the queue: free the cluster's hosts and forget it.

    `nodes`: what the head told of their names. `purge`: what jobs wrote there goes, too.
    """
    from skyq.client import freeing

    return freeing.end(_client(accept_new=False, quiet=False), name, nodes, purge)


def free_hosts(name: str, nodes: Sequence[str]) -> Freed:
    """Free hosts that are nodes of a cluster no more, which goes on."""
    from skyq.client import freeing

    return freeing.free(_client(accept_new=False, quiet=False), name, nodes)


def add_hosts(name: str, words: Sequence[str], accept_new: bool) -> int:
    """Have hosts be nodes of a cluster, too, and show what became of each; how many couldn't be."""
    from skyq.client import search

    places = search.add(_client(accept_new, quiet=False), name, words)
    print(places_table("Cluster " + name, places))
    return sum(not place.role for place in places)


def _client(accept_new: bool, quiet: bool) -> Client:
    from skyq.cli.terminal import Terminal
    from skyq.client.client import Client
    from skyq.transport.keyring import Keyring
    from skyq.transport.trust import Trust

    home, terminal = Home(home_root()), Terminal()
    asks = terminal.there()
    trust = Trust(home, terminal.ask if asks else None, accept_new)
    keyring = Keyring(terminal.ask_secret if asks else None)

    def dial(host: Host, via: Session | None) -> Session:
        from skyq.transport.warmup import warm_up

        warm_up()  # while ssh is asked how the host is reached
        from skyq.transport.hosts import resolve
        from skyq.transport.ssh import connect

        session = connect(resolve(host), trust, via, keyring)
        if session.by_password:
            terminal.offer_key(session)
        return session

    def tell(line: str) -> None:
        if not quiet:
            print(_dim(line), file=sys.stderr, flush=True)

    def show(cluster: str, places: tuple[Place, ...]) -> None:
        if not quiet:
            print(_shown(cluster, places), file=sys.stderr, flush=True)

    def whole() -> Whole:
        from skyq import program
        from skyq.client.slices import Whole

        return Whole(program.archive(), home.wheels, tell)

    return Client(home, pools, dial, whole, tell, show)


def _dim(line: str) -> str:
    from skyq.cli.render import Style
    from skyq.core.logtext import plain

    return Style.of(sys.stderr.isatty(), os.environ).dim(plain(line))


def _shown(cluster: str, places: tuple[Place, ...]) -> str:
    """What became of each host that was asked."""
    taken = sum(bool(place.role) for place in places)
    title = "Cluster %s: %d of %d hosts" % (cluster, taken, len(places))
    more = "\nTo take in the others once that is mended: skyq add %s" % cluster
    return places_table(title, places) + (more if taken < len(places) else "")


def places_table(title: str, places: Sequence[Place]) -> str:
    """The hosts that are taken, and those that aren't, with why."""
    from skyq.cli.render import table

    rows = [(place.name, place.role or "not taken", place.text.replace("\n", " ")) for place in places]
    return "%s\n%s" % (title, table(("HOST", "ROLE", ""), rows))


def pools() -> dict[str, Pool]:
    """The pools of the inventory, and those of SkyPilot's that it doesn't name. Raises InventoryError.

    `local` is none: it tells of this machine.
    """
    found = {**_pools(os.path.expanduser(SKYPILOTS)), **_pools(Home(home_root()).inventory)}
    found.pop(LOCAL, None)
    return found


def _pools(path: str) -> dict[str, Pool]:
    if not os.path.exists(path):
        return {}
    from skyq.core.inventory import load_inventory

    try:
        with open(path, encoding="utf-8") as file:
            return load_inventory(file.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise InventoryError("%s can't be read: %s" % (path, error)) from None


# This machine as a node of `local`.


def _refresh_node(head: Head) -> None:
    """Look at the machine again when the inventory changed, or it was booted: nvidia-smi may take seconds."""
    home = Home(home_root())
    try:
        found = os.stat(home.inventory)
        signature = [found.st_mtime_ns, found.st_size, found.st_ino]
    except FileNotFoundError:
        signature = []
    with open("/proc/sys/kernel/random/boot_id") as file:
        text = json.dumps([signature, file.read().strip(), sorted(os.sched_getaffinity(0))])
    if head.store.get("node_seen") == text:
        return
    node = local_node(home)
    with head.store.transaction():
        drained = "".join(old.unusable for old in head.store.nodes())
        head.store.set_nodes([node._replace(unusable=drained)])
        head.store.set("node_seen", text)


def _tell(notes: list[str]) -> None:
    """At the first command after a change of the inventory, not at each one."""
    if notes:
        from skyq.cli.taskargs import warn

        for note in notes:
            warn(note)


def local_node(home: Home) -> Node:
    """This machine: as the inventory declares it, the rest as found."""
    from skyq.core.model import Device, Node
    from skyq.node import probe

    found = _pools(home.inventory)
    _tell([note for pool in found.values() for note in pool.notes])
    declared = found[LOCAL].hosts[0] if LOCAL in found else None
    if declared is not None and declared.accelerators is not None:
        names = [name for name, count in declared.accelerators.items() for _ in range(count)]
        devices = tuple(Device(index, name) for index, name in enumerate(names))
    else:
        devices = probe.devices()
    return Node(
        name="localhost",
        index=0,
        devices=devices,
        cpus=(declared.cpus if declared else None) or probe.cpus(),
        memory=(declared.memory if declared else None) or probe.memory(),
        ip=(declared.internal_ip if declared else None) or "127.0.0.1",
    )
