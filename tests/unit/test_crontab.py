"""The lines in a user's crontab: skyq's come and go, nobody else's changes."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core.crontab import NoLine, tick_line, with_block, without_block

OWN, OTHER = "3f2a" * 8, "77b0" * 8
WORDS = ["/bin/sh", "/home/ada/.skyq/bin/skyq", "tick", "local"]
LINE = b"* * * * * /bin/sh /home/ada/.skyq/bin/skyq tick local >/dev/null 2>&1 # skyq " + OWN.encode() + b"\n"
BLOCK = b"# skyq begin %s\n%s# skyq end %s\n" % (OWN.encode(), LINE, OWN.encode())

LINES = [
    b"MAILTO=ada@example.org",
    b"SHELL=/usr/bin/fish",
    b"",
    b"# m h dom mon dow command",
    b"*/5 * * * * date +\\%s >>~/clock",
    b"0 3 * * 1 backup\r",
    b"\xff\xfe not text",
    b"# skyq",
    b"# skyq begin",
    b"# skyq begin " + OTHER.encode(),
    b"* * * * * /bin/sh /x/bin/skyq tick local >/dev/null 2>&1 # skyq " + OTHER.encode(),
    b"# skyq end " + OTHER.encode(),
    b"# skyq begin %s of old" % OWN.encode(),
    b"* * * * * skyq tick local",
]


@st.composite
def crontabs(draw: st.DrawFn) -> bytes:
    """Anybody's, also without a newline at the end."""
    line = st.sampled_from(LINES) | st.binary(max_size=30).map(lambda text: text.replace(b"\n", b""))
    text = b"\n".join(draw(st.lists(line, max_size=12)))
    return text + draw(st.sampled_from([b"", b"\n"]))


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A crontab in which own lines are anywhere, some, twice, edited; and the same without them."""
    own = [
        LINE,
        b"#" + LINE,
        LINE.replace(b"* * * * *", b"*/10 * * * *"),
        LINE.replace(b"\n", b"\r\n"),
        *BLOCK.splitlines(keepends=True),
    ]
    others = [line + b"\n" for line in draw(st.lists(st.sampled_from(LINES), max_size=8))]
    mixed = [(line, False) for line in others]
    for line in draw(st.lists(st.sampled_from(own), max_size=6)):
        mixed.insert(draw(st.integers(0, len(mixed))), (line, True))
    return b"".join(line for line, _ in mixed), b"".join(others)


def test_the_block_comes_first_and_once() -> None:
    assert with_block(b"", OWN, WORDS) == BLOCK
    assert with_block(b"0 3 * * 1 backup\n", OWN, WORDS) == BLOCK + b"0 3 * * 1 backup\n"


@given(crontabs())
def test_what_was_there_is_the_same_bytes_after_the_block_has_come_and_gone(text: bytes) -> None:
    assert without_block(with_block(text, OWN, WORDS), OWN) == text


@given(crontabs())
def test_without_a_block_nothing_is_removed(text: bytes) -> None:
    assert without_block(text, OWN) == text


@given(crontabs())
def test_to_add_it_again_changes_nothing(text: bytes) -> None:
    once = with_block(text, OWN, WORDS)

    assert with_block(once, OWN, WORDS) == once


@given(crontabs(), crontabs())
def test_a_block_that_the_user_moved_stays_where_it_is(above: bytes, below: bytes) -> None:
    text = above + (b"" if above.endswith(b"\n") or not above else b"\n") + BLOCK + below

    assert with_block(text, OWN, WORDS) == text


@given(crontabs())
def test_blocks_of_two_clusters_leave_each_other_alone(text: bytes) -> None:
    other = ["/bin/sh", "/srv/skyq/bin/skyq", "tick", "local"]
    both = with_block(with_block(text, OTHER, other), OWN, WORDS)

    assert without_block(both, OTHER) == with_block(without_block(text, OTHER), OWN, WORDS)
    assert without_block(both, OWN) == with_block(text, OTHER, other)


@given(damaged())
def test_a_damaged_block_is_made_whole_and_no_other_line_changes(case: tuple[bytes, bytes]) -> None:
    text, others = case
    mended = with_block(text, OWN, WORDS)

    assert mended.count(BLOCK) == 1
    assert without_block(mended, OWN) == without_block(text, OWN) == others
    assert len(mended) == len(BLOCK) + len(others)


def test_another_path_of_the_program_replaces_the_line() -> None:
    moved = ["/bin/sh", "/srv/skyq/bin/skyq", "tick", "local"]
    text = with_block(b"0 3 * * 1 backup\n", OWN, WORDS)

    assert with_block(text, OWN, moved).count(b" tick local ") == 1
    assert b"/srv/skyq" in with_block(text, OWN, moved)


@given(
    st.lists(
        st.text(
            st.sampled_from("%\\'\"$ a") | st.characters(exclude_characters="\0\n", exclude_categories=["Cs"])
        ),
        min_size=1,
    )
)
def test_cron_hands_sh_the_very_words(words: list[str]) -> None:
    try:
        line = tick_line(words, OWN)
    except NoLine:
        return
    assert line.endswith(b" >/dev/null 2>&1 # skyq %s\n" % OWN.encode())
    assert re.search(rb"(?<!\\)%", line) is None
    for_sh = line.removeprefix(b"* * * * * ").rpartition(b" >/dev/null")[0]
    debians, busyboxs = for_sh.replace(rb"\%", b"%"), for_sh
    others = re.sub(rb"\\([%\\])", rb"\1", for_sh)
    script = b"".join(rb"printf '%s\0' " + command + b"\n" for command in (debians, busyboxs, others))
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words * 3


@pytest.mark.parametrize(("path", "why"), [("/home/a\nb", "newline"), ("/" + "x" * 1000, "too long")])
def test_a_path_that_no_crontab_takes_is_refused(path: str, why: str) -> None:
    with pytest.raises(NoLine, match=why):
        tick_line([path], OWN)
