"""First contact: a pool of bare hosts becomes a cluster. Also later contacts: upgrades, and the end.

All hosts are seen to at once, each over one connection and one channel. Every step may be killed and done
again: what is true stands on the hosts (claims, the head's state), and this machine remembers only where the
head is.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from skyq import __version__
from skyq.client.landing import Facts, Landing, Unfit, program, shell_line
from skyq.client.records import Remote, order
from skyq.client.slices import Slice, Whole
from skyq.core.errors import HostClaimed, SkyqError, Unreachable
from skyq.core.host import Host, Pool
from skyq.core.keylines import DEFAULT_LAUNCHER
from skyq.core.paths import Home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.transport.ssh import Session

AT_ONCE = 16  # hosts
HEAD_PYTHON = (3, 10)
BY_THE_HEAD = frozenset(("refused", "timeout", "no-route", "name", "other"))
"""Why this machine may not get to a host that the head can get to: not what the host itself says no to."""
_BUILD = re.compile(r"skyq-([0-9][\w.]*)-[0-9a-f]{16}\.pyz")

Dial = Callable[[Host, "Session | None"], "Session"]
"""Connects to a host, through another one if given. Raises Unreachable."""


class Guest:
    """One host on its way into a cluster."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = host.ip
        self.session: Session | None = None
        self.landing: Landing | None = None
        self.through_head = False
        self.found: Facts = {}
        """What was there before."""
        self.facts: Facts = {}
        """What the machine has."""
        self.trouble = ""
        """Why it isn't taken; empty: it is, so far."""
        self.kind = ""
        """Of the trouble, where it couldn't be connected to."""

    @property
    def claim(self) -> Facts:
        """The claim on it, {} for none; that of a queue which was deleted is none."""
        claim = self.found.get("claim") or {}
        return {} if claim.get("gone") else claim

    def is_of(self, cluster: str) -> bool:
        """Whether it belongs to our cluster of that name."""
        return bool(self.claim.get("mine")) and self.claim.get("cluster") == cluster

    @property
    def seen_at(self) -> tuple[str, int] | None:
        """Its own address and port of our connection, as it says itself."""
        words = str(self.found.get("ssh", "")).split()
        return (words[2], int(words[3])) if len(words) == 4 and words[3].isdigit() else None

    def ask(self, what: str, **more: object) -> Facts:
        """Have it do something. Raises SkyqError."""
        assert self.landing
        return self.landing.ask(what, more)

    def refuse(self, error: SkyqError) -> None:
        """It isn't taken."""
        self.trouble = str(error)
        self.kind = error.kind if isinstance(error, Unreachable) else ""
        self.leave()

    def leave(self) -> None:
        """Close what is open to it."""
        if self.landing:
            self.landing.close()
        if self.session:
            self.session.close()
        self.landing = self.session = None


class Party:
    """The hosts of one contact. `dial` connects; `tell` gets a line when something goes on."""

    def __init__(self, hosts: Iterable[Host], dial: Dial, whole: Whole, tell: Callable[[str], None]) -> None:
        self.guests = [Guest(host) for host in hosts]
        self.dial = dial
        self.whole = whole
        self.tell = tell
        self._slices: dict[str, Slice] = {}
        self._liked: list[int] = []

    @property
    def present(self) -> list[Guest]:
        """Those without trouble so far."""
        return [guest for guest in self.guests if not guest.trouble]

    def each(self, action: Callable[[Guest], None], guests: Sequence[Guest] | None = None) -> None:
        """Do something with each, at once; who fails has trouble from then on."""

        def attempt(guest: Guest) -> None:
            try:
                action(guest)
            except SkyqError as error:
                guest.refuse(error)

        in_parallel(attempt, self.present if guests is None else guests)

    def arrive_all(self, to_send: bool = True) -> None:
        """Connect to each, and see what is there; nothing is changed.

        Raises SkyqError where skyq.pyz is needed, `to_send` it, but not to be had.
        """
        if to_send:
            self._liked = self.whole.pythons()
        self.each(self.arrive)

    def arrive(self, guest: Guest, via: Session | None = None) -> None:
        """Connect, and see what is there; nothing is changed."""
        guest.session = self.dial(guest.host, via)
        guest.through_head = via is not None
        guest.landing = Landing(guest.name, guest.session.run(shell_line(len(program()), self._liked)))
        guest.found = guest.landing.hello()
        lacking = [name for name in guest.found["lacks"] if name != "_sqlite3"]
        if lacking:
            text = "%s: its Python (%s) was built without %s. Install another one there."
            raise Unfit(text % (guest.name, _version(guest.found), ", ".join(lacking)))

    def arrive_through(self, head: Guest) -> None:
        """Try those that this machine can't get to through the head."""
        late = [guest for guest in self.guests if guest.kind in BY_THE_HEAD]
        if not late or not head.session:
            return
        self.tell("Trying through %s: %s" % (head.name, _names(late)))
        first = {guest.name: guest.trouble for guest in late}
        for guest in late:
            guest.trouble = guest.kind = ""
        self.each(lambda guest: self.arrive(guest, head.session), late)
        for guest in late:
            if guest.kind:
                guest.trouble = "%s (nor through %s: %s)" % (first[guest.name], head.name, guest.trouble)

    def become(self, guest: Guest, as_head: bool, build: str = "") -> None:
        """Have skyq there: a newer one than this is left as it is, and `build` if it's given."""
        assert guest.landing
        there = build or _newest(guest.found["builds"], above=__version__)
        if there:
            guest.landing.become(there)
            return
        cut = self.cut(guest.found["tag"] if as_head else "")
        if cut.name in guest.found["builds"]:
            guest.landing.become(cut.name)
        else:
            guest.landing.become(cut, compressed="zlib" not in guest.found["lacks"])

    def cut(self, tag: str) -> Slice:
        """What a head with that Python needs, or ("") a worker. Raises SkyqError where that can't be had."""
        if tag not in self._slices:
            self._slices[tag] = self.whole.for_head(tag) if tag else self.whole.for_worker()
        return self._slices[tag]

    def close(self) -> None:
        """Hang up everywhere."""
        # Those that go through the head before the head.
        for guest in sorted(self.guests, key=lambda guest: not guest.through_head):
            guest.leave()


