"""The wire, both ways: whatever another machine says, the one documented error or nothing; and nothing is
written but where it may be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.cli.remote import Command, Goods, Kept
from skyq.client.fetch import Receiver
from skyq.client.landing import LANDING, Landing
from skyq.client.remote import Conversation
from skyq.core import protocol, states, wiretask
from skyq.core.errors import ProtocolError, SkyqError, Unreachable
from skyq.core.model import UNIT, Device, Grant, Node, Reach, Request, Task
from skyq.core.protocol import DATA, HEADER, LAST, PART, ZIPPED, Message, encode, encode_data, greeting
from skyq.head import specs
from skyq.head.board import Board
from skyq.head.pulls import Pulls, Source
from skyq.store.store import NewJob, Store
from skyq.transport.parcel import Parcel
from tests.client.said import Said
from tests.client.test_hostile_answers import FACTS
from tests.fuzz.trees import HUGE, ODD_TEXTS
from tests.head.test_links import linked

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | HUGE | st.floats() | ODD_TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def nearly(draw: st.DrawFn, **fields: Any) -> Message:
    """A message with these fields, of which up to two are something else, or missing."""
    message = {name: draw(st.sampled_from(values)) for name, values in fields.items()}
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        name = draw(st.sampled_from(sorted(fields)))
        message.pop(name, None)
        if draw(st.booleans()):
            message[name] = draw(JSON)
    return message


@st.composite
def streams(draw: st.DrawFn, messages: st.SearchStrategy[Message]) -> list[bytes]:
    """What comes, in pieces: messages as frames of every kind, with a byte changed, or none at all."""
    data = bytearray(greeting())
    for message in draw(st.lists(messages, min_size=1, max_size=6)):
        how = draw(st.sampled_from(["frame", "frame", "frame", "data", "data", "raw"]))
        if how == "data" and len(json.dumps(message)) < 60_000:
            data += encode_data(message, b"bytes\n")
        elif how == "raw":
            body = draw(st.binary(max_size=20) | st.just(json.dumps(message).encode()))
            data += HEADER.pack(draw(st.sampled_from([LAST, PART, DATA, ZIPPED, 0, 7])), len(body)) + body
        else:
            data += encode(message)
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)))
    return [bytes(data[:cut]), bytes(data[cut:])]


# A node, to the dispatcher.

UUID = "u" * 32
FROM_NODE = nearly(
    **{
        "is": [
            "hello",
            "claimed",
            "refused",
            "running",
            "exited",
            "gone",
            "late",
            "prepared",
            "log",
            "log",
            "grew",
            "log-end",
        ]
    },
    job=[UUID, "other"],
    attempt=[1],
    step=["run-0", "run-1", "setup-0"],
    code=[0, 1],
    why=["because"],
    stopped=[True],
    unstarted=[True],
    pid=[77],
    offset=[0, 6],
    size=[0, 6, 12],
    alive=[[[UUID, 1, "run-0"]]],
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A job of two ranks that runs, on node0 and node1."""
    found = Store.open(str(tmp_path_factory.mktemp("wire") / "queue.db"))
    devices = (Device(0, "H100"),)
    task = Task(num_nodes=2, run="x", alternatives=(Request("H100", UNIT),))
    with found.transaction():
        found.set_nodes(
            Node(
                "node%d" % index,
                index,
                devices,
                8000,
                16000,
                "",
                "10.0.0.%d" % index,
                Reach("nowhere", 22, "a"),
            )
            for index in range(3)
        )
        new = NewJob(UUID, None, "me", 1.0, 2, task.alternatives, 0, False, "", specs.stored(task))
        job = found.job(found.submit(new))
        assert job
        grants = [Grant("node%d" % rank, rank, ((0, UNIT),), 500, 0) for rank in range(2)]
        found.move(job, states.RUNNING, 2.0, started_at=2.0, alternative=0, attempt=1, grants=grants)
    yield found
    found.close()


