"""Which hosts of a pool a new cluster takes: as many as are asked for, of those that are free and fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from skyq.client.guest import Guest
from skyq.core import schedule
from skyq.core.accelerators import resources_text
from skyq.core.model import Device, Node, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.client.contact import Place

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


def fitting(wanted: Wanted, guests: Sequence[Guest]) -> list[Guest]:
    """Those that fit one alternative, the first one that enough of them fit; else the one most fit."""
    if not wanted.num_nodes:
        return list(guests)
    best: list[Guest] = []
    for request in wanted.alternatives:
        found = [guest for guest in guests if _fits(guest, wanted, request)]
        if len(found) >= wanted.num_nodes:
            return found
        best = max(best, found, key=len)
    return best


def why_unfit(wanted: Wanted, guest: Guest) -> str:
    """What it has, and what is asked for."""
    asked = resources_text(1, wanted.alternatives, "")
    least = ["%g CPUs" % (wanted.least_cpus / 1000)] if wanted.least_cpus else []
    least += ["%g GB memory" % (wanted.least_memory / 1024)] if wanted.least_memory else []
    more = ", at least " + " and ".join(least) if least else ""
    return "%s: it has %s; asked for is %s%s." % (guest.name, guest.in_words(), asked, more)


def _fits(guest: Guest, wanted: Wanted, request: Request) -> bool:
    about = guest.as_node()
    devices = tuple(Device(*fields) for fields in about["devices"])
    node = Node(guest.name, 0, devices, about["cpus"], about["memory"])
    enough = node.cpus >= wanted.least_cpus and node.memory >= wanted.least_memory * TOLERANCE
    return enough and schedule.misfit([node], 1, (request,), "") is None
