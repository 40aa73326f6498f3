"""A verb whose cluster's head is another machine: it is run there, and what it prints is printed here."""

from __future__ import annotations

import codecs
import os
import sys
import time

from skyq.cli import cluster
from skyq.cli.place import AT_HEAD
from skyq.client.remote import Conversation, ended
from skyq.core.errors import SkyqError, Unreachable
from skyq.core.logtext import Sanitiser
from skyq.core.protocol import Message
from skyq.core.typed import NamedTuple, Protocol
from skyq.transport.base import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, TypeAlias

    from skyq.client.wanted import Wanted

RESUMABLE = frozenset({"exec", "launch", "logs", "wait"})
"""These go on where they were when the connection was lost; of others it isn't known how far they came."""
NOT_BY_WAITING = frozenset({"auth", "host-key-unknown", "host-key-changed"})
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds between tries to connect again
PATIENCE_SUBMIT = 120.0  # seconds to connect again while it isn't known whether the job was queued
PATIENCE = 3600.0  # seconds to connect again to a job that goes on
FRUITLESS = 4  # connections in a row that are made and bring nothing
_ENVIRONMENT = ("TERM", "NO_COLOR", "SKYQ_GRACE_S", "SKYQ_DEBUG")


Take: TypeAlias = "Callable[[Message], str | Iterator[bytes] | None]"
"""Gets what isn't for the screen; its answer, or frames to send, where something is due."""


class Goods(NamedTuple):
    """What goes along with a verb, or comes of it, beside what is printed."""

    take: Take | None = None
    early: bytes = b""
    """Frames that go right behind the request; an order with some says "announced"."""


class Contact(NamedTuple):
    """How much may be done to reach a cluster."""

    create: bool = False
    """Make it of the pool of that name if there is none."""
    accept_new: bool = False
    """Take the host keys of machines that are met first without asking."""
    wanted: Wanted | None = None
    """Make it of these instead."""


class Output(Protocol):
    """Where goes what a verb prints."""

    def write(self, fd: int, data: bytes) -> None:
        """To standard output (1) or error (2)."""

    def flush(self) -> None:
        """Let it be seen."""

    def ask(self) -> str:
        """A line from the user; "" at the end of input."""


class Screen:
    """This process's own standard streams. A terminal gets no more than text, colours and cursor movement:
    nothing else of what it would obey or answer is another machine's to say.
    """

    def __init__(self) -> None:
        self._harmless: dict[int, tuple[codecs.IncrementalDecoder, Sanitiser]] = {}

    def write(self, fd: int, data: bytes) -> None:
        """See Output."""
        stream = sys.stderr if fd == 2 else sys.stdout
        if stream.isatty():
            decoder = codecs.getincrementaldecoder(stream.encoding)("replace")
            decoder, sanitiser = self._harmless.setdefault(fd, (decoder, Sanitiser()))
            data = sanitiser.feed(decoder.decode(data).encode()).decode().encode(stream.encoding, "replace")
        stream.buffer.write(data)

    def flush(self) -> None:
        """See Output."""
        sys.stdout.flush()
        sys.stderr.flush()

    def ask(self) -> str:
        """See Output."""
        return sys.stdin.readline()


class Kept:
    """What one of several verbs at once prints, until it is its turn."""

    def __init__(self) -> None:
        self.text = {1: bytearray(), 2: bytearray()}

    def write(self, fd: int, data: bytes) -> None:
        """See Output."""
        self.text[2 if fd == 2 else 1] += data

    def flush(self) -> None:
        """See Output."""

    def ask(self) -> str:
        """Nobody is asked."""
        return ""


def run(
    name: str,
    verb: str,
    words: list[str],
    order: Message | None = None,
    contact: Contact = Contact(),  # noqa: B008
    goods: Goods = Goods(),  # noqa: B008
) -> int:
    """Run a verb on the head of a cluster; returns its exit code.

    `order`: what the verb is to do beyond its words. Raises Unreachable where the head can't be reached,
    SkyqError where there is no such cluster.
    """
    return Command(name, request(verb, words, order), goods).run(contact)


