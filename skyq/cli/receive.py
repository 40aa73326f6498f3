"""On the head: the files of a job that was typed on another machine. Only what lacks here is asked for."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack

from skyq.cli import place, sync
from skyq.cli.render import Style
from skyq.core.logtext import plain
from skyq.core.typed import NamedTuple, Protocol
from skyq.head import workdirs
from skyq.head.head import Head
from skyq.transport.parcel import Parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

    from skyq.cli.order import Bag, Order
    from skyq.core.protocol import Message

GOT_EVERY = 2.0  # seconds


class Sender(Protocol):
    """The machine where it was typed, which has the files."""

    def tell(self, message: Message) -> None:
        """Say what is wanted, or that something came."""

    def next(self) -> Message:
        """Wait for the next message of a parcel."""


class _Room(NamedTuple):
    """Where a bag goes."""

    bag: Bag
    target: str
    """Where it will be shown, for a file_mount beside the job's folder."""
    copy: workdirs.Copy
    parcel: Parcel


def receive(head: Head, order: Order, sender: Sender) -> workdirs.Copy:
    """sync.prepare() for files that are elsewhere."""
    style = Style.of(sys.stdout.isatty(), os.environ)
    task = order.task
    given = task.workdir if task.git is None else task.git.url.rpartition("@")[2]
    at = place.current()
    if at.reach(place.SYNCING):
        print(style.started("Syncing files."))
        if given is not None:
            text = "  Syncing workdir (to %d node%s): %s -> ~/sky_workdir"
            print(text % (*sync.nodes_text(head), plain(given)))
        at.keep()
    for bag in order.bags:
        if bag.target:
            workdirs.check_mount(head.where, sync.outside(bag.target))
    sync.check_room(head, sum(bag.size for bag in order.bags))
    try:
        copy = _received(head, order, sender)
    except OSError as error:
        raise sync.not_made(head, error) from None
    print(style.finished("Synced file_mounts." if given is None else "Synced workdir."))
    return copy


def _received(head: Head, order: Order, sender: Sender) -> workdirs.Copy:
    base, git = workdirs.adopt(head.where), order.task.git
    with ExitStack() as until_kept:
        copy = until_kept.enter_context(workdirs.Copy(head.where, order.uuid))
        if git is not None:
            copy.fetch(git.url, git.ref)
        rooms = []
        for number, bag in enumerate(order.bags):
            target, into, former = "", copy, base
            if bag.target:
                target = sync.outside(bag.target)
                mount = workdirs.Copy(head.where, "%s-mount-%d" % (order.uuid, number))
                into, former = until_kept.enter_context(mount), workdirs.mounted(head.where, target)
            rooms.append(_Room(bag, target, into, into.parcel(former)))
        parcels = [room.parcel for room in rooms]
        _hear_what_they_hold(parcels, sender, order.announced)
        _fill(parcels, sender)
        for room in rooms:
            room.copy.take(room.parcel, room.bag.own)
        copy.keep(base)
        for room in rooms:
            if room.target:
                room.copy.keep("", room.target)
                room.copy.show_at(room.target)
    return copy


def _hear_what_they_hold(parcels: Sequence[Parcel], sender: Sender, unasked: bool) -> None:
    if not unasked:
        for number in range(len(parcels)):
            sender.tell({"is": "send", "bag": number})
    for parcel in parcels:
        last = False
        while not last:
            message = sender.next()
            if message["do"] == "entries":
                parcel.announced(message["entries"])
                last = bool(message.get("last"))


def _fill(parcels: Sequence[Parcel], sender: Sender) -> None:
    """Everything is asked for at once, and nothing where nothing lacks: a round trip is all that it costs."""
    lacking = []
    for number, parcel in enumerate(parcels):
        lacks = parcel.lacks()
        if lacks:
            sender.tell({"is": "lacks", "bag": number, "files": lacks})
            lacking.append(parcel)
    told = time.monotonic()
    for parcel in lacking:
        while (message := sender.next())["do"] != "parcel-end":
            parcel.bytes(int(message["n"]), int(message["at"]), message["data"])
            if time.monotonic() > told + GOT_EVERY:  # the sender may have given all away, and still wait long
                told = time.monotonic()
                sender.tell({"is": "got"})
