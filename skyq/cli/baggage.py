"""The files that go along with a job from this machine to the head of a cluster elsewhere."""

from __future__ import annotations

import os
import stat
import sys

from skyq.cli import sync
from skyq.cli.order import Bag
from skyq.cli.progress import Progress
from skyq.client.files import Listing
from skyq.core.errors import SkyqError
from skyq.core.model import Task
from skyq.core.protocol import Message
from skyq.transport import parcel
from skyq.transport.parcel import Item

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

EARLY = 10_000  # entries that are announced unasked; see agent.PILE
EARLY_BAGS = 8


class Baggage:
    """Packed once; sent as often as the head asks for it. Raises TaskError for what can't be read."""

    def __init__(self, task: Task, yes: bool) -> None:
        self._packed: list[tuple[Bag, list[tuple[str, Item]]]] = []
        inside: list[tuple[str, Listing]] = []
        if task.workdir is not None:
            inside.append(("", sync.workdir_listing(task.workdir)))
        own = sum(len(listing.entries) for _, listing in inside)
        mounts = task.file_mounts.items()
        inside += [(sync.below(t), sync.mount_listing(s)) for t, s in mounts if not sync.is_outside(t)]
        outside = [
            (target, sync.mount_listing(source)) for target, source in mounts if sync.is_outside(target)
        ]
        listings = [listing for _, listing in (*inside, *outside)]
        sync.tell_size(listings)
        sync.ask_about_size(listings, yes)
        if inside:
            self._pack("", inside, own)
        for target, listing in outside:
            self._pack(target, [(parcel.MOUNT, listing)], 0)

    @property
    def announcement(self) -> bytes:
        """What all bags hold, to be said unasked; nothing where that is too much."""
        if len(self._packed) > EARLY_BAGS or sum(len(roots) for _, roots in self._packed) > EARLY:
            return b""
        return b"".join(frame for number in range(len(self._packed)) for frame in self._announced(number))

    def _announced(self, number: int) -> Iterator[bytes]:
        _, roots = self._packed[number]
        return parcel.announcement({"name": str(number)}, [item for _, item in roots], zipped=True)

    @property
    def bags(self) -> tuple[Bag, ...]:
        """What there is, for the head to ask for."""
        return tuple(bag for bag, _ in self._packed)

    def _pack(self, target: str, parts: list[tuple[str, Listing]], own: int) -> None:
        roots: dict[str, tuple[str, Item]] = {}
        for below, listing in parts:
            for entry in listing.entries:
                source = os.path.join(listing.root, entry.path) if entry.path else listing.root
                path = "/".join(part for part in (below, entry.path) if part)
                link = os.readlink(source) if stat.S_ISLNK(entry.mode) else ""
                roots[path] = source, Item(path, entry.mode, entry.size, entry.mtime_ns, link)
        items = list(roots.values())
        size = sum(item.size for _, item in items if stat.S_ISREG(item.mode))
        self._packed.append((Bag(target, own, size), items))

    def take(self, message: Message) -> Iterator[bytes] | None:
        """What the head asks for, as frames."""
        what = message.get("is")
        if what not in ("send", "lacks"):
            return None
        number = message.get("bag")
        if not isinstance(number, int) or not 0 <= number < len(self._packed):
            raise SkyqError("The head of the cluster asks for files that don't go along.")
        if what == "send":
            return self._announced(number)
        return self._contents(self._packed[number][1], message["files"])

    def _contents(self, roots: list[tuple[str, Item]], lacks: list[int]) -> Iterator[bytes]:
        known = [number for number in lacks if isinstance(number, int) and 0 <= number < len(roots)]
        progress = Progress(sum(roots[number][1].size for number in known))
        try:
            for frame in parcel.contents(roots, lacks):
                yield frame
                progress(len(frame))
        except OSError as error:
            raise SkyqError(
                "%s can't be read: %s. Nothing was submitted." % (error.filename, error.strerror)
            ) from None
        finally:
            progress.end()
            sys.stdout.flush()
