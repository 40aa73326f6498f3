"""From a cluster's name to its head. `local` is this machine, and always there."""

from __future__ import annotations

import json
import os

from skyq.core.errors import HostClaimed, InventoryError, SkyqError
from skyq.core.model import Device, Node
from skyq.core.paths import ClaimDir, Home
from skyq.head.head import Head
from skyq.store.place import home_root, make_private, state_home

LOCAL = "local"


def open_head(name: str, refresh: bool = True) -> Head:
    """The head of a cluster, with its nodes as they are now. SkyqError if there is no such cluster.

    Without `refresh` nodes may be as they were: for who doesn't need them, or can't have them.
    """
    if name != LOCAL:
        from skyq.core.logtext import plain

        raise SkyqError(
            "Cluster '%s' does not exist. This version knows the cluster 'local': this machine." % plain(name)
        )
    make_private(home_root())
    home = state_home()
    if home.root != home_root():
        if not os.environ.get("SKYQ_STATE_DIR"):
            _tell_where(home)
            make_private(os.path.dirname(home.root))  # in /var/tmp, where anybody could have made it first
        make_private(home.root)
    head = Head(home.cluster(LOCAL), LOCAL)
    if refresh:
        _refresh_node(head)
    return head


def _tell_where(home: Home) -> None:
    """Once: state isn't where its user looks for it."""
    if os.path.isdir(home.root):
        return
    from skyq.cli.taskargs import warn

    text = "%s is on storage that other machines share. This machine's queue, logs and copies are in %s."
    warn(text % (home_root(), home.root))


def known() -> list[str]:
    """The names of all clusters."""
    return [LOCAL]


def check_claim(head: Head) -> None:
    """Raise HostClaimed where this machine belongs to another queue."""
    from skyq.node import claim

    why = claim.refusal(claim_dir(), head.store.get("cluster_id"))
    if why:
        raise HostClaimed(why)


def claim_dir() -> ClaimDir:
    """Where this machine's claim is: a place that all accounts see and that outlives a reboot."""
    return ClaimDir(os.environ.get("SKYQ_CLAIM_DIR", "/var/tmp"))


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
        head.store.set_nodes([node])
        head.store.set("node_seen", text)


def _tell(notes: list[str]) -> None:
    """At the first command after a change of the inventory, not at each one."""
    if notes:
        from skyq.cli.taskargs import warn

        for note in notes:
            warn(note)


def local_node(home: Home) -> Node:
    """This machine: as the inventory declares it, the rest as found."""
    from skyq.node import probe

    declared = None
    if os.path.exists(home.inventory):
        from skyq.core.inventory import load_inventory

        try:
            with open(home.inventory, encoding="utf-8") as file:
                pools = load_inventory(file.read(), home.inventory)
        except (OSError, UnicodeDecodeError) as error:
            raise InventoryError("%s can't be read: %s" % (home.inventory, error)) from None
        _tell([note for pool in pools.values() for note in pool.notes])
        declared = pools[LOCAL].hosts[0] if LOCAL in pools else None
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
