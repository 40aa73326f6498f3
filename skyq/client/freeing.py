"""Hosts that leave their cluster, or whose cluster has ended, are freed: claim, key, files."""

from __future__ import annotations

from collections.abc import Sequence

from skyq.client import records
from skyq.client.client import Client
from skyq.client.guest import Guest
from skyq.client.party import Party
from skyq.client.search import hosts_named, hosts_of, party_of
from skyq.core.errors import SkyqError
from skyq.core.typed import NamedTuple


class Freed(NamedTuple):
    """What became of hosts that are of a cluster no more."""

    undone: tuple[str, ...]
    """A sentence for each where that couldn't be done."""
    kept: tuple[tuple[str, str, int], ...]
    """(host, path, bytes) of what jobs wrote there, which stays."""


def end(client: Client, name: str, nodes: Sequence[str], purge: bool) -> Freed:
    """Free the hosts of a cluster whose queue has been ended, and forget it.

    `nodes`: the names of its nodes, as far as its head has told. `purge`: what jobs wrote there goes, too.
    """
    remote = records.read(client.home, name)
    hosts = {host.ip: host for host in (remote.hosts if remote else ())}
    hosts.update({host.ip: host for host in hosts_named(client, remote, nodes) if host.ip not in hosts})
    known = set(hosts)
    pools = client.pools()
    # Another machine may have made the cluster anew since, of other hosts.
    others = pools[name].hosts if name in pools else () if remote else hosts_of(pools, name)
    party = party_of(client, [*hosts.values(), *(host for host in others if host.ip not in known)])
    try:
        party.arrive_all(to_send=False)
        head = party.guests[0]
        if remote and not head.trouble:
            party.arrive_through(head)
        concerned = [guest for guest in party.present if guest.name in known or guest.is_of(name)]
        kept = _free(party, concerned, name, {"id": remote.id if remote else "-", "purge": purge})
        undone = [guest.trouble for guest in party.guests if guest.trouble and guest.name in known]
    finally:
        party.close()
    records.forget(client.home, name)
    return Freed(tuple(undone), kept)


def free(client: Client, name: str, nodes: Sequence[str]) -> Freed:
    """Free hosts that are nodes of a cluster no more, which goes on. What jobs wrote there stays."""
    remote = records.read(client.home, name)
    if remote is None:
        return Freed((), ())
    party = party_of(client, [remote.head, *hosts_named(client, remote, nodes)])
    try:
        party.arrive_all(to_send=False)
        if not party.guests[0].trouble:
            party.arrive_through(party.guests[0])
        leavers = party.guests[1:]
        there = [guest for guest in leavers if not guest.trouble]
        kept = _free(party, there, name, {"id": remote.id, "stays": True})
        undone = [guest.trouble for guest in leavers if guest.trouble]
    finally:
        party.close()
    workers = tuple(host for host in remote.workers if host.ip not in nodes)
    records.write(client.home, remote._replace(workers=workers))
    return Freed(tuple(undone), kept)


def _free(
    party: Party, guests: Sequence[Guest], cluster: str, how: dict[str, object]
) -> tuple[tuple[str, str, int], ...]:
    """End the hosts' part in a cluster; those where that can't be done have trouble. Returns Freed.kept.

    `how`: more about it, see cli/setup.py; the id is that of what isn't claimed any more.
    """
    kept: list[tuple[str, str, int]] = []

    def part(guest: Guest) -> None:
        about = {**how, "node": guest.name, "head": guest is party.guests[0]}
        about["id"] = guest.claim["id"] if guest.is_of(cluster) else how["id"]
        try:
            party.become(guest, as_head=False, build=guest.newer_build("0"))
            said = guest.ask("leave", cluster=cluster, end=True, **about)
            kept.extend((guest.name, str(path), int(size)) for path, size in said.get("kept", ()))
        except SkyqError as error:
            raise SkyqError(guest.named(error)) from None

    party.each(part, guests)
    return tuple(sorted(kept))
