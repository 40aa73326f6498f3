"""The dispatcher's end of a connection, over one that only says what it is told to."""

from __future__ import annotations

from skyq.core import protocol
from skyq.core.model import Node
from skyq.head.links import SILENCE, Link
from skyq.head.nodestate import CONNECTING, UNREACHABLE


class Quiet:
    """A connection that takes all, and says what stands in `said`."""

    def __init__(self) -> None:
        self.said = b""
        self.open = True

    def fileno(self) -> int:
        return 0

    def read(self) -> bytes:
        if not self.said:
            raise BlockingIOError
        said, self.said = self.said, b""
        return said

    def write(self, data: bytes) -> int:
        return len(data)

    def close(self) -> None:
        self.open = False


def linked() -> tuple[Link, Quiet]:
    quiet = Quiet()
    link = Link(Node("node1", 1, (), 1000, 1000), {"id": "1"}, lambda _: quiet)
    link.keep_up(0.0)
    return link, quiet


def test_a_login_shell_may_be_slow_before_the_first_word() -> None:
    link, quiet = linked()
    link.keep_up(protocol.FIRST_WORD - 1)
    assert link.trouble == CONNECTING and quiet.open
    link.keep_up(protocol.FIRST_WORD + 1)
    assert link.trouble.startswith(UNREACHABLE) and not quiet.open


def test_who_has_spoken_is_not_silent_for_long() -> None:
    link, quiet = linked()
    quiet.said = protocol.greeting() + protocol.encode({"is": "pong"})
    link.hear(1.0)
    link.keep_up(SILENCE)
    assert quiet.open
    link.keep_up(SILENCE + 2)
    assert not quiet.open
