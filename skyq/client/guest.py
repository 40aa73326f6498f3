"""One host in a contact: what was there, what it has, what is wrong with it, and the connection to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from skyq import __version__
from skyq.client.landing import Facts, Landing
from skyq.client.records import Remote
from skyq.core.errors import SkyqError, Unreachable
from skyq.core.host import Host
from skyq.core.keylines import DEFAULT_LAUNCHER
from skyq.core.paths import Home
from skyq.core.typed import NamedTuple
from skyq.core.versions import order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.transport.ssh import Session

BUILD = re.compile(r"skyq-([0-9][\w.]*)-[0-9a-f]{16}\.pyz")


class Place(NamedTuple):
    """What became of one host of the pool."""

    name: str
    role: str
    """head, worker, or "" for a host that isn't taken."""
    text: str
    """What it has, or why it isn't taken."""


class Guest:
    """One host on its way into a cluster."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = host.ip
        self.session: Session | None = None
        self.landing: Landing | None = None
        self.through_head = False
        self.has_skyq = False
        """Whether the other end of `landing` is skyq by now."""
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
        named = self.claim.get("cluster") == cluster and isinstance(self.claim.get("id"), str)
        return bool(self.claim.get("mine")) and named

    @property
    def seen_at(self) -> tuple[str, int] | None:
        """Its own address and port of our connection, as it says itself."""
        words = str(self.found.get("ssh", "")).split()
        return (words[2], int(words[3])) if len(words) == 4 and words[3].isdigit() else None

    def other_name(self, cluster: str, nodes: Sequence[str]) -> str:
        """By which this machine is a node of that cluster already; "": it isn't."""
        name = str(self.claim.get("node") or "")
        return name if self.is_of(cluster) and name != self.name and name in nodes else ""

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

    def version_there(self) -> str:
        """Of the newest skyq that was there; this one's where there was none."""
        match = BUILD.fullmatch(self.newer_build("0"))
        return match[1] if match else __version__

    def newer_build(self, version: str = __version__) -> str:
        """The file of the newest skyq that was there, if that is newer than this one; else ""."""
        matches = [match for name in self.found["builds"] if (match := BUILD.fullmatch(name))]
        found = [(order(match[1]), match[0]) for match in matches if order(match[1]) > order(version)]
        return max(found, default=((), ""))[1]

    @property
    def launcher(self) -> str:
        """Of the skyq there; see core.keylines.shell_line()."""
        return DEFAULT_LAUNCHER if self.found["usual"] else Home(self.found["root"]).launcher

    @property
    def python(self) -> str:
        """Its version."""
        return ".".join(map(str, self.found["python"]))

    def named(self, error: SkyqError) -> str:
        """An error's text, with the host's name before it."""
        text = str(error)
        return text if text.startswith(self.name + ":") else "%s: %s" % (self.name, text)

    @property
    def bare_trouble(self) -> str:
        """Without its name, where that stands beside it."""
        return self.bare(self.trouble)

    def bare(self, text: str) -> str:
        """Without its name, where that stands beside it."""
        prefix = self.name + ": "
        return text[len(prefix) :] if text.startswith(prefix) else text

    def whose(self) -> str:
        """Why it isn't free."""
        text = "%s: it belongs to cluster '%s' of %s (head: %s). Submit there, or end that cluster first"
        claim = self.claim
        text += ": skyq down %s" % claim.get("cluster") if claim.get("mine") else "."
        return text % (self.name, claim.get("cluster", "?"), claim.get("owner"), claim.get("head", "?"))

    def record(self, cluster: str, pool: str, workers: Sequence[Host]) -> Remote:
        """Of a cluster whose head it is, by the claim on it."""
        claim = self.claim
        return Remote(
            *(cluster, str(claim.get("id")), pool, self.host, tuple(workers)),
            *(self.launcher, str(claim.get("state_dir")), self.version_there()),
        )

    def as_node(self) -> Facts:
        """A node as its head is to know it: as it is declared, the rest as found."""
        host, facts = self.host, self.facts
        devices = facts["devices"]
        if host.accelerators is not None:
            names = [name for name, count in host.accelerators.items() for _ in range(count)]
            devices = [[index, name, ""] for index, name in enumerate(names)]
        return {
            "name": self.name,
            "devices": devices,
            "cpus": host.cpus or facts["cpus"],
            "memory": host.memory or facts["memory"],
            "ip": host.internal_ip or "",
        }

    @property
    def addresses(self) -> set[str]:
        """Where it surely is: as it was typed, and where it was connected to."""
        return {self.host.ip, self.host.internal_ip or "", self.session.peer if self.session else ""}

    def as_worker(self, others: Iterable[Guest] = ()) -> Facts:
        """With the addresses by which the head may reach it, the best first.

        What it says itself of where it is doesn't count where one of the others is: the head would trust its
        key there.
        """
        assert self.session
        taken = set().union(*(guest.addresses for guest in others)) - self.addresses
        host, port = self.seen_at or ("", self.session.target.port)
        peer = (self.session.peer, self.session.target.port)
        places = [(self.host.internal_ip or "", port), (host, port), peer, (self.found["hostname"], port)]
        usable = [
            place
            for place in places
            if place[0] and not place[0].startswith(("127.", "::1")) and place[0] not in taken
        ]
        return {
            **self.as_node(),
            "user": self.found["user"],
            "host_keys": [self.session.host_keys],
            "at": list(dict.fromkeys(usable)),
        }

    def in_words(self) -> str:
        """What it brings."""
        node = self.as_node()
        names = [name for _, name, _ in node["devices"]]
        counted = ["%dx %s" % (names.count(name), name) for name in dict.fromkeys(names)]
        devices = ", ".join(counted) or "no devices"
        way = ", through the head" if self.through_head else ""
        text = "%s, %g CPUs, %.0f GB memory%s"
        return text % (devices, node["cpus"] / 1000, node["memory"] / 1024, way)

    def step_back(self, cluster: str, cluster_id: str, unmade: bool = False, end: bool = False) -> None:
        """It isn't taken after all: nobody else shall find it claimed. `end`: skyq goes, too."""
        about = {"cluster": cluster, "id": cluster_id, "node": self.name}
        try:
            self.ask("leave", **about, stays=True, unmade=unmade, end=end)
        except SkyqError:
            pass  # the trouble that it is told for came first
