"""How far a command has come in what it shows.

Over SSH a connection may be lost in the middle. What was printed since the last `keep()` is then printed
again on the next connection, what was printed before it is not. On one's own machine this means nothing.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeAlias

SUBMITTING, SYNCING, SUBMITTED, WAITING, STARTED, ENDED = 1, 2, 3, 4, 5, 6
"""The stages of `exec`, `launch` and `logs`, each with the lines that it begins with."""

AT_HEAD = "_SKYQ_AT_HEAD"
"""Set in the environment of an agent: from there no verb goes on to a third machine."""

Record: TypeAlias = "dict[str, Any]"


class Place:
    """What must be known to go on."""

    def __init__(self, record: Record, tell: Callable[[Record], None] | None = None) -> None:
        self.tell = tell
        self.stage = int(record.get("stage", 0))
        self.job = int(record.get("job", 0))
        self.uuid = str(record.get("uuid", ""))
        """Of the job: another one may have its number by then."""
        self.said = str(record.get("said", ""))
        """Why the job waits, as said last."""
        self.attempt = int(record.get("attempt", 0))
        """Of the job, that is being shown; 0: none yet."""
        self.offsets = {str(step): int(at) for step, at in record.get("offsets", {}).items()}
        """Step → how much of its log has been shown."""
        self.open = str(record.get("open", ""))
        """The step whose unfinished line is the last on the screen."""

    @property
    def resumed(self) -> bool:
        """Whether something was shown before."""
        return self.stage > 0

    def reach(self, stage: int) -> bool:
        """Whether the lines of this stage are still to be printed; they count as printed once kept."""
        if self.stage >= stage:
            return False
        self.stage = stage
        return True

    def next_attempt(self) -> None:
        """The attempt that was shown has ended, and another one will come."""
        self.stage, self.attempt = SUBMITTED, self.attempt + 1
        self.said, self.offsets, self.open = "", {}, ""

    def keep(self) -> None:
        """Here ends a piece: either the reader has all of it and this place, or neither."""
        sys.stdout.flush()
        if self.tell is not None:
            self.tell({name: value for name, value in vars(self).items() if name != "tell"})


_current = Place({})


def current() -> Place:
    """Of the command that this process runs."""
    return _current


def go_on(record: Record, tell: Callable[[Record], None]) -> None:
    """This process goes on from where another one was; `tell` gets each place that is kept."""
    global _current
    _current = Place(record, tell)
