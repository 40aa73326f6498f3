"""What a person's end and the terminal of a job say to each other, through whoever is between. Pure.

visitor → terminal                      terminal → visitor
  open    tty rows columns term           out   stream (bytes)
  in      (bytes)                         took  count
  eof                                     ended code stopped
  size    rows columns                    pong
  signal  number
  took    count
  ping

Frames as in protocol.py, without a greeting; `do` to the terminal, `is` from it. The first message is `open`:
with `tty` the program gets a terminal, else three pipes. `stopped`: skyq was told to end it.

In each direction about WINDOW bytes at most are on their way for which no `took` has come, but for what is
left when the program has ended. So nobody in between has to hold anything back, and a ping never waits behind
what a slow reader leaves.
"""

from __future__ import annotations

import re

from skyq.core.protocol import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WINDOW = 256 * 1024  # bytes
TOLD = WINDOW // 4  # bytes taken that are worth a `took`
PIECE = 32 * 1024  # bytes that are read at a time

TO_TERMINAL = frozenset({"open", "in", "eof", "size", "signal", "took", "ping"})
"""What a visitor says, by `do`."""
TO_VISITOR = frozenset({"out", "took", "ended"})
"""What a visitor hears, by `is`."""

_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,63}")


class Credit:
    """What one side has sent and the other hasn't taken yet."""

    def __init__(self) -> None:
        self.left = WINDOW
        """Bytes that may be sent now."""

    def sent(self, count: int) -> None:
        """So much is on its way."""
        self.left -= count

    def took(self, count: Any) -> None:
        """The other side has taken so much, as it says."""
        self.left = min(WINDOW, self.left + number(count, WINDOW))


class Debt:
    """What came, and was taken, and the other side hasn't been told of."""

    def __init__(self) -> None:
        self._count = 0

    def take(self, count: int) -> int:
        """So much was taken; how much the other side should be told of now, 0: nothing yet."""
        self._count += count
        if self._count < TOLD:
            return 0
        told, self._count = self._count, 0
        return told


def number(value: Any, most: int) -> int:
    """A number from 0 to `most`, whatever was sent."""
    fine = isinstance(value, int) and not isinstance(value, bool)
    return max(0, min(most, value)) if fine else 0


def term(message: Message) -> str:
    """The kind of terminal that a visitor has; "dumb" where it doesn't say."""
    word = message.get("term")
    return word if isinstance(word, str) and _TERM.fullmatch(word) else "dumb"
