"""What `skyq doctor` finds out: one record for each thing it looks at."""

from __future__ import annotations

from skyq.core.typed import NamedTuple


class Finding(NamedTuple):
    """One line of the doctor's."""

    check: str
    """What was looked at, in one word."""
    ok: bool
    text: str
    """What is the case; more lines may follow the first."""
    todo: str = ""
    """What to type, or whom to ask, where it isn't ok."""
