"""From a cluster's name to skyq on its head, where that is another machine: by this machine's record, by the
claims of the hosts in the inventory, or by making the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from skyq import __version__
from skyq.client import contact, records
from skyq.client.contact import Dial, Guest, Party, Place
from skyq.client.landing import last_words
from skyq.client.records import Remote
from skyq.client.slices import Whole
from skyq.core import keylines, protocol
from skyq.core.errors import SkyqError, Unreachable
from skyq.core.inventory import Host, Pool
from skyq.core.paths import Home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.transport.base import Stream
    from skyq.transport.ssh import Session

GONE = "skyq-gone"


class Gone(SkyqError):
    """The cluster isn't on its head any more."""


class Unknown(SkyqError):
    """There is no such cluster, as far as can be seen from here."""


class Client(NamedTuple):
    """What this machine has, and how it shows what goes on."""

    home: Home
    pools: Mapping[str, Pool]
    dial: Dial
    whole: Whole
    tell: Callable[[str], None]
    """Gets a line when something goes on."""
    show: Callable[[str, tuple[Place, ...]], None]
    """Gets a new cluster's name, and what became of each host."""

    def party(self, hosts: Iterable[Host]) -> Party:
        """These hosts, to be contacted at once."""
        return Party(hosts, self.dial, self.whole, self.tell)


def open_agent(client: Client, name: str, create: bool) -> Agent:
    """An agent on the head of a cluster; with `create` the cluster is made where it isn't there.

    Raises Unknown, Gone (at the first read), SkyqError.
    """
    remote = records.read(client.home, name)
    if remote is None and create and name in client.pools:
        made = contact.make(name, client.pools[name], client.party(client.pools[name].hosts))
        records.write(client.home, made.remote)
        if made.places:
            client.show(name, made.places)
        return Agent(_up_to_date(client, made.remote), made.session)
    if remote is None:
        remote = _found(client, name)
        records.write(client.home, remote)
    remote = _up_to_date(client, remote)
    return Agent(remote, client.dial(remote.head, None))


class Agent:
    """skyq on the head, at the other end of a connection of its own; a Stream."""

    def __init__(self, remote: Remote, session: Session) -> None:
        self.remote = remote
        self.session = session
        line = keylines.shell_line(remote.launcher, "_agent", missing=GONE)
        self._stream: Stream = session.run(line)
        self._before = b""
        """What was said before the greeting."""
        self._greeted = False

    def read(self, timeout: float) -> bytes:
        """See Stream. Raises Gone, SkyqError where the program doesn't even greet."""
        data = self._stream.read(timeout)
        if self._greeted:
            return data
        word = protocol.GREETING.encode() + b" "
        while data and word not in self._before:
            self._before += data
            data = b"" if word in self._before else self._stream.read(timeout)
        if word not in self._before:
            raise self._why_not()
        self._greeted = True
        return self._before + data

    def _why_not(self) -> SkyqError:
        remote = self.remote
        if GONE.encode() in self._before:
            return Gone(
                "Cluster '%s' is no longer on %s. `skyq down %s` forgets it here; then it can be made anew."
                % (remote.name, remote.head.ip, remote.name)
            )
        said = last_words(self._before.decode("utf-8", "replace") + "\n" + self._stream.stderr())
        text = "skyq doesn't start on %s, the head of cluster '%s': %s"
        return SkyqError(text % (remote.head.ip, remote.name, said or "it says nothing"))

    def write(self, data: bytes) -> None:
        """See Stream."""
        self._stream.write(data)

    def close(self) -> None:
        """See Stream. The connection ends too."""
        self._stream.close()
        self.session.close()

    def stderr(self) -> str:
        """See Stream."""
        return self._stream.stderr()

    def exit_code(self) -> int | None:
        """See Stream."""
        return self._stream.exit_code()