@given(streams(FROM_NODE), st.sampled_from(["node0", "node1", "node2"]))
def test_what_a_node_says_concerns_its_own_steps_or_nothing(
    store: Store, pieces: list[bytes], node: str
) -> None:
    board = Board()
    board.nodes = {each.name: each for each in store.nodes()}
    board.refresh(store)
    (job,) = board.jobs.values()
    with TemporaryDirectory() as folder:
        pulls = Pulls()
        for rank in range(2):
            path = os.path.join(folder, "tasks", "%d.log" % rank)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            pulls.wish(Source(1, UUID, 1, "run-%d" % rank, "node%d" % rank, path, True, 2))
        link, quiet = linked()
        for piece in pieces:
            quiet.said = piece
            for message in link.hear(1.0) if quiet.open and piece else ():
                if not pulls.hear(node, message):
                    board.hear(node, message)
        board.verdict(job)
        assert all(
            board.node_of(job, step) == node for step in [*board.phases[job.id], *board.pids.get(job.id, ())]
        )
        written = {path.name: path.stat() for path in Path(folder).rglob("*") if path.is_file()}
        assert set(written) <= {"run.idx", "%s.log" % node[-1]}
        assert all(seen.st_size <= 4096 for seen in written.values())
    assert link.trouble.isprintable() and len(link.trouble) < 700


# A head, to the command line.

FROM_HEAD = nearly(
    **{"is": ["at", "ask", "exit", "pong", "send", "lacks", "job", "file", "fetched"]},
    fd=[1, 2],
    place=[{"job": 1}],
    code=[0, 100],
    bag=[0],
    files=[[0], [["run.log", 6]]],
)


@given(streams(FROM_HEAD))
def test_what_a_head_says_is_shown_or_an_error(pieces: list[bytes]) -> None:
    command = Command("lab", {"verb": "queue", "words": []}, Goods(), Kept())
    conversation = Conversation("lab", Said([piece for piece in pieces if piece]), {})
    try:
        for messages in conversation.messages():
            for message in messages:
                command.hear(message, conversation)
                command.job()
    except (ProtocolError, Unreachable):
        pass
    finally:
        conversation.close()


NAMES = [
    "run.log",
    "tasks/0-head.log",
    "../x",
    "/etc/x",
    ".skyq-job",
    "a/" * 9 + "b",
    "\x1b]0;x\a",
    "x" * 300,
]
FOLDERS = ["1-x", "1-x", "1-", "../1-y", "1-x/../../y", "", "x"]
JOB = nearly(
    **{"is": ["job"]},
    id=[1],
    folder=FOLDERS,
    mark=["m"],
    files=[[[name, 6] for name in NAMES[:2]], [["../x", 6]]],
)
FILE = nearly(**{"is": ["file"]}, path=[*NAMES[:2], *NAMES], offset=[0, 6], size=[6, 12])
PIECE = nearly(offset=[0, 6], data=[b"bytes\n"])
ENDED = nearly(**{"is": ["fetched"]}, id=[1], steps=[[]], index=["run.idx"])
LOGS = st.tuples(JOB, FILE, PIECE, FILE, PIECE, ENDED).map(list) | st.lists(
    JOB | FILE | PIECE | ENDED, max_size=6
)


@given(LOGS)
def test_fetched_logs_are_written_nowhere_else(messages: list[Message]) -> None:
    with TemporaryDirectory() as folder:
        root, canary = Path(folder, "logs"), Path(folder, "x")
        canary.write_text("mine")
        receiver = Receiver(str(root), lambda *_: None)
        try:
            for message in messages:
                receiver.take(message)
        except (SkyqError, KeyError, TypeError, ValueError, ArithmeticError):
            pass  # cli/fetch.py makes one sentence of the latter
        finally:
            receiver.close()
        assert {path.name for path in Path(folder).iterdir()} <= {"logs", "x"}
        assert canary.read_text() == "mine"
        assert {path.name for path in root.iterdir()} <= {"1-x", "1-"} if root.exists() else True
        assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 1 << 20