def in_parallel(action: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Do it for each; a Ctrl-C waits for none. What `action` raises is its own mistake, and raised here."""
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in items:
        todo.put(item)
    failed: list[BaseException] = []

    def work() -> None:
        while True:
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                action(item)
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in items[:AT_ONCE]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


# A pool becomes a cluster.


class Place(NamedTuple):
    """What became of one host of the pool."""

    name: str
    role: str
    """head, worker, or "" for a host that isn't taken."""
    text: str
    """What it has, or why it isn't taken."""


class Made(NamedTuple):
    """A cluster, and the connection to its head, which may be used on."""

    remote: Remote
    session: Session
    places: tuple[Place, ...]
    """Empty: it was there."""


def make(name: str, pool: Pool, party: Party) -> Made:
    """Have the pool's free hosts be a cluster, or find that they are. Raises SkyqError."""
    try:
        return _Making(name, pool, party).run()
    except BaseException:
        party.close()
        raise


class _Making:
    def __init__(self, name: str, pool: Pool, party: Party) -> None:
        self.name = name
        self.pool = pool
        self.party = party
        self.head = party.guests[0]
        self.state: Facts = {}
        """What the head says of the cluster: id, key, state_dir, nodes, hostname."""
        self.launchers: dict[str, str] = {}
        """Home token → the launcher there: hosts may share their home."""

    def run(self) -> Made:
        party = self.party
        party.tell("First contact with pool %s: %s" % (self.pool.name, _names(party.guests)))
        party.arrive_all()
        headed = next((guest for guest in party.present if _is_head(guest, self.name)), None)
        if headed:
            self.head = headed
            self._settle_head()
        else:
            self._refuse_orphans()
            self._find_head()
        if self.state["nodes"]:
            return self._adopt()
        party.arrive_through(self.head)
        self._turn_away_claimed()
        self._settle_workers()
        self._introduce()
        return self._made()

    # Who is it to be?

    def _refuse_orphans(self) -> None:
        """The cluster is there, but its head is not among those that answered."""
        for guest in self.party.present:
            if guest.is_of(self.name):
                others = ["%s\n" % each.trouble for each in self.party.guests if each.trouble]
                raise SkyqError(
                    "%sCluster '%s' has its head on %s, which can't be asked now; %s is one of its hosts.\n"
                    "Try again when that is back. If it is gone for good, free each host: rm %s"
                    % (
                        "".join(others),
                        self.name,
                        guest.claim.get("head"),
                        guest.name,
                        guest.claim.get("path"),
                    )
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
        raise SkyqError("No host of pool '%s' can be the head:\n%s" % (self.pool.name, "\n".join(reasons)))

    def _why_no_head(self, guest: Guest) -> str:
        """Why a free host can't be the head, though it may be a worker; "" if it can."""
        python, text = _version(guest.found), "%s can't be the head: %s"
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
            _step_back(guest, self.name, self.state.get("id", ""), unmade=True)
            guest.refuse(error)
            self.state = {}
        return guest.trouble

    def _turn_away_claimed(self) -> None:
        for guest in self.party.present:
            claim = guest.claim
            if claim and not guest.is_of(self.name):
                guest.refuse(HostClaimed(claimed(guest.name, claim)))

    # What becomes of it.

    def _settle_head(self) -> None:
        head = self.head
        if not head.claim:
            self.party.tell("%s is the head: sending skyq there" % head.name)
        try:
            self.party.become(head, as_head=True)
            self.state = head.ask("found", cluster=self.name, pool=self.pool.name)
            if self.state["nodes"]:
                return
            self._claim(head, self.state["state_dir"])
            head.facts = head.ask("facts", devices=head.host.accelerators is None)
            self.launchers[head.facts["token"]] = head.ask("launcher", libraries=True)["launcher"]
        except Unreachable:
            raise
        except SkyqError as error:
            raise type(error)(_named(head, error)) from None

    def _adopt(self) -> Made:
        """Another machine has made it."""
        head = self.head
        names = set(self.state["nodes"])
        hosts = [guest.host for guest in self.party.guests if guest.name in names and guest is not head]
        self.party.tell("Cluster %s is there: its head is %s" % (self.name, head.name))
        return self._hand_over(self._remote(hosts, _launcher(head), _newest_version(head)), ())

    def _settle_workers(self) -> None:
        workers = [guest for guest in self.party.present if guest is not self.head]
        if workers:
            self.party.tell("Sending skyq to %s" % _names(workers))
        self.party.each(self._settle, workers)
        workers = [guest for guest in workers if not guest.trouble]
        # Of those with one home one at a time, and once, is enough.
        homes = {guest.facts["token"]: guest for guest in reversed(workers)}
        self.party.each(self._open_home, list(homes.values()))
        for guest in workers:
            why = homes[guest.facts["token"]].trouble
            if why and not guest.trouble:
                _step_back(guest, self.name, self.state["id"])
                guest.refuse(SkyqError(why))

    def _settle(self, guest: Guest) -> None:
        try:
            self.party.become(guest, as_head=False)
            guest.facts = guest.ask("facts", devices=guest.host.accelerators is None)
            self._claim(guest, "")
        except Unreachable:
            raise
        except SkyqError as error:
            raise type(error)(_named(guest, error)) from None

    def _claim(self, guest: Guest, state_dir: str) -> None:
        head = self.state["hostname"]
        guest.ask("claim", cluster=self.name, id=self.state["id"], head=head, state_dir=state_dir)

    def _open_home(self, guest: Guest) -> None:
        """The launcher, and the line that lets the head start it."""
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
        except Unreachable:
            raise
        except SkyqError as error:
            _step_back(guest, self.name, self.state["id"])
            raise SkyqError(_named(guest, error)) from None

    def _introduce(self) -> None:
        """Let the head meet the workers; whom it can't reach isn't taken."""
        head = self.head
        workers = [guest for guest in self.party.present if guest is not head]
        if workers:
            self.party.tell("%s meets its workers" % head.name)
        about = {**_about(head), "address": head.seen_at[0] if head.seen_at else ""}
        met = head.ask("join", cluster=self.name, head=about, workers=[_worker(guest) for guest in workers])
        for guest in workers:
            why = met["met"].get(guest.name, "")
            if why:
                _step_back(guest, self.name, self.state["id"])
                guest.refuse(SkyqError("%s: %s" % (guest.name, why)))

    def _made(self) -> Made:
        places = []
        for guest in self.party.guests:
            role = "" if guest.trouble else "head" if guest is self.head else "worker"
            places.append(Place(guest.name, role, _trouble(guest) or _has(guest)))
        workers = [guest.host for guest in self.party.present if guest is not self.head]
        launcher = self.launchers[self.head.facts["token"]]
        version = max(__version__, _newest_version(self.head), key=order)
        return self._hand_over(self._remote(workers, launcher, version), tuple(places))

    def _remote(self, workers: Sequence[Host], launcher: str, version: str) -> Remote:
        state, head = self.state, self.head.host
        return Remote(
            *(self.name, state["id"], self.pool.name, head, tuple(workers)),
            *(launcher, state["state_dir"], version),
        )

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


def claimed(name: str, claim: Facts) -> str:
    """Whose a host is."""
    text = "%s: it belongs to cluster '%s' of %s (head: %s). Submit there, or end that cluster first."
    return text % (name, claim.get("cluster", "?"), claim.get("owner"), claim.get("head", "?"))


def _named(guest: Guest, error: SkyqError) -> str:
    text = str(error)
    return text if text.startswith(guest.name + ":") else "%s: %s" % (guest.name, text)


def _trouble(guest: Guest) -> str:
    """Without its name, where that stands beside it."""
    prefix = guest.name + ": "
    return guest.trouble[len(prefix) :] if guest.trouble.startswith(prefix) else guest.trouble


def _names(guests: Sequence[Guest]) -> str:
    names = [guest.name for guest in guests]
    return ", ".join(names) if len(names) <= 8 else "%s … %s (%d)" % (names[0], names[-1], len(names))


def _version(found: Facts) -> str:
    return ".".join(map(str, found["python"]))


def _newest_version(guest: Guest) -> str:
    """Of the skyq that was there; this one's where there was none."""
    match = _BUILD.fullmatch(_newest(guest.found["builds"], above="0"))
    return match[1] if match else __version__


def _launcher(guest: Guest) -> str:
    return DEFAULT_LAUNCHER if guest.found["usual"] else Home(guest.found["root"]).launcher


def record(name: str, pool: str, head: Guest, workers: Sequence[Host]) -> Remote:
    """Of a cluster that is there, by the claim on its head."""
    claim = head.claim
    return Remote(
        *(name, str(claim.get("id")), pool, head.host, tuple(workers)),
        *(_launcher(head), str(claim.get("state_dir")), _newest_version(head)),
    )


def _newest(builds: Iterable[str], above: str) -> str:
    """The file of the newest skyq there, if that is newer than one; else ""."""
    found = [(order(match[1]), name) for name in builds if (match := _BUILD.fullmatch(name))]
    return max([each for each in found if each[0] > order(above)], default=((), ""))[1]


def _about(guest: Guest) -> Facts:
    """A node as its head is to know it: as it is declared, the rest as found."""
    host, facts = guest.host, guest.facts
    devices = facts["devices"]
    if host.accelerators is not None:
        names = [name for name, count in host.accelerators.items() for _ in range(count)]
        devices = [[index, name, ""] for index, name in enumerate(names)]
    return {
        "name": guest.name,
        "devices": devices,
        "cpus": host.cpus or facts["cpus"],
        "memory": host.memory or facts["memory"],
        "ip": host.internal_ip or "",
    }


def _worker(guest: Guest) -> Facts:
    """With the addresses by which the head may reach it, the best first."""
    assert guest.session
    host, port = guest.seen_at or ("", guest.session.target.port)
    peer = (guest.session.peer, guest.session.target.port)
    places = [(guest.host.internal_ip or "", port), (host, port), peer, (guest.found["hostname"], port)]
    usable = [place for place in places if place[0] and not place[0].startswith(("127.", "::1"))]
    return {
        **_about(guest),
        "user": guest.found["user"],
        "host_keys": [guest.session.host_keys],
        "at": list(dict.fromkeys(usable)),
    }


def _has(guest: Guest) -> str:
    """What a node brings, in words."""
    about = _about(guest)
    names = [name for _, name, _ in about["devices"]]
    counted = ["%dx %s" % (names.count(name), name) for name in dict.fromkeys(names)]
    devices = ", ".join(counted) or "no devices"
    way = ", through the head" if guest.through_head else ""
    text = "%s, %g CPUs, %.0f GB memory%s"
    return text % (devices, about["cpus"] / 1000, about["memory"] / 1024, way)


def _step_back(guest: Guest, cluster: str, cluster_id: str, unmade: bool = False) -> None:
    """It isn't taken after all: nobody else shall find it claimed."""
    try:
        guest.ask("leave", cluster=cluster, id=cluster_id, unmade=unmade)
    except SkyqError:
        pass  # the trouble that it is told for came first


# Later contacts. The first guest is the head.


def upgrade(party: Party) -> tuple[str, list[str]]:
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
        except SkyqError as error:
            raise SkyqError(_named(guest, error)) from None

    renew(head)
    party.each(renew, [guest for guest in party.present if guest is not head])
    return next(iter(homes.values())), [guest.trouble for guest in party.guests if guest.trouble]


def free(party: Party, guests: Sequence[Guest], cluster: str, cluster_id: str) -> None:
    """End the hosts' part in a cluster; those where that can't be done have trouble.

    `cluster_id`: of what isn't claimed any more.
    """

    def part(guest: Guest) -> None:
        its_id = guest.claim["id"] if guest.is_of(cluster) else cluster_id
        try:
            party.become(guest, as_head=False, build=_newest(guest.found["builds"], above="0"))
            guest.ask("leave", cluster=cluster, id=its_id, end=True, head=guest is party.guests[0])
        except SkyqError as error:
            raise SkyqError(_named(guest, error)) from None

    party.each(part, guests)
