"""First contact: a pool of bare hosts becomes a cluster.

Every step may be killed and done again: what is true stands on the hosts (claims, the head's state), and this
machine remembers only where the head is.
"""

from __future__ import annotations

from collections.abc import Sequence

from skyq import __version__
from skyq.client.guest import Guest, Place
from skyq.client.landing import Ended, Facts
from skyq.client.party import Party, names
from skyq.client.records import Remote
from skyq.client.wanted import Choosing, Wanted
from skyq.core.errors import HostClaimed, SkyqError, Unreachable
from skyq.core.host import Host, Pool
from skyq.core.typed import NamedTuple
from skyq.core.versions import order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.transport.ssh import Session

HEAD_PYTHON = (3, 10)


class Made(NamedTuple):
    """A cluster, and the connection to its head, which may be used on."""

    remote: Remote
    session: Session
    places: tuple[Place, ...]
    """Empty: it was there."""


def make(name: str, pool: Pool, party: Party, wanted: Wanted | None = None) -> Made:
    """Have a pool's free hosts, or those `wanted`, be a cluster, or find that they are. Raises SkyqError."""
    try:
        return _Making(name, pool.name, party).run(wanted)
    except BaseException:
        party.close()
        raise


def add(remote: Remote, party: Party, see_head: bool = False) -> Made:
    """Have the hosts of a party be nodes of a cluster, too; the first is its head. Raises SkyqError.

    `see_head`: see again what the head has.
    """
    try:
        return _Making(remote.name, remote.pool, party).add(remote, see_head)
    except BaseException:
        party.close()
        raise


