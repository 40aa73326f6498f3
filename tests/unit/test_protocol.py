"""Framing: what one end says arrives whole, however it is cut; and who says anything else is refused."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core.errors import ProtocolError
from skyq.core.protocol import (
    DATA,
    DATA_HEADER,
    FRAME_LIMIT,
    HEADER,
    LAST,
    MESSAGE_LIMIT,
    NOISE_LIMIT,
    PART,
    ZIPPED,
    Decoder,
    Message,
    encode,
    encode_data,
    encode_zipped,
    greeting,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=6)
NOISE = st.binary(max_size=200).filter(lambda noise: b"skyq-protocol " not in noise)


def heard(pieces: Iterable[bytes]) -> list[Message]:
    """What a fresh decoder makes of these pieces."""
    decoder = Decoder()
    return [message for piece in pieces for message in decoder.feed(piece)]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The same bytes in pieces."""
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in zip(at, at[1:])]


def frame(body: bytes, kind: int = LAST) -> bytes:
    """One frame, whatever it holds."""
    return HEADER.pack(kind, len(body)) + body


# What arrives.


@given(NOISE, MESSAGES, st.lists(st.integers(0, 2**20), max_size=12))
def test_messages_arrive_in_order_however_they_are_cut(
    noise: bytes, messages: list[Message], places: list[int]
) -> None:
    data = noise + greeting() + b"".join(map(encode, messages))

    assert heard(cut(data, places)) == messages


@given(st.sampled_from([-2, -1, 0, 1, FRAME_LIMIT, 3 * FRAME_LIMIT]), st.lists(st.integers(0, 2**20)))
def test_a_message_longer_than_a_frame_arrives_whole(beyond: int, places: list[int]) -> None:
    message = {"text": "x" * (FRAME_LIMIT - len('{"text":""}') + beyond)}

    assert heard(cut(greeting() + encode(message) + encode({}), places)) == [message, {}]


@given(MESSAGES, st.lists(st.integers(0, 2**20), max_size=12))
def test_zipped_messages_arrive_as_others_do(messages: list[Message], places: list[int]) -> None:
    data = greeting() + b"".join(encode_zipped(message) for message in messages) + encode({})

    assert heard(cut(data, places)) == [*messages, {}]


def test_what_zlib_cannot_make_short_is_not_zipped() -> None:
    message = {"text": os.urandom(FRAME_LIMIT).hex()}

    assert heard([greeting(), encode_zipped(message)]) == [message]


@pytest.mark.parametrize(
    "body", [b"", b"no zip", zlib.compress(b"{}")[:-3], zlib.compress(b" " * MESSAGE_LIMIT + b"{}")]
)
def test_a_zipped_message_that_is_none_or_swells_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        heard([greeting(), frame(body, ZIPPED)])


def test_no_frame_is_longer_than_the_limit() -> None:
    data, lengths = encode({"text": "é" * FRAME_LIMIT}), []
    while data:
        kind, length = HEADER.unpack_from(data)
        lengths.append((kind, length))
        data = data[HEADER.size + length :]

    assert [kind for kind, _ in lengths] == [PART] * (len(lengths) - 1) + [LAST]
    assert max(length for _, length in lengths) == FRAME_LIMIT


def test_byte_by_byte_is_no_different() -> None:
    data = b"Last login: Mon\r\n" + greeting() + encode({"a": 1}) + encode({"b": "é"})

    assert heard(data[at : at + 1] for at in range(len(data))) == [{"a": 1}, {"b": "é"}]


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=300))), st.lists(st.integers(0, 2**20)))
def test_raw_bytes_arrive_in_order_with_the_messages_between_them(
    sent: list[tuple[int, bytes]], places: list[int]
) -> None:
    data = b"".join(encode_data({"step": n}, raw) + encode({"step": n}) for n, raw in sent)

    expected = [each for n, raw in sent for each in ({"step": n, "data": raw}, {"step": n})]
    assert heard(cut(greeting() + data, places)) == expected


@pytest.mark.parametrize("size", [FRAME_LIMIT - 40, FRAME_LIMIT, 3 * FRAME_LIMIT + 7])
def test_raw_bytes_that_fill_several_frames_come_with_the_offset_of_each(size: int) -> None:
    raw = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    data = encode_data({"is": "log", "offset": 99_990}, raw)

    found = heard([greeting(), data])

    assert b"".join(each["data"] for each in found) == raw
    offset = 99_990
    for each in found:
        assert each["offset"] == offset
        offset += len(each["data"])
    while data:
        kind, length = HEADER.unpack_from(data)
        assert kind == DATA and length <= FRAME_LIMIT
        data = data[HEADER.size + length :]


