"""The hosts of one contact, which are all seen to at once, each over one connection and one channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from skyq.client.guest import Guest
from skyq.client.landing import Ended, Landing, Unfit, program, shell_line
from skyq.client.slices import Slice, Whole
from skyq.core.errors import SkyqError
from skyq.core.host import Host
from skyq.transport.parallel import in_parallel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.transport.ssh import Session

BY_THE_HEAD = frozenset(("refused", "timeout", "no-route", "name", "other"))
"""Why this machine may not get to a host that the head can get to: not what the host itself says no to."""

Dial = Callable[[Host, "Session | None"], "Session"]
"""Connects to a host, through another one if given. Raises Unreachable."""


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

    def is_orphan(self, guest: Guest) -> bool:
        """Whether it was off when its cluster ended: the host that was the head, which is here, isn't of that
        any more. (Where several have that host's name, the shims' lock still keeps running jobs from harm.)
        """
        claim = guest.claim
        former = [each for each in self.present if each.found["hostname"] == claim.get("head")]
        others = [each for each in former if each is not guest]
        return bool(claim.get("mine") and others) and all(
            each.claim.get("id") != claim.get("id") for each in others
        )

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
        try:
            self.land(guest)
        except Ended:
            self.land(guest)

    def land(self, guest: Guest) -> None:
        """Begin anew there, on the connection that is open."""
        assert guest.session
        if guest.landing:
            guest.landing.close()
        guest.has_skyq = False
        guest.landing = Landing(guest.name, guest.session.run(shell_line(len(program()), self._liked)))
        guest.found = guest.landing.hello()
        lacking = [name for name in guest.found["lacks"] if name != "_sqlite3"]
        if lacking:
            text = "%s: its Python (%s) was built without %s. Install another one there."
            raise Unfit(text % (guest.name, guest.python, ", ".join(lacking)))

    def twice(self, guest: Guest, action: Callable[[Guest], None]) -> None:
        """Do something there that begins with become(); where skyq is killed there meanwhile, once more."""
        try:
            action(guest)
        except Ended:
            claim = guest.found.get("claim")
            self.land(guest)
            guest.found["claim"] = claim  # what is there by now is our own
            action(guest)

    def arrive_through(self, head: Guest) -> None:
        """Try those that this machine can't get to through the head."""
        late = [guest for guest in self.guests if guest.kind in BY_THE_HEAD]
        if not late or not head.session:
            return
        self.tell("Trying through %s: %s" % (head.name, names(late)))
        first = {guest.name: guest.trouble for guest in late}
        for guest in late:
            guest.trouble = guest.kind = ""
        self.each(lambda guest: self.arrive(guest, head.session), late)
        for guest in late:
            if guest.kind:
                guest.trouble = "%s (nor through %s: %s)" % (first[guest.name], head.name, guest.trouble)

    def become(self, guest: Guest, as_head: bool, build: str = "") -> None:
        """Have skyq there: a newer one than this is left as it is, and `build` if it's given."""
        if guest.has_skyq and not as_head:
            return
        if guest.has_skyq:
            self.land(guest)  # a head needs more than was sent
        assert guest.landing
        guest.has_skyq = True
        there = build or guest.newer_build()
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


def names(guests: Sequence[Guest]) -> str:
    """Of all of them, or if there are many, of the first and the last."""
    found = [guest.name for guest in guests]
    return ", ".join(found) if len(found) <= 8 else "%s … %s (%d)" % (found[0], found[-1], len(found))
