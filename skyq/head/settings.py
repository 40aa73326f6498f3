"""What a cluster can be told: one row per setting. Kept in the queue; a dispatcher reads it on a wake-up."""

from __future__ import annotations

from skyq.core.errors import UsageError
from skyq.core.typed import NamedTuple
from skyq.core.words import duration, parsed_duration
from skyq.head import lookout, overtaking
from skyq.head.head import Head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Tuple

LOST_AFTER = 600.0  # seconds that a node is unreachable before the gangs on it fail


class Setting(NamedTuple):
    """A time, or one of a few words."""

    about: str
    default: float
    """Seconds."""
    may_be_never: bool
    words: Tuple[str, ...] = ()
    """What it may be instead of a time; the first one is the default."""


SETTINGS: Dict[str, Setting] = {
    overtaking.RESERVE_AFTER: Setting(
        "how long later jobs may overtake the first blocked one before a place is kept for it",
        overtaking.DEFAULT,
        may_be_never=True,
    ),
    "lost_after": Setting(
        "how long a node may be unreachable before the jobs fail that it runs together with others",
        LOST_AFTER,
        may_be_never=False,
    ),
    lookout.RULE: Setting(
        "what becomes of devices that processes of no job use: nothing new starts there, or they are ignored",
        0.0,
        may_be_never=False,
        words=(lookout.SKIP, lookout.IGNORE),
    ),
}


def shown(head: Head, name: str) -> str:
    """A setting as people write it."""
    value = head.store.get(name)
    if SETTINGS[name].words:
        return value or SETTINGS[name].words[0]
    return value if value == overtaking.NEVER else duration(float(value or SETTINGS[name].default))


def parsed(name: str, text: str) -> str:
    """As it is stored. Raises UsageError."""
    if name not in SETTINGS:
        raise UsageError("There is no setting %s. There are: %s." % (name, ", ".join(SETTINGS)))
    words = SETTINGS[name].words
    if words:
        if text not in words:
            raise UsageError("%s should be %s. Found: %s" % (name, " or ".join(words), text))
        return text
    never = SETTINGS[name].may_be_never
    if text == overtaking.NEVER and never:
        return text
    seconds = parsed_duration(text)
    if seconds is None:
        raise UsageError(
            "%s should be a time: 90s, 10m, 2h, 1d12h%s. Found: %s"
            % (name, ", or never" if never else "", text)
        )
    return str(seconds)


def change(head: Head, values: Dict[str, str]) -> None:
    """Set them, by parsed() values; "": back to what it is by default. The dispatcher is told."""
    with head.store.transaction():
        for name, value in values.items():
            head.store.set(name, value)
    head.wake()