def test_no_bytes_are_a_message_too() -> None:
    assert heard([greeting(), encode_data({"fd": 1}, b"")]) == [{"fd": 1, "data": b""}]


def test_data_may_come_between_the_parts_of_a_long_message() -> None:
    long = encode({"text": "x" * FRAME_LIMIT})
    first = HEADER.size + FRAME_LIMIT

    found = heard([greeting(), long[:first], encode_data({"fd": 1}, b"a"), long[first:]])

    assert found == [{"fd": 1, "data": b"a"}, {"text": "x" * FRAME_LIMIT}]


@pytest.mark.parametrize("length", [FRAME_LIMIT - 13, FRAME_LIMIT, 2 * FRAME_LIMIT])
def test_a_header_without_room_for_bytes_is_never_sent(length: int) -> None:
    with pytest.raises(ValueError):
        encode_data({"text": "x" * length}, b"a")


def test_what_is_not_complete_is_waited_for() -> None:
    data = greeting() + encode({"a": 1})
    decoder = Decoder()

    assert list(decoder.feed(data[:-1])) == []
    assert list(decoder.feed(data[-1:])) == [{"a": 1}]


# What is refused.


@pytest.mark.parametrize("version", [b"0", b"2", b"11", b"x", b"", b"-1", b"1.0", "²".encode()])
def test_another_version_is_refused_with_both_named(version: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"speaks protocol .*, this skyq \(.*\) speaks 1"):
        heard([b"skyq-protocol " + version + b" 9.9.9\n"])


@pytest.mark.parametrize("kind", [0, 5, 255])
def test_a_frame_of_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(ProtocolError, match="kind %d" % kind):
        heard([greeting() + frame(b"{}", kind)])


def test_a_frame_that_is_too_long_is_refused_at_its_header() -> None:
    with pytest.raises(ProtocolError):
        heard([greeting() + HEADER.pack(LAST, FRAME_LIMIT + 1)])


def test_a_message_without_end_is_refused() -> None:
    part = frame(b"x" * FRAME_LIMIT, PART)

    with pytest.raises(ProtocolError, match="over %d bytes" % MESSAGE_LIMIT):
        heard([greeting(), *[part] * (MESSAGE_LIMIT // FRAME_LIMIT + 1)])


def test_noise_without_end_is_refused_and_quoted() -> None:
    with pytest.raises(ProtocolError, match="not skyq: it said b'bash: skyq: command not found"):
        heard([b"bash: skyq: command not found\n" * (NOISE_LIMIT // 20)])


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[1]", b"null", b'"text"', b"1", b'{"a":}', b"1" * 5000, b"[" * FRAME_LIMIT],
    ids=lambda body: repr(body[:10]),
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        heard([greeting() + frame(body)])


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0", DATA_HEADER.pack(3) + b"{}", DATA_HEADER.pack(2) + b"[]", DATA_HEADER.pack(0) + b"{}"],
)
def test_data_without_a_whole_header_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        heard([greeting() + frame(payload, DATA)])


@given(
    st.lists(
        st.binary(max_size=300)
        | st.binary(max_size=300).map(frame)
        | st.binary(max_size=300).map(lambda body: frame(body, DATA)),
        max_size=5,
    ),
    st.booleans(),
)
def test_whatever_the_other_side_says_nothing_but_a_protocol_error_comes_of_it(
    pieces: list[bytes], greeted: bool
) -> None:
    try:
        messages = heard([greeting() * greeted, *pieces])
    except ProtocolError as error:
        assert str(error).startswith("The other side ")
        return
    assert all(isinstance(message, dict) for message in messages)


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.integers(0, 2**20), st.integers(0, 255))
def test_one_wrong_byte_makes_no_other_error(message: Message, place: int, byte: int) -> None:
    data = bytearray(greeting() + encode(message))
    data[place % len(data)] = byte

    try:
        found = heard([bytes(data)])
    except ProtocolError:
        return
    assert len(found) <= 1
    assert all(isinstance(entry, dict) for entry in found)