@given(nearly(**{name: [value] for name, value in FACTS.items()}))
def test_what_a_host_says_of_itself_is_facts_or_a_refusal(facts: Message) -> None:
    try:
        found = Landing("node1", Said([LANDING.encode() + json.dumps(facts).encode() + b"\n"])).hello()
    except SkyqError as error:
        assert str(error).startswith("node1: ")
        return
    assert set(FACTS) - {"ssh", "claim", "machine"} <= set(found)


# A parcel, to whoever takes it.

PATHS = st.sampled_from(["a", "a/a", "a/b", "b", "a/a/b", "../outside/b", "../x", "OUTSIDE/b"])
TYPES = st.sampled_from([0o100644, 0o40755, 0o120777, 0o104755, 0o47777, 0o20666, 0o10666, 0o140666])
TARGETS = st.sampled_from(["OUTSIDE", "OUTSIDE", "a", "..", ""])
ENTRY = st.tuples(PATHS, TYPES, st.sampled_from([4, 9]), st.just(9), TARGETS).map(list)
ODD_PATHS = PATHS | st.sampled_from(["", ".", "a\0", "a//b", "a/" * 600])
ODD_ENTRY = st.tuples(ODD_PATHS, TYPES | HUGE, HUGE | st.just(4), HUGE | st.just(4), TARGETS).map(list)
ENTRIES = (
    st.lists(ENTRY, max_size=4) | st.lists(ENTRY, max_size=4) | st.lists(ENTRY | ODD_ENTRY | JSON, max_size=4)
)
NUMBERED = st.just([(number, 0) for number in range(5)])
PIECES = NUMBERED | st.lists(
    st.tuples(st.integers(-1, 5), st.just(0) | st.integers(-1, 9) | HUGE), max_size=4
)


@given(ENTRIES, ENTRIES, PIECES, st.booleans())
def test_a_parcel_changes_nothing_outside(
    entries: list[Any], late: list[Any], pieces: list[tuple[int, int]], links_there: bool
) -> None:
    with TemporaryDirectory() as folder:
        root, outside = Path(folder, "root"), Path(folder, "outside")
        (outside / "a").mkdir(parents=True, mode=0o700)
        (outside / "b").write_text("mine")
        root.mkdir()
        if links_there:
            (root / "a").symlink_to(outside)
        before = [
            (path, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in sorted(outside.rglob("*"))
        ]
        aimed = [
            [e.replace("OUTSIDE", str(outside)) if isinstance(e, str) else e for e in x]
            if isinstance(x, list)
            else x
            for x in (*entries, *late)
        ]
        parcel = Parcel(str(root), "", {})
        try:
            parcel.announced(aimed[: len(entries)])
            parcel.lacks()
            parcel.announced(aimed[len(entries) :])
            for number, at in pieces:
                parcel.bytes(number, at, b"lies")
            parcel.finish()
        except (ProtocolError, OSError, UnicodeError):
            pass
        finally:
            parcel.abandon()
        assert [
            (path, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in sorted(outside.rglob("*"))
        ] == before
        assert (outside / "b").read_text() == "mine"
        assert {path.name for path in Path(folder).iterdir()} == {"root", "outside"}
        assert not any(path.lstat().st_mode & 0o6000 for path in root.rglob("*"))


# A client, to the agent on a head.


@given(nearly(**{name: [value] for name, value in wiretask.packed(Task(run="x")).items()}))
def test_a_task_that_came_is_a_task_or_a_protocol_error(message: Message) -> None:
    try:
        assert isinstance(wiretask.unpacked(message), Task)
    except ProtocolError:
        pass


@given(
    st.lists(
        st.binary(max_size=100)
        | st.builds(
            lambda kind, size, body: HEADER.pack(kind, size) + body,
            st.integers(0, 6),
            st.integers(0, 70_000),
            st.binary(max_size=60),
        ),
        max_size=6,
    )
)
def test_a_decoder_holds_no_more_than_its_limit(pieces: list[bytes]) -> None:
    decoder = protocol.Decoder(limit=50)
    try:
        list(decoder.feed(greeting()))
        for piece in pieces:
            assert all(isinstance(message, dict) for message in decoder.feed(piece))
            assert len(decoder._parts) <= 50
    except ProtocolError:
        pass