def _up_to_date(client: Client, remote: Remote) -> Remote:
    """Bring an older skyq there up to this version; what is newer, or the same, stays."""
    if contact.order(remote.version) >= contact.order(__version__):
        return remote
    client.tell("Cluster %s has skyq %s: sending it %s" % (remote.name, remote.version, __version__))
    party = client.party(remote.hosts)
    try:
        launcher, behind = contact.upgrade(party)
    finally:
        party.close()
    for trouble in behind:
        client.tell("%s (it keeps skyq %s)" % (trouble, remote.version))
    remote = remote._replace(version=__version__, launcher=launcher)
    records.write(client.home, remote)
    return remote


# By the claims of the hosts.


def _found(client: Client, name: str) -> Remote:
    """The cluster, by what the hosts of all pools say whose they are; nothing is changed there."""
    if not client.pools:
        raise Unknown(_no_cluster(name, "There are no pools in %s." % client.home.inventory))
    party = client.party(_hosts_of(client.pools, name))
    client.tell("Looking for cluster %s on the hosts of your pools" % name)
    try:
        party.each(party.arrive)
        return _seen(client, party, name)
    finally:
        party.close()


def _hosts_of(pools: Mapping[str, Pool], first: str) -> list[Host]:
    """All hosts, once each, those of the pool of that name before the others."""
    ordered = sorted(pools.values(), key=lambda pool: pool.name != first)
    found: dict[tuple[str, int | None], Host] = {}
    for pool in ordered:
        for host in pool.hosts:
            found.setdefault((host.ip, host.port), host)
    return list(found.values())


def _seen(client: Client, party: Party, name: str) -> Remote:
    ours = [guest for guest in party.present if guest.is_of(name)]
    head = next((guest for guest in ours if guest.claim.get("headed")), None)
    if head is None:
        raise _why_unseen(client, party, name, ours)
    own_id = head.claim.get("id")
    workers = [guest.host for guest in ours if guest is not head and guest.claim.get("id") == own_id]
    launcher = keylines.DEFAULT_LAUNCHER if head.found["usual"] else Home(head.found["root"]).launcher
    pool = name if name in client.pools else ""
    return Remote(name, str(own_id), pool, head.host, tuple(workers), launcher, contact.newest_there(head))


def _why_unseen(client: Client, party: Party, name: str, ours: list[Guest]) -> SkyqError:
    troubles = "".join("\n" + guest.trouble for guest in party.guests if guest.trouble)
    if ours:
        head = ours[0].claim.get("head")
        text = "Cluster '%s' has its head on %s, which %s is of, too. Only the head can be asked: %s%s"
        in_pools = any(guest.found.get("hostname") == head or guest.name == head for guest in party.guests)
        todo = "try again when it is back." if in_pools else "add it to a pool in %s." % client.home.inventory
        return Unreachable(text % (name, head, ours[0].name, todo, troubles), "other")
    for guest in party.present:
        if guest.claim.get("cluster") == name:
            return SkyqError(contact.claimed(guest.name, guest.claim))
    if not party.present:
        text = "Cluster '%s' is not known here, and no host of your pools can be asked about it:%s"
        return Unreachable(text % (name, troubles), party.guests[0].kind or "other")
    if name in client.pools:
        return Unknown(_no_cluster(name, "`skyq exec %s ...` makes it from the pool." % name) + troubles)
    return Unknown(_no_cluster(name, "No host of your pools belongs to it (see `skyq status`).") + troubles)


def _no_cluster(name: str, more: str) -> str:
    return "Cluster '%s' does not exist. %s" % (name, more)


# The end.


def end(client: Client, name: str) -> list[str]:
    """Free the hosts of a cluster whose queue has been ended, and forget it. Returns what wasn't done."""
    remote = records.read(client.home, name)
    party = client.party(remote.hosts if remote else _hosts_of(client.pools, name))
    try:
        party.each(party.arrive)
        head = party.guests[0]
        if remote and not head.trouble:
            party.arrive_through(head)
        concerned = party.present if remote else [guest for guest in party.present if guest.is_of(name)]
        left = contact.free(party, concerned, name, remote.id if remote else "")
    finally:
        party.close()
    records.forget(client.home, name)
    return left