def request(verb: str, words: list[str], order: Message | None) -> Message:
    """What an agent is told first."""
    from skyq.cli.user import user

    return {
        "do": "verb",
        "verb": verb,
        "words": words,
        "order": order,
        "user": user(),
        "tty": [bool(stream and stream.isatty()) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "columns": _columns(),
        "encoding": sys.stdout.encoding,
        "env": {variable: os.environ[variable] for variable in _ENVIRONMENT if variable in os.environ},
    }


def _columns() -> int:
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 0


class Command:
    """One verb, over as many connections as it takes."""

    def __init__(self, name: str, request: Message, goods: Goods, out: Output | None = None) -> None:
        self.name = name
        self.request = request
        self.take, self.early = goods
        self.out = out or Screen()
        self.held: list[tuple[int, bytes]] = []
        """Printed there, but not yet known as a whole: it would come again on the next connection."""
        self.fruitless = 0

    def run(self, contact: Contact) -> int:
        """To its end; the exit code."""
        stream = _connect(self.name, contact)
        while True:
            try:
                return self.converse(stream)
            except Unreachable as error:
                stream = self.connect_again(error)

    def converse(self, stream: Stream) -> int:
        """On one connection to the end of the verb."""
        self.fruitless += 1
        conversation = Conversation(self.name, stream, self.request, self.early)
        try:
            for messages in conversation.messages():
                for message in messages:
                    code = self.hear(message, conversation)
                    if code is not None:
                        return code
                self.out.flush()
            raise ended(self.name, conversation)
        finally:
            conversation.close()

    def hear(self, message: Message, conversation: Conversation) -> int | None:
        """One message; the exit code if it is the last one."""
        what = message.get("is")
        if "fd" in message:
            self.held.append((message["fd"], message["data"]))
            if self.request["verb"] not in RESUMABLE:
                self.release()
        elif what == "at":
            self.fruitless = 0
            self.request["place"] = message["place"]
            self.release()
        elif what == "ask":
            self.release()
            self.out.flush()
            conversation.answer(self.out.ask())
        elif what == "exit":
            self.release()
            self.out.flush()
            code: int = message["code"]
            return code
        elif self.take is not None:
            self.fruitless = 0
            reply = self.take(message)
            if isinstance(reply, str):
                conversation.answer(reply)
            elif reply is not None:
                conversation.send(reply)
        return None

    def release(self) -> None:
        """Show what is known as a whole."""
        for fd, data in self.held:
            self.out.write(fd, data)
        self.held.clear()

    def connect_again(self, error: Unreachable) -> Stream:
        """A new connection instead of one that was lost; or the error, where none comes."""
        if self.request["verb"] not in RESUMABLE or self.fruitless >= FRUITLESS:
            raise error
        self.held.clear()
        self.out.flush()
        if self.early:
            self.early = b""  # the job may be there already
            self.request["order"]["announced"] = False
        what = str(error).splitlines()[0].rstrip(".")
        print("%s. %sConnecting again ..." % (what, self.meanwhile()), file=sys.stderr, flush=True)
        deadline, pause = time.monotonic() + (PATIENCE if self.job() else PATIENCE_SUBMIT), FIRST_PAUSE
        while True:
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            try:
                return _connect(self.name, Contact())
            except Unreachable as again:
                if again.kind in NOT_BY_WAITING or time.monotonic() > deadline:
                    raise Unreachable("%s\n%s" % (again, self.afterwards()), again.kind) from None

    def job(self) -> int:
        """The number of the job that this is about, if that is known."""
        return int(self.request.get("place", {}).get("job", 0))

    def meanwhile(self) -> str:
        """What becomes of the job."""
        if self.job():
            return "Job %d goes on. " % self.job()
        return "Whether the job was queued isn't known yet. " if self.request["order"] else ""

    def afterwards(self) -> str:
        """What to type instead."""
        if self.job():
            return "Job %d goes on. To follow it again: skyq logs %s %d" % (self.job(), self.name, self.job())
        return "Whether the job was queued isn't known: skyq queue %s" % self.name


def _connect(name: str, contact: Contact) -> Stream:
    if os.environ.get(AT_HEAD):
        raise SkyqError(
            "Cluster '%s' does not exist on %s, where its head was. Type `skyq down %s` to forget it."
            % (name, os.uname().nodename, name)
        )
    return cluster.agent_stream(name, contact.create, contact.accept_new, wanted=contact.wanted)


# Several clusters at once.


class Answer(NamedTuple):
    """What one cluster's head had to say."""

    code: int
    out: bytes = b""
    err: bytes = b""
    error: SkyqError | None = None
    """Why it could not be asked."""


class Asked:
    """A verb that runs on the heads of several clusters at once, for each with its own name."""

    def __init__(self, names: list[str], verb: str, options: list[str]) -> None:
        import threading

        self._answers: dict[str, Answer] = {}
        self._threads = {}
        for name in names:
            words = name, request(verb, [name, *options], None)
            self._threads[name] = threading.Thread(target=self._ask, args=words, daemon=True)
            self._threads[name].start()

    def answer(self, name: str) -> Answer | None:
        """What one of them said, once it has; None for a cluster that wasn't asked."""
        if name not in self._threads:
            return None
        self._threads[name].join()
        return self._answers[name]

    def _ask(self, name: str, request: Message) -> None:
        kept = Kept()
        try:
            code = Command(name, request, Goods(), kept).run(Contact())
            self._answers[name] = Answer(code, bytes(kept.text[1]), bytes(kept.text[2]))
        except SkyqError as error:
            self._answers[name] = Answer(1, error=error)
        except Exception as error:  # told like any error, beside the answers of the others
            self._answers[name] = Answer(1, error=SkyqError("%s: %s" % (type(error).__name__, error)))
