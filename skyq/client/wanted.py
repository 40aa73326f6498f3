"""Which hosts of a pool a new cluster takes: as many as are asked for, of those that are free and fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skyq.client.guest import Guest, Place
from skyq.client.party import Party, names
from skyq.core import schedule
from skyq.core.accelerators import resources_text
from skyq.core.errors import Declined, SkyqError, Unreachable
from skyq.core.model import Device, Node, Request
from skyq.core.typed import NamedTuple

TOLERANCE = 0.95
"""Of the memory asked for: what the kernel keeps for itself isn't counted in MemTotal."""


class Wanted(NamedTuple):
    """What a new cluster is for."""

    pool: str
    num_nodes: int
    """0: all hosts that are free."""
    alternatives: tuple[Request, ...]
    """All nodes fit one of these."""
    least_cpus: int
    """Milli-CPUs; "4+" in a task says what a node has, not what a job takes."""
    least_memory: int
    """MB."""
    agree: Callable[[tuple[Place, ...]], bool]
    """Gets what would be taken and what not; whether to go on."""


class Choosing:
    """Of the hosts that are free and fit only as many as are wanted stay in the party.

    What each has is asked of skyq there, which leaves again where it isn't wanted. `turn_away` refuses hosts
    that aren't free; `why_no_head`: why a host can't be the head, "" if it can.
    """

    def __init__(
        self,
        cluster: str,
        party: Party,
        wanted: Wanted,
        turn_away: Callable[[], None],
        why_no_head: Callable[[Guest], str],
    ) -> None:
        self.cluster = cluster
        self.party = party
        self.wanted = wanted
        self.turn_away = turn_away
        self.why_no_head = why_no_head

    def run(self) -> None:
        """Raises SkyqError where too few fit, Declined where somebody said no; then all is as it was."""
        self.turn_away()
        try:
            chosen = self._chosen()
            places = self._places(chosen)
            if len(chosen) < (self.wanted.num_nodes or 1):
                raise self._too_few(len(chosen), places)
            if not self.wanted.agree(places):
                raise Declined("Aborted!")
        except BaseException:
            self.party.each(self._leave_again)
            raise
        self.party.each(self._leave_again, [guest for guest in self.party.present if guest not in chosen])
        self.party.guests = [*chosen, *(guest for guest in self.party.guests if guest.trouble)]

    def _chosen(self) -> list[Guest]:
        """The head first: one that is reached from here, because the others may be reached through it."""
        party, number = self.party, self.wanted.num_nodes
        if party.present:
            party.tell("Looking at %s" % names(party.present))
        party.each(_look_at(party))
        heads = [guest for guest in self._fitting() if not self.why_no_head(guest)]
        if not heads:
            return []
        if not number or len(self._fitting()) < number:
            party.arrive_through(heads[0])
            self.turn_away()
            party.each(_look_at(party), [guest for guest in party.present if not guest.facts])
        others = [guest for guest in self._fitting() if guest is not heads[0]]
        return [heads[0], *others][: number or None]

    def _fitting(self) -> list[Guest]:
        """Those that fit one alternative, the first one that enough of them fit; else the one most fit."""
        wanted, guests = self.wanted, self.party.present
        if not wanted.num_nodes:
            return guests
        best: list[Guest] = []
        for request in wanted.alternatives:
            found = [guest for guest in guests if _fits(guest, wanted, request)]
            if len(found) >= wanted.num_nodes:
                return found
            best = max(best, found, key=len)
        return best

    def _leave_again(self, guest: Guest) -> None:
        """As it was; it isn't told where that can't be done."""
        if guest.has_skyq:
            guest.step_back(self.cluster, "-", end=True)
        guest.leave()

    def _places(self, chosen: Sequence[Guest]) -> tuple[Place, ...]:
        fit = self._fitting()
        places = [Place(g.name, "worker" if at else "head", g.in_words()) for at, g in enumerate(chosen)]
        for guest in self.party.guests:
            if guest.trouble:
                places.append(Place(guest.name, "", guest.bare_trouble))
            elif guest not in fit:
                places.append(Place(guest.name, "", _why_unfit(self.wanted, guest)))
            elif guest not in chosen:
                places.append(Place(guest.name, "", self.why_no_head(guest) or "it is free, and not needed"))
        return tuple(places)

    def _too_few(self, found: int, places: Sequence[Place]) -> SkyqError:
        """Why there is no cluster, host by host."""
        number = self.wanted.num_nodes or 1
        text = "Of pool '%s' %d free host%s fit, and %d %s needed:\n%s"
        rows = "\n".join("  %s: %s" % (place.name, place.text.replace("\n", " ")) for place in places)
        words = "" if found == 1 else "s", number, "is" if number == 1 else "are"
        return SkyqError(text % (self.wanted.pool, found, *words, rows))


def _look_at(party: Party) -> Callable[[Guest], None]:
    """See what a host has."""

    def look(guest: Guest) -> None:
        try:
            party.become(guest, as_head=False)
            guest.facts = guest.ask("facts", devices=guest.host.accelerators is None)
        except Unreachable:
            raise
        except SkyqError as error:
            raise type(error)(guest.named(error)) from None

    return look


def _why_unfit(wanted: Wanted, guest: Guest) -> str:
    """What it has, and what is asked for."""
    asked = resources_text(1, wanted.alternatives, "")
    least = ["%g CPUs" % (wanted.least_cpus / 1000)] if wanted.least_cpus else []
    least += ["%g GB memory" % (wanted.least_memory / 1024)] if wanted.least_memory else []
    more = ", at least " + " and ".join(least) if least else ""
    return "it has %s; asked for is %s%s." % (guest.in_words(), asked, more)


def _fits(guest: Guest, wanted: Wanted, request: Request) -> bool:
    about = guest.as_node()
    devices = tuple(Device(*fields) for fields in about["devices"])
    node = Node(guest.name, 0, devices, about["cpus"], about["memory"])
    enough = node.cpus >= wanted.least_cpus and node.memory >= wanted.least_memory * TOLERANCE
    return enough and schedule.misfit([node], 1, (request,), "") is None
