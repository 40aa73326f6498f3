"""Clusters elsewhere of which this machine knows too little: they are looked for among the hosts of the
inventory, made, upgraded, and given more hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from skyq import __version__
from skyq.client import contact, landing, records
from skyq.client.client import Client, Ended, Unknown, Way, older
from skyq.client.guest import Guest, Place
from skyq.client.party import Party
from skyq.client.records import Remote
from skyq.client.wanted import Wanted
from skyq.core.errors import SkyqError, Unreachable
from skyq.core.host import Host, Pool


def party_of(client: Client, hosts: Iterable[Host]) -> Party:
    """To see to these hosts."""
    return Party(hosts, client.dial, client.whole(), client.tell)


def find(client: Client, name: str) -> Way:
    """The cluster, by what the hosts of all pools say whose they are; nothing is changed there.

    Raises Unknown, SkyqError.
    """
    pools = client.pools()
    if not pools:
        raise Unknown(_no_cluster(name, "There are no pools in %s." % client.home.inventory))
    party = party_of(client, hosts_of(pools, name))
    client.tell("Looking for cluster %s on the hosts of your pools" % name)
    try:
        party.arrive_all(to_send=False)
        remote = _seen(client, party, name)
    finally:
        party.close()
    records.write(client.home, remote)
    if older(remote.version):
        remote = upgrade(client, remote)
    return remote, client.dial(remote.head, None)


def find_or_make(client: Client, name: str, wanted: Wanted | None = None) -> Way:
    """The cluster, made of the pool of that name, or of what is wanted, if it isn't there."""
    pool = client.pools().get(wanted.pool if wanted else name)
    if pool is None:
        return find(client, name)
    records.forget(client.home, name)
    made = contact.make(name, pool, party_of(client, pool.hosts), wanted)
    records.write(client.home, made.remote)
    if made.places:
        client.show(name, made.places)
    if older(made.remote.version):
        made.session.close()
        remote = upgrade(client, made.remote)
        return remote, client.dial(remote.head, None)
    return made.remote, made.session


def upgrade(client: Client, remote: Remote) -> Remote:
    """Bring an older skyq there up to this version. Raises SkyqError when its head can't have that."""
    client.tell("Cluster %s has skyq %s: sending it %s" % (remote.name, remote.version, __version__))
    party = party_of(client, remote.hosts)
    try:
        launcher, behind = _renew(party, remote.name, lambda names: hosts_named(client, remote, names))
    finally:
        party.close()
    for trouble in behind:
        client.tell("%s (it keeps skyq %s)" % (trouble, remote.version))
    remote = remote._replace(version=__version__, launcher=launcher)
    records.write(client.home, remote)
    return remote


def _renew(party: Party, cluster: str, named: Callable[[list[str]], list[Host]]) -> tuple[str, list[str]]:
    """Have this version everywhere. Returns the head's launcher, and what could not be done.

    Raises SkyqError when the head can't have it.
    """
    head = party.guests[0]
    party.arrive_all()
    if head.trouble:
        raise SkyqError(head.trouble)
    party.arrive_through(head)
    homes: dict[str, str] = {}

    def renew(guest: Guest) -> None:
        try:
            party.become(guest, as_head=guest is head)
            token = guest.ask("facts", devices=False)["token"]
            if token not in homes:  # the head's is written first, and has more in it
                homes[token] = guest.ask("launcher", libraries=guest is head)["launcher"]
        except landing.Ended:
            raise
        except SkyqError as error:
            raise SkyqError(guest.named(error)) from None

    party.twice(head, renew)
    _invite_unknown(party, head.ask("nodes", cluster=cluster)["nodes"], named)
    workers = [guest for guest in party.present if guest is not head]
    party.each(lambda guest: party.twice(guest, renew), workers)
    return next(iter(homes.values())), [guest.trouble for guest in party.guests if guest.trouble]


def _invite_unknown(party: Party, names: list[str], named: Callable[[list[str]], list[Host]]) -> None:
    """Nodes that another machine has added."""
    known = {guest.name for guest in party.guests}
    new = [Guest(host) for host in named([name for name in names if name not in known])]
    party.guests += new
    party.each(party.arrive, new)
    party.arrive_through(party.guests[0])


def hosts_named(client: Client, remote: Remote | None, names: Iterable[str]) -> list[Host]:
    """Nodes by their names, as the cluster's record knows them, or the inventory, or neither."""
    found = {host.ip: host for host in hosts_of(client.pools(), remote.pool if remote else "")}
    found.update({host.ip: host for host in (remote.hosts if remote else ())})
    return [found.get(name, Host(name)) for name in names]