class _Making:
    def __init__(self, name: str, pool: str, party: Party) -> None:
        self.name = name
        self.pool = pool
        self.party = party
        self.head = party.guests[0]
        self.state: Facts = {}
        """What the head says of the cluster: id, key, state_dir, nodes, hostname."""
        self.launchers: dict[str, str] = {}
        """Home token → the launcher there: hosts may share their home."""

    def run(self, wanted: Wanted | None) -> Made:
        party = self.party
        party.tell("First contact with pool %s: %s" % (self.pool, names(party.guests)))
        party.arrive_all()
        headed = next((guest for guest in party.present if _is_head(guest, self.name)), None)
        if headed:
            self.head = headed
            self._settle_head()
        else:
            self._refuse_orphans()
            if wanted:
                Choosing(self.name, party, wanted, self._turn_away, self._why_no_head).run()
            self._find_head()
        if self.state["nodes"]:
            return self._adopt()
        party.arrive_through(self.head)
        self._turn_away()
        self._settle_workers()
        self._introduce()
        return self._made()

    def add(self, remote: Remote, see_head: bool) -> Made:
        """Take more hosts in. What is a node already is looked at again."""
        party, head = self.party, self.head
        party.tell("Connecting to %s" % names(party.guests))
        party.arrive_all()
        if head.trouble:
            raise SkyqError(head.trouble)
        if not _is_head(head, self.name):
            raise SkyqError("%s is no longer the head of cluster '%s'." % (head.name, self.name))
        self._settle_head()
        if not self.state["nodes"]:
            text = (
                "The first contact with cluster '%s' was interrupted. This goes on with it: skyq exec %s ..."
            )
            raise SkyqError(text % (self.name, self.name))
        head.facts = head.ask("facts", devices=see_head and head.host.accelerators is None)
        self.launchers[head.facts["token"]] = head.launcher
        party.arrive_through(head)
        self._turn_away()
        self._settle_workers()
        self._introduce(more=True, see_head=see_head)
        known = {host.ip for host in remote.workers}
        new = [g.host for g in party.present if g is not head and g.name not in known]
        behind = dict.fromkeys([*remote.behind, *self._behind()])
        remote = remote._replace(workers=(*remote.workers, *new), behind=tuple(behind))
        return self._hand_over(remote, self._places()[not see_head :])

    # Who is it to be?

    def _refuse_orphans(self) -> None:
        """The cluster is there, but its head is not among those that answered."""
        for guest in self.party.present:
            if guest.is_of(self.name) and not self.party.is_orphan(guest):
                others = ["%s\n" % each.trouble for each in self.party.guests if each.trouble]
                raise SkyqError(
                    "%sCluster '%s' has its head on %s, which can't be asked now; %s is one of its hosts.\n"
                    "Try again when that is back. If it is gone for good: `skyq down %s --force` ends what "
                    "runs on the others, and frees them."
                    % ("".join(others), self.name, guest.claim.get("head"), guest.name, self.name)
                )

    def _find_head(self) -> None:
        """The first free host that can be the head is it."""
        self._turn_away_claimed()
        reasons = [guest.trouble for guest in self.party.guests if guest.trouble]
        for guest in self.party.present:
            why_not = self._why_no_head(guest) or self._try_head(guest)
            if not why_not:
                return
            self.party.tell(why_not)
            reasons.append(why_not)
        raise SkyqError("No host of pool '%s' can be the head:\n%s" % (self.pool, "\n".join(reasons)))

    def _why_no_head(self, guest: Guest) -> str:
        """Why a free host can't be the head, though it may be a worker; "" if it can."""
        python, text = guest.python, "%s can't be the head: %s"
        if "_sqlite3" in guest.found["lacks"]:
            return text % (guest.name, "its Python (%s) has no sqlite3." % python)
        if tuple(guest.found["python"]) < HEAD_PYTHON:
            return text % (guest.name, "its Python is %s, and the head needs 3.10 or newer." % python)
        try:
            self.party.cut(guest.found["tag"])
        except SkyqError as error:
            return text % (guest.name, error)
        return ""

    def _try_head(self, guest: Guest) -> str:
        """Have it be the head; why that failed, and then it can't be a worker either."""
        self.head = guest
        try:
            self._settle_head()
        except Unreachable:
            raise  # nobody knows how far that got: the same one has to go on
        except SkyqError as error:
            guest.step_back(self.name, self.state.get("id", ""), unmade=True)
            guest.refuse(error)
            self.state = {}
        return guest.trouble

    def _turn_away(self) -> None:
        """Those that aren't free, and second names."""
        self._turn_away_claimed()
        self._turn_away_twins()

    def _turn_away_claimed(self) -> None:
        for guest in self.party.present:
            claim = guest.claim
            if claim and not guest.is_of(self.name):
                guest.refuse(HostClaimed(guest.whose()))

    def _turn_away_twins(self) -> None:
        """One machine under two names would have its devices given twice."""
        seen: dict[str, str] = {}
        for guest in sorted(self.party.present, key=lambda guest: guest is not self.head):
            machine = str(guest.found.get("machine") or guest.name)
            other = seen.get(machine) or guest.other_name(self.name, self.state.get("nodes", ()))
            if other:
                guest.refuse(SkyqError("%s: it is the same machine as %s." % (guest.name, other)))
            else:
                seen[machine] = guest.name

    # What becomes of it.

    def _settle_head(self) -> None:
        if not self.head.claim:
            self.party.tell("%s is the head: sending skyq there" % self.head.name)
        self.party.twice(self.head, self._settle_as_head)

    def _settle_as_head(self, head: Guest) -> None:
        try:
            self.party.become(head, as_head=True)
            self.state = head.ask("found", cluster=self.name, pool=self.pool)
            if self.state["nodes"]:
                return
            self._claim(head, self.state["state_dir"])
            head.facts = head.ask("facts", devices=head.host.accelerators is None)
            self.launchers[head.facts["token"]] = head.ask("launcher", libraries=True)["launcher"]
        except Unreachable:
            raise
        except SkyqError as error:
            raise type(error)(head.named(error)) from None

    def _adopt(self) -> Made:
        """Another machine has made it."""
        head = self.head
        names = set(self.state["nodes"])
        hosts = [guest.host for guest in self.party.guests if guest.name in names and guest is not head]
        self.party.tell("Cluster %s is there: its head is %s" % (self.name, head.name))
        return self._hand_over(self._remote(hosts, head.launcher, head.version_there()), ())

    def _settle_workers(self) -> None:
        workers = [guest for guest in self.party.present if guest is not self.head]
        if workers:
            self.party.tell("Sending skyq to %s" % names(workers))
        self.party.each(lambda guest: self.party.twice(guest, self._settle), workers)
        workers = [guest for guest in workers if not guest.trouble]
        # Of those with one home one at a time, and once, is enough.
        homes = {guest.facts["token"]: guest for guest in reversed(workers)}
        self.party.each(lambda guest: self.party.twice(guest, self._open_home), list(homes.values()))
        for guest in workers:
            why = homes[guest.facts["token"]].trouble
            if why and not guest.trouble:
                self._step_back(guest)
                guest.refuse(SkyqError(why))

    def _settle(self, guest: Guest) -> None:
        try:
            self.party.become(guest, as_head=False)
            guest.facts = guest.ask("facts", devices=guest.host.accelerators is None)
            self._claim(guest, "")
        except Unreachable:
            raise
        except SkyqError as error:
            raise type(error)(guest.named(error)) from None

    def _claim(self, guest: Guest, state_dir: str) -> None:
        if self.party.is_orphan(guest):
            guest.ask("leave", cluster=self.name, id=guest.claim["id"], node=guest.name)
        head = self.state["hostname"]
        about = {"id": self.state["id"], "head": head, "state_dir": state_dir}
        guest.ask("claim", cluster=self.name, node=guest.name, **about)

    def _open_home(self, guest: Guest) -> None:
        """The launcher, and the line that lets the head start it."""
        if not guest.has_skyq:
            self._settle(guest)  # it was killed since
        token = guest.facts["token"]
        try:
            if token not in self.launchers:
                self.launchers[token] = guest.ask("launcher", libraries=False)["launcher"]
            guest.ask(
                "authorize",
                key=self.state["key"],
                cluster=self.name,
                id=self.state["id"],
                launcher=self.launchers[token],
            )
        except (Ended, Unreachable):
            raise
        except SkyqError as error:
            self._step_back(guest)
            raise SkyqError(guest.named(error)) from None

    def _step_back(self, guest: Guest) -> None:
        """It isn't taken after all; but what is a node already stays one."""
        if guest.name not in self.state["nodes"]:
            guest.step_back(self.name, self.state["id"])

    def _introduce(self, more: bool = False, see_head: bool = True) -> None:
        """Let the head meet the workers; whom it can't reach isn't taken. `more`: it has others already.
        `see_head`: it hears what it has itself, too.
        """
        head = self.head
        workers = [guest for guest in self.party.present if guest is not head]
        if workers:
            self.party.tell("%s meets its workers" % head.name)
        address = head.seen_at[0] if head.seen_at else ""
        told = {"head": {**head.as_node(), "address": address}} if see_head else {}
        everybody = self.party.guests
        workers_told = [guest.as_worker([g for g in everybody if g is not guest]) for guest in workers]
        met = head.ask("enlist" if more else "join", cluster=self.name, workers=workers_told, **told)
        for guest in workers:
            why = met["met"].get(guest.name, "")
            if why:
                self._step_back(guest)
                guest.refuse(SkyqError("%s: %s" % (guest.name, why)))

    def _made(self) -> Made:
        places = self._places()
        workers = [guest.host for guest in self.party.present if guest is not self.head]
        launcher = self.launchers[self.head.facts["token"]]
        version = max(__version__, self.head.version_there(), key=order)
        return self._hand_over(self._remote(workers, launcher, version), places)

    def _places(self) -> tuple[Place, ...]:
        places = []
        for guest in self.party.guests:
            role = "" if guest.trouble else "head" if guest is self.head else "worker"
            places.append(Place(guest.name, role, guest.bare_trouble or guest.in_words()))
        return tuple(places)

    def _remote(self, workers: Sequence[Host], launcher: str, version: str) -> Remote:
        state, head = self.state, self.head.host
        return Remote(
            *(self.name, state["id"], self.pool, head, tuple(workers)),
            *(launcher, state["state_dir"], version, self._behind()),
        )

    def _behind(self) -> tuple[str, ...]:
        return tuple(guest.name for guest in self.party.present if guest.through_head)

    def _hand_over(self, remote: Remote, places: tuple[Place, ...]) -> Made:
        """Keep the connection to the head, and no other."""
        head = self.head
        session = head.session
        assert session and head.landing
        head.landing.close()
        head.session = head.landing = None
        self.party.close()
        return Made(remote, session, places)


def _is_head(guest: Guest, cluster: str) -> bool:
    return guest.is_of(cluster) and bool(guest.claim.get("headed"))
