"""The dispatcher's end of the conversation with one node agent."""

from __future__ import annotations

import time

from skyq.core import protocol, replies
from skyq.core.errors import ProtocolError, Unreachable
from skyq.core.logtext import plain
from skyq.core.model import Node
from skyq.core.protocol import Message
from skyq.head.nodestate import CONNECTING, ENDING, UNREACHABLE
from skyq.transport.base import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Set, Tuple, TypeAlias

RETRY_FIRST = 0.1  # seconds before a lost connection is opened again; doubled up to RETRY_LAST
RETRY_LAST = 5.0  # seconds
CLAIM_AGAIN = 2.0  # seconds until a refused claim is asked for again
PING_EVERY = 5.0  # seconds
SILENCE = 20.0  # seconds without a word from the agent, after which the connection is dead


Key: TypeAlias = "Tuple[str, int, str]"
"""job uuid, attempt, step"""
Unwanted: TypeAlias = "Callable[[str, List[Key]], List[Key]]"
"""(node, what it still has something of) → what of that shall end before it gets work"""


class Link:
    """One node: connected or not, ready (claimed) or not, and what must be sent when."""

    def __init__(
        self, node: Node, claim: Message, connect: Callable[[Node], Channel], since: str = ""
    ) -> None:
        self.node = node
        self.since = since
        """Since when it is unreachable, for people; "": it isn't."""
        self.down_at: Optional[float] = None
        """The same, monotonic, as far back as this process knows."""
        self.losses = 0
        """Connections lost since somebody set this back to 0."""
        self.ungrouped: Optional[str] = None
        """Why the node has no cgroup for a job; "": it has one; None: it hasn't said."""
        self.unwanted: Unwanted = lambda name, keys: []
        self._trouble = CONNECTING
        self._strays: Set[Key] = set()
        self._claim = claim
        self._connect = connect
        self._channel: Optional[Channel] = None
        self._decoder = protocol.Decoder(replies.REPLY_LIMIT)
        self._outbox = bytearray()
        self._delay = RETRY_FIRST
        self._due = 0.0
        """When to connect, or to ask for the claim again; monotonic."""
        self._ping_at = 0.0
        self._heard_at = 0.0

    @property
    def trouble(self) -> str:
        """Why nothing may start on the node now, as what it is: "unreachable since …"; empty: it may."""
        return self._trouble or (ENDING if self._strays else "")

    @property
    def ready(self) -> bool:
        """Whether steps may be asked for."""
        return not self.trouble

    def fileno(self) -> Optional[int]:
        """Of the connection, if there is one."""
        return self._channel.fileno() if self._channel else None

    def wants_to_write(self) -> bool:
        """Whether bytes wait that the connection didn't take."""
        return bool(self._outbox)

    def keep_up(self, now: float) -> float:
        """Connect, ping or claim if it is time to; returns when to call again."""
        if self._channel is None:
            if now >= self._due:
                self._open(now)
            return self._due if self._channel is None else now
        patience = SILENCE if self._decoder.greeted else protocol.FIRST_WORD
        if now - self._heard_at > patience:
            self.lose("no word from the node for %d s" % patience)
            return self._due
        if now >= self._ping_at:
            self._ping_at = now + PING_EVERY
            self.say({"do": "ping"})
        if self._trouble and self._decoder.greeted and now >= self._due:
            self._due = now + CLAIM_AGAIN
            self.say({"do": "claim", **self._claim})
        return min(self._ping_at, self._due) if self._trouble else self._ping_at

    def _open(self, now: float) -> None:
        self._due = now + self._delay
        self._delay = min(self._delay * 2, RETRY_LAST)
        try:
            self._channel = self._connect(self.node)
        except (OSError, Unreachable) as error:
            self._is_down(str(error), now)
            return
        self._decoder = protocol.Decoder(replies.REPLY_LIMIT)
        self._outbox = bytearray(protocol.greeting())
        self._heard_at = now
        self._ping_at = now + PING_EVERY
        self.flush()

    def lose(self, why: str) -> None:
        """The connection is dead: what was asked must be asked again on the next one."""
        if self._channel:
            self._channel.close()
            self.losses += 1
        self._channel = None
        self._outbox.clear()
        self._strays.clear()
        self._is_down(why, time.monotonic())

    def _is_down(self, why: str, now: float) -> None:
        if self.down_at is None:
            self.down_at = now
        self.since = self.since or time.strftime("%Y-%m-%d %H:%M:%S")
        self._trouble = "%s%s: %s" % (UNREACHABLE, self.since, _line(why))

    def close(self, release: bool) -> None:
        """A proper end: the agent reads all that was said, then leaves."""
        if release and self.ready:
            self.say({"do": "release", "id": self._claim["id"]})
        if self._channel:
            self._channel.close()

    def say(self, message: Message) -> None:
        """Send one message, as soon as the connection takes it."""
        if self._channel:
            self._outbox += protocol.encode(message)
            self.flush()

    def flush(self) -> None:
        """Write what the connection takes now."""
        assert self._channel
        try:
            while self._outbox:
                taken = self._channel.write(bytes(self._outbox[: protocol.FRAME_LIMIT]))
                if not taken:
                    return
                del self._outbox[:taken]
        except (OSError, Unreachable) as error:
            self.lose("the connection broke (%s)" % error)

    def hear(self, now: float) -> List[Message]:
        """The messages that came; handles those about the connection itself."""
        assert self._channel
        try:
            data = self._channel.read()
            messages = replies.of_node(list(self._decoder.feed(data)))
        except BlockingIOError:
            return []  # it is being connected to
        except (OSError, ProtocolError, Unreachable) as error:
            self.lose(str(error))
            return []
        if not data:
            self.lose("the node agent ended")
            return []
        self._heard_at = now
        return [message for message in messages if not self._about_connection(message)]

    def _about_connection(self, message: Message) -> bool:
        what = message.get("is")
        if what == "hello":
            self.ungrouped = plain(message.get("ungrouped", "its skyq is older")[:200])
            self._end_strays(message.get("alive", []))
            self.say({"do": "claim", **self._claim})
        elif what == "claimed":
            self._trouble, self.since, self.down_at = "", "", None
            self._delay = RETRY_FIRST
        elif what == "refused":
            self._trouble = "not this queue's: " + _line(message.get("why", ""))
        elif what == "gone" and self._strays:
            self._strays.discard(key_of(message))
            return False
        else:
            return what not in replies.NEWS
        return True

    def _end_strays(self, alive: List[List[Any]]) -> None:
        """What the node has of jobs that ended without it, or that nobody knows, holds its devices."""
        keys = [(job, attempt, step) for job, attempt, step in alive]
        self._strays = set(self.unwanted(self.node.name, keys))
        for job, attempt, step in sorted(self._strays):
            self.say({"do": "stop", "job": job, "attempt": attempt, "step": step})


def _line(text: str) -> str:
    """The first line of what a node said, fit to be shown."""
    return plain(text.split("\n")[0][:500])


def key_of(message: Message) -> Key:
    """Of the step that a node tells about."""
    return message["job"], message["attempt"], message["step"]
