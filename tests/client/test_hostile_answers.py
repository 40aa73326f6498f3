"""A host or a head that lies: an error in words, nothing written, no other host harmed."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest

from skyq.cli.fetch import Down
from skyq.client import landing
from skyq.client.guest import Guest
from skyq.client.landing import LANDING, NO_PYTHON, Landing, Unfit
from skyq.client.remote import Conversation
from skyq.core.errors import ProtocolError, SkyqError, Unreachable
from skyq.core.host import Host
from skyq.core.model import Node, Reach
from skyq.core.protocol import HEADER, LAST, Message, encode, encode_data, greeting
from skyq.head.founding import _without_others_addresses
from tests.client.said import Said

FACTS = {
    "python": [3, 11, 2],
    "tag": "cpython-311-linux-x86_64",
    "lacks": [],
    "hostname": "node1",
    "user": "ada",
    "root": "/home/ada/.skyq",
    "usual": True,
    "builds": [],
    "ssh": "10.0.0.9 50000 10.0.0.1 22",
    "claim": None,
    "machine": "x",
}


def hello(facts: object) -> Landing:
    return Landing("node1", Said([LANDING.encode() + json.dumps(facts).encode() + b"\n"]))


def test_the_truth_is_taken() -> None:
    assert hello({**FACTS, "something new": 1}).hello()["user"] == "ada"


@pytest.mark.parametrize(
    "facts",
    [
        [1],
        5,
        {},
        {**FACTS, "python": "3"},
        {**FACTS, "lacks": None},
        {**FACTS, "builds": [{}]},
        {**FACTS, "claim": []},
        {**FACTS, "usual": "no"},
        *({**FACTS, "hostname": name} for name in ("*", "a b", "a\nb", "-oProxyCommand=x", "", "a,b", "!a")),
        *({**FACTS, "ssh": text} for text in ("a 1 * 22", "a 1 b\n 22", "1", "a 1 -x 22 5")),
    ],
)
def test_facts_that_make_no_sense_turn_the_host_away(facts: object) -> None:
    with pytest.raises(Unfit, match="node1: it answered what can't be understood"):
        hello(facts).hello()


def test_a_line_that_is_nested_without_end_turns_the_host_away() -> None:
    with pytest.raises(Unfit, match="can't be understood"):
        Landing("node1", Said([LANDING.encode() + b"[" * 100_000 + b"\n"])).hello()


def test_a_host_without_python_may_talk_without_end() -> None:
    with pytest.raises(Unfit, match="there is no python3"):
        Landing("node1", Said(itertools.chain([NO_PYTHON.encode()], itertools.repeat(b"x" * 60_000)))).hello()


def asked(*answers: Message) -> Landing:
    """At the point where skyq runs there."""
    found = Landing("node1", Said(encode(answer) for answer in answers))
    list(found.decoder.feed(greeting()))
    return found


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("facts", {}),
        ("facts", {"devices": [[0, "H100"]], "cpus": 1, "memory": 1, "token": "t"}),
        ("facts", {"devices": [["0", "H100", ""]], "cpus": 1, "memory": 1, "token": "t"}),
        ("facts", {"devices": [], "cpus": 1e300, "memory": 1, "token": "t"}),
        ("facts", {"devices": [], "cpus": 1, "memory": 1, "token": ["t"]}),
        ("launcher", {"launcher": None}),
        ("nodes", {"nodes": ["-oProxyCommand=x"]}),
        ("join", {"met": {"node1": 5}}),
        ("leave", {"kept": [["/x", "1"]]}),
        (
            "found",
            {"id": "1", "key": "ssh-ed25519 AAAA\nssh-rsa B", "state_dir": "", "nodes": [], "hostname": "a"},
        ),
        ("found", {"id": "1\n2", "key": "ssh-ed25519 AAAA", "state_dir": "", "nodes": [], "hostname": "a"}),
    ],
)
def test_an_answer_that_makes_no_sense_turns_the_host_away(what: str, answer: Message) -> None:
    with pytest.raises(SkyqError, match="can't be understood"):
        asked({**answer, "is": "done"}).ask(what, {})


def test_who_beats_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "PATIENCE", 0.0)
    beats = Landing("node1", Said(itertools.repeat(encode({"is": "beat"}))))
    list(beats.decoder.feed(greeting()))

    with pytest.raises(Unreachable):
        beats.ask("facts", {})


def guest(ip: str, hostname: str, itself: str) -> Guest:
    found = Guest(Host(ip))
    found.session = SimpleNamespace(  # type: ignore[assignment]
        peer=ip, target=SimpleNamespace(port=22), host_keys="ssh-ed25519 KEY"
    )
    found.found = {**FACTS, "hostname": hostname, "ssh": "10.0.0.9 50000 %s 22" % itself}
    found.facts = {"devices": [], "cpus": 1000, "memory": 1}
    return found


def test_a_hosts_key_is_not_trusted_for_another_hosts_address() -> None:
    honest, liar = guest("10.0.0.1", "node1", "10.0.0.1"), guest("10.0.0.2", "10.0.0.1", "10.0.0.1")

    assert liar.as_worker([honest])["at"] == [("10.0.0.2", 22)]
    assert honest.as_worker([liar])["at"] == [("10.0.0.1", 22), ("node1", 22)]


def test_nor_for_the_address_of_a_node_that_was_there_before() -> None:
    known = [Node("a", 1, (), 1, 1, "", "10.0.0.1", Reach("nodea", 22, "ada"))]
    places = [["10.0.0.1", 22], ["nodea", 22], ["10.0.0.2", 22]]
    new, same = {"name": "b", "at": places}, {"name": "a", "at": places}

    assert [each["at"] for each in _without_others_addresses([new, same], known)] == [places[2:], places]


# The head of a cluster.


@pytest.mark.parametrize(
    "frame",
    [
        encode({"fd": 1}),
        encode({"fd": 1, "data": "text"}),
        encode_data({"fd": 77}, b"x"),
        encode_data({"fd": "1"}, b"x"),
        encode({"is": "exit"}),
        encode({"is": "exit", "code": "0"}),
        encode({"is": "exit", "code": 1 << 40}),
        encode({"is": "at", "place": []}),
        encode({"is": "at", "place": {"job": {}}}),
        encode({"is": "at", "place": {"job": float("inf")}}),
        HEADER.pack(LAST, 2) + b"[]",
        HEADER.pack(LAST, 1 << 31),
        HEADER.pack(LAST, 60_000) + b"[" * 60_000,
    ],
)
def test_what_a_head_says_that_makes_no_sense_is_an_error_in_words(frame: bytes) -> None:
    conversation = Conversation("lab", Said([greeting(), frame]), {})
    try:
        with pytest.raises(ProtocolError, match="The other side"):
            list(conversation.messages())
    finally:
        conversation.close()


@pytest.mark.parametrize(
    "message",
    [
        {"is": "job"},
        {"is": "job", "folder": "1-x", "mark": "m", "files": [["run.log", float("inf")]]},
        {"is": "job", "folder": "1-x", "mark": "m", "files": [5]},
        {"is": "job", "folder": "1-x", "mark": "m", "files": 5},
        {"is": "job", "folder": "../1-x", "mark": "m", "files": []},
        {"is": "file", "path": "../x", "offset": 0, "size": 1},
        {"is": "file", "path": "x", "offset": 0, "size": 1},
        {"is": "fetched"},
        {"offset": 0, "data": b"x"},
    ],
)
def test_logs_that_make_no_sense_are_an_error_in_words(
    message: Message, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    down = Down("lab")
    try:
        with pytest.raises(SkyqError):
            down.take(message)
    finally:
        down.close()