def way(client: Client, name: str, node: str | None) -> tuple[Host, Host | None]:
    """(the node, the head where it is reached through that). Raises SkyqError."""
    remote = records.read(client.home, name)
    if remote is None:
        remote, session = find(client, name)
        session.close()
    if node in (None, "head", remote.head.ip):
        return remote.head, None
    known = [host.ip for host in remote.workers]
    if node not in known:
        in_pools = {host.ip for host in hosts_of(client.pools(), remote.pool)}
        if node not in in_pools:
            names = ", ".join([remote.head.ip, *known])
            raise SkyqError("Cluster %s has no node '%s'. It has %s." % (name, node, names))
    host = hosts_named(client, remote, [str(node)])[0]
    return host, remote.head if node in remote.behind else None


# Growing and shrinking.


def add(client: Client, name: str, words: Sequence[str]) -> tuple[Place, ...]:
    """Have hosts be nodes of a cluster, too, or look again at those that are. None named: all free ones of
    its pool. Returns what became of each. Raises SkyqError.
    """
    remote, session = find(client, name) if records.read(client.home, name) is None else _known(client, name)
    session.close()
    pool = client.pools().get(remote.pool)
    # The inventory says what they have, where it does; the record only where they are.
    declared = {host.ip: host for host in reversed(hosts_of(client.pools(), remote.pool))}
    if words:
        named = hosts_named(client, remote, dict.fromkeys(words))
        hosts = [declared.get(host.ip, host) for host in named]
    elif pool:
        hosts = [host for host in pool.hosts if host.ip not in {each.ip for each in remote.hosts}]
    else:
        raise SkyqError("Cluster '%s' has no pool here: name the hosts. skyq add %s HOST..." % (name, name))
    if not hosts:
        raise SkyqError("All hosts of pool '%s' are nodes of cluster '%s' already." % (remote.pool, name))
    others = [host for host in hosts if host.ip != remote.head.ip]
    party = party_of(client, [declared.get(remote.head.ip, remote.head), *others])
    made = contact.add(remote, party, see_head=len(others) < len(hosts))
    made.session.close()
    records.write(client.home, made.remote)
    return made.places


def _known(client: Client, name: str) -> Way:
    remote = records.read(client.home, name)
    assert remote
    if older(remote.version):
        remote = upgrade(client, remote)
    return remote, client.dial(remote.head, None)


# By the claims of the hosts.


def hosts_of(pools: Mapping[str, Pool], first: str) -> list[Host]:
    """All hosts, once each, those of the pool of that name before the others."""
    found: dict[tuple[str, int | None], Host] = {}
    for pool in sorted(pools.values(), key=lambda pool: pool.name != first):
        for host in pool.hosts:
            found.setdefault((host.ip, host.port), host)
    return list(found.values())


def _seen(client: Client, party: Party, name: str) -> Remote:
    ours = [guest for guest in party.present if guest.is_of(name)]
    head = next((guest for guest in ours if guest.claim.get("headed")), None)
    if head is None:
        raise _why_unseen(client, party, name, ours)
    workers = [guest for guest in ours if guest is not head and guest.claim["id"] == head.claim["id"]]
    pool = name if name in client.pools() else ""
    return head.record(name, pool, [worker.host for worker in workers])


def _why_unseen(client: Client, party: Party, name: str, ours: list[Guest]) -> SkyqError:
    troubles = "".join("\n" + guest.trouble for guest in party.guests if guest.trouble)
    if ours:
        head = ours[0].claim.get("head")
        if all(map(party.is_orphan, ours)):
            names = ", ".join(guest.name for guest in ours)
            text = "Cluster '%s' has ended, and %s belonged to it: `skyq down %s` frees that."
            return Ended(text % (name, names, name))
        text = "Cluster '%s' has its head on %s, which %s is of, too. Only the head can be asked: %s%s"
        in_pools = any(guest.found.get("hostname") == head or guest.name == head for guest in party.guests)
        todo = "try again when it is back." if in_pools else "add it to a pool in %s." % client.home.inventory
        return Unreachable(text % (name, head, ours[0].name, todo, troubles), "other")
    for guest in party.present:
        if guest.claim.get("cluster") == name:
            return SkyqError(guest.whose())
    if not party.present:
        text = "Cluster '%s' is not known here, and no host of your pools can be asked about it:%s"
        return Unreachable(text % (name, troubles), party.guests[0].kind or "other")
    if name in client.pools():
        return Unknown(_no_cluster(name, "`skyq exec %s ...` makes it from the pool." % name) + troubles)
    return Unknown(_no_cluster(name, "No host of your pools belongs to it (see `skyq status`).") + troubles)


def _no_cluster(name: str, more: str) -> str:
    return "Cluster '%s' does not exist. %s" % (name, more)
