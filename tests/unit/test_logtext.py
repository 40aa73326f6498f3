"""Prefixes, sanitising, tails: the same whatever the chunks, and harmless."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skyq.core.logtext import Prefixer, Sanitiser, plain, prefix, tail_offset

A, B = b"(a, pid=1)", b"(b, pid=2)"
LOG = st.lists(st.sampled_from([b"x", b"yy", b"\n", b"\r", b"\r\n", b" 50%", "é".encode()]), max_size=12).map(
    b"".join
)
ESCAPES = [b"\x1b", b"[", b"]", b"31", b";", b"m", b"n", b"?", b"P", b"\\", b"\x07", b"\n", b"\r", b"(", b"B"]
ESCAPES += [
    b"\x1b[1;31m",
    b"\x1b[A",
    b"\x1b]0;",
    b"0" * 70,
    b" " * 70,
    "é".encode(),
    "漢".encode(),
    b"\xc2\x9b",
]
ESCAPES += [b"\x80", b"\x9b", b"\xe6", b"\xc2", b"\x00", b"\x18", b"\x05", b"J", b"3", b"text"]
NASTY = st.lists(st.sampled_from(ESCAPES) | st.binary(max_size=3), max_size=14).map(b"".join)


def pieces(draw: st.DataObject, text: bytes) -> list[bytes]:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def prefixed(chunks: list[bytes], redraw: bool = False) -> bytes:
    prefixer = Prefixer(redraw)
    return b"".join([prefixer.feed(A, chunk) for chunk in chunks]) + prefixer.finish()


def merged(*fed: tuple[bytes, bytes]) -> bytes:
    prefixer = Prefixer()
    return b"".join([prefixer.feed(stream, chunk) for stream, chunk in fed]) + prefixer.finish()


def sanitised(*chunks: bytes) -> bytes:
    sanitiser = Sanitiser()
    return b"".join([sanitiser.feed(chunk) for chunk in chunks]) + sanitiser.finish()


# Prefixes.


def test_each_line_has_the_prefix():
    assert prefixed([b"one\n\ntwo\n"]) == A + b" one\n" + A + b" \n" + A + b" two\n"


def test_unfinished_text_goes_out_at_once():
    prefixer = Prefixer()
    assert prefixer.feed(A, b"Continue? ") == A + b" Continue? "
    assert prefixer.feed(A, b"yes") == b"yes"
    assert prefixer.finish() == b"\n"


def test_another_stream_gets_a_line_of_its_own():
    assert merged((A, b"half"), (B, b"whole\n"), (A, b"rest\n")) == (
        A + b" half\n" + B + b" whole\n" + A + b" rest\n"
    )


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_newline_that_comes_late_is_not_shown_twice(newline):
    assert merged((A, b"text"), (B, b"other\n"), (A, newline), (A, b"more\n")) == (
        A + b" text\n" + B + b" other\n" + A + b" more\n"
    )


def test_a_late_newline_does_not_part_another_streams_line():
    assert merged((A, b"text"), (B, b"bar"), (A, b"\n"), (B, b" 2\n")) == A + b" text\n" + B + b" bar 2\n"


def test_frames_pass_as_they_come_and_keep_the_prefix_on_a_terminal():
    frames = [b" 10%\r", b" 20%\r 30%", b"\r\n"]
    assert prefixed(frames) == A + b"  10%\r 20%\r 30%\n"
    assert prefixed(frames, redraw=True) == A + b"  10%\r" + A + b"  20%\r" + A + b"  30%\n"


def test_a_stream_without_a_prefix_has_bare_lines():
    assert (
        merged((A, b"half"), (b"", b"ERROR: it failed\nreally\n")) == A + b" half\nERROR: it failed\nreally\n"
    )


@given(LOG, st.data(), st.booleans())
def test_prefixing_does_not_depend_on_the_chunks(log, data, redraw):
    assert prefixed(pieces(data, log), redraw) == prefixed([log], redraw)


@given(LOG, st.booleans())
def test_without_the_prefixes_the_text_is_what_was_written(log, redraw):
    bare = re.sub(rb"(^|\n|\r)" + re.escape(A + b" "), rb"\1", prefixed([log], redraw))
    written = re.sub(rb"\r\Z", b"", log).replace(b"\r\n", b"\n")
    assert bare == written + (b"\n" if written and not written.endswith(b"\n") else b"")


@given(st.lists(st.tuples(st.sampled_from([A, B]), LOG), max_size=8))
def test_every_line_of_a_merge_belongs_to_one_stream(fed):
    shown = merged(*fed)
    assert all(line.startswith((A + b" ", B + b" ")) for line in shown.split(b"\n")[:-1])
    for stream in (A, B):
        lines = [line[len(stream) + 1 :] for line in shown.split(b"\n") if line.startswith(stream)]
        written = b"".join(chunk for fed_to, chunk in fed if fed_to == stream)
        assert re.sub(rb"[\r\n]", b"", b"".join(lines)) == re.sub(rb"[\r\n]", b"", written)


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        (("sky-cmd", "run-0", 4164), "(sky-cmd, pid=4164)"),
        ((None, "run-0", 7), "(task, pid=7)"),
        (("job", "run-0", None), "(job)"),
        (("job", "setup-0", 7), "(setup pid=7)"),
        (("job", "setup-0", None), "(setup)"),
        (("job", "setup-1", 7, "worker1", "10.0.0.2"), "(setup pid=7, ip=10.0.0.2)"),
        (("job", "run-0", 7, "head", "10.0.0.1"), "(head, rank=0, pid=7)"),
        (("job", "run-1", 7, "worker1", "10.0.0.2"), "(worker1, rank=1, pid=7, ip=10.0.0.2)"),
        (("job", "run-0", None, "worker1", "10.0.0.2"), "(worker1, rank=0, ip=10.0.0.2)"),
        (("e\x1b]0;x\x07vil\n", "run-0", 1), "(evil , pid=1)"),
    ],
)
def test_the_prefix_says_where_a_line_comes_from(given_, shown):
    assert prefix(*given_) == shown.encode()
    assert prefix(*given_, colour=True) == b"\x1b[36m" + shown.encode() + b"\x1b[0m"


# Sanitising.

KEPT = re.compile(rb"\x1b\[([0-9;:]{0,60}[A-HKdfmsu]|[0-2]?J)")


@pytest.mark.parametrize(
    "text",
    [
        b"plain\ttext\r\n\b",
        b"\x1b[1;38;2;1;2;3mcolour\x1b[0m\x1b[m",
        b"\x1b[2A\x1b[K\x1b[10;5H",
        "é漢😀".encode(),
    ],
)
def test_text_colours_and_cursor_movement_stay(text):
    assert sanitised(text) == text


@pytest.mark.parametrize(
    "bad",
    [
        *(
            b"\x1b]0;title\x07",
            b"\x1b]52;c;Zm9v\x1b\\",
            b"\x1bP$qm\x1b\\",
            b"\x1b_app\x1b\\",
            b"\x1b^pm\x1b\\",
        ),
        *(
            b"\x1bXsos\x1b\\",
            b"\x1b[c",
            b"\x1b[6n",
            b"\x1b[>0q",
            b"\x1b[?1049h",
            b"\x1b[21t",
            b"\x1b[3J",
            b"\x1bc",
        ),
        *(b"\x1b(B", b"\x1b[?4m", b"\x1b[>4;2m", b"\x1b[5i", b"\x1b[99999b", b"\x1b[" + b"1;" * 99 + b"m"),
        *(b"\x00", b"\x05", b"\x07", b"\x0e", b"\x7f", b"\xc2\x9b", b"\xc2\x85", b"\x1b\x1b", b"\x1b"),
    ],
)
def test_what_a_terminal_would_obey_or_answer_goes(bad):
    assert sanitised(b"a" + bad + b"\nb") == b"a\nb"


def test_bare_c1_bytes_are_not_mistaken_for_parts_of_characters():
    assert sanitised("“é漢”".encode() + b"\x9b31m") == "“é漢”�31m".encode()


def test_a_string_without_an_end_swallows_no_more_than_its_line():
    assert sanitised(b"a\x1b]0;never ended\nb\n") == b"a\nb\n"


def test_an_endless_sequence_takes_no_memory():
    for start in (b"\x1b]", b"\x1bP", b"\x1b[", b"\x1b "):
        sanitiser = Sanitiser()
        assert [sanitiser.feed(start), *(sanitiser.feed(b" " * 1000) for _ in range(9))] == [b""] * 10
        assert sum(len(value) for value in vars(sanitiser).values() if isinstance(value, bytes)) <= 64


def test_a_cut_character_waits_for_its_rest_and_no_longer_than_the_log():
    sanitiser = Sanitiser()
    assert [sanitiser.feed(b"\xe6"), sanitiser.feed(b"\xbc\xa2"), sanitiser.feed(b"\xe6")] == [
        b"",
        "漢".encode(),
        b"",
    ]
    assert sanitiser.finish() == "�".encode()


@given(NASTY, st.data())
def test_sanitising_does_not_depend_on_the_chunks(text, data):
    assert sanitised(*pieces(data, text)) == sanitised(text)


@given(NASTY)
@example(b"\x1b[" + b"0" * 60 + b"m" + b"\x1b[" + b"0" * 61 + b"m" + b"\x1b" + b" " * 70 + b"m")
def test_sanitising_takes_single_bytes(text):
    assert sanitised(*[bytes([byte]) for byte in text]) == sanitised(text)


@given(NASTY)
def test_sanitised_text_is_valid_and_harmless(text):
    shown = KEPT.sub(b"", sanitised(text)).decode()
    assert not re.search("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]", shown)
    assert sanitised(sanitised(text)) == sanitised(text)


@given(st.text())
def test_plain_text_is_one_printable_line(text):
    assert plain(text).isprintable()


def test_plain_text_loses_whole_sequences():
    assert plain("a\x1b[31mb\x1b]0;t\x07c\nd\u202ee\udc80\x9b") == "abc d�e?"


# Tails.


def naive_tail(text: bytes, lines: int) -> int:
    return len(text) - len(b"".join(text.splitlines(keepends=True)[-lines:])) if lines > 0 else 0


@given(
    st.lists(st.sampled_from([b"x", b"\n", b"yy\n", b"z" * 40_000, b"\n" * 40_000]), max_size=9),
    st.integers(-1, 9),
)
def test_a_tail_begins_where_the_last_lines_begin(parts, lines):
    text = b"".join(parts)
    assert tail_offset(lambda at, length: text[at : at + length], len(text), lines) == naive_tail(text, lines)


def test_a_tail_reads_no_more_than_it_needs():
    text, asked = b"line\n" * 100_000, []
    assert (
        tail_offset(lambda at, n: asked.append(n) or text[at : at + n], len(text), 1000) == len(text) - 5000
    )
    assert sum(asked) <= 64 * 1024 + 1


# Going on where another one was.


@given(LOG, st.data())
def test_another_prefixer_goes_on_where_one_was(text: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(text)))
    one = Prefixer()
    first = one.feed(A, text[:cut])
    other = Prefixer(unfinished=one.unfinished)
    rest = other.feed(A, text[cut - one.held_back(A) :]) + other.finish()

    assert first + rest == prefixed([text])


SANE = st.sampled_from(["text", "é", "漢", "\x1b[1;31m", "\x1b]0;title\x07", "\x1b[?25l", "\n", "\r"])


@given(st.lists(SANE).map(lambda parts: "".join(parts).encode()), st.data())
def test_another_sanitiser_goes_on_where_one_was(text: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(text)))
    one = Sanitiser()
    first = one.feed(text[:cut])

    assert first + sanitised(text[cut - one.held_back :]) == sanitised(text)
