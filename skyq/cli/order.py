"""What `exec` and `launch` have read, to be carried out on the head of the cluster."""

from __future__ import annotations

import os
from argparse import Namespace

from skyq.core.model import Task
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Bag(NamedTuple):
    """Files that come as one parcel."""

    target: str
    """Where they shall be seen; "": they are the folder that the job runs in."""
    own: int
    """How many of its items, the first ones, are the workdir's own; the others are file_mounts in it."""
    size: int
    """Bytes."""


class Order(NamedTuple):
    """A task and what to do about it."""

    task: Task
    uuid: str
    """Of the submit: the same one again is the same job."""
    launch: bool
    """As `launch` does it; else as `exec` does."""
    detach: bool = False
    quiet: bool = False
    yes: bool = False
    dryrun: bool = False
    bags: tuple[Bag, ...] = ()
    """What comes along from another machine; where the files are here, there are none."""
    announced: bool = False
    """Whether what the bags hold is said unasked, right behind the order: that saves a round trip."""

    @classmethod
    def of(cls, task: Task, found: Namespace, launch: bool) -> Order:
        """From the flags of either."""
        flags = found.detach, found.quiet, found.yes, found.dryrun
        return cls(task, os.urandom(12).hex() + "%08x" % 0, launch, *flags)  # see batch.uuid_of

    def packed(self) -> dict[str, Any]:
        """As a message, the task's secrets too."""
        from skyq.core import wiretask

        return {**self._asdict(), "task": wiretask.packed(self.task), "bags": list(map(list, self.bags))}

    @classmethod
    def unpacked(cls, message: dict[str, Any]) -> Order:
        """The order again, without what a newer side says beyond what is known here."""
        from skyq.core import wiretask

        known = {name: value for name, value in message.items() if name in cls._fields}
        bags = tuple(Bag(str(b[0]), int(b[1]), int(b[2])) for b in message.get("bags", []))
        return cls(**{**known, "task": wiretask.unpacked(message["task"]), "bags": bags})

    @property
    def has_files(self) -> bool:
        """Whether something must be brought along."""
        return bool(self.task.workdir is not None or self.task.git or self.task.file_mounts)
