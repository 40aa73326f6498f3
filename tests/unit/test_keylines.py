from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core.keylines import DEFAULT_LAUNCHER, NoLine, key_line, marker, shell_line, with_line, without_line

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK"
LINE = key_line(KEY, "lab", "3f2a", DEFAULT_LAUNCHER)
MARK = marker("lab", "3f2a").encode()
OTHERS = key_line(KEY, "lab", "77", DEFAULT_LAUNCHER)

texts = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\n", b"\r\n", b"ssh-rsa AAAA ada@home\n", b"# skyq:lab:3f2a\n", OTHERS]),
    )
).map(b"".join)


def test_the_line_lets_the_key_do_one_thing() -> None:
    assert LINE.decode() == (
        'restrict,command="/bin/sh -c \'exec /bin/sh \\"$HOME/.skyq/bin/skyq\\" _node @lab\'" '
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK skyq:lab:3f2a\n"
    )


def test_a_launcher_elsewhere_is_named_by_its_path() -> None:
    assert b'/bin/sh \\"/data/a-b/skyq\\" _node' in key_line(KEY, "lab", "3f2a", "/data/a-b/skyq")


@pytest.mark.parametrize("path", ["/a'b", '/a"b', "/a$b", "/a`b", "/a!b", "/a\\b", "/a\nb", "/\udcff"])
def test_a_path_that_a_shell_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(NoLine, match="shell"):
        shell_line(path, "_agent")


@given(texts)
def test_other_lines_stay_byte_for_byte(text: bytes) -> None:
    before = without_line(text, MARK)
    after = with_line(text, LINE)

    assert after == LINE + before or (text == after and after.count(LINE) == 1)
    assert without_line(after, MARK) == before


@given(texts)
def test_it_is_there_once_however_often_it_is_written(text: bytes) -> None:
    once = with_line(text, LINE)
    assert with_line(once, LINE) == once
    assert once.count(LINE) == 1


@given(texts)
def test_what_was_never_there_is_not_taken_out(text: bytes) -> None:
    if MARK not in text:
        assert without_line(text, MARK) == text


def test_an_older_line_of_the_cluster_is_replaced_and_others_are_not() -> None:
    old = key_line(KEY, "lab", "3f2a", "/elsewhere/skyq")
    assert with_line(b"ssh-rsa AAAA ada\n" + old + OTHERS, LINE) == LINE + b"ssh-rsa AAAA ada\n" + OTHERS


def test_a_line_that_was_moved_stays_where_it_is() -> None:
    moved = b"ssh-rsa AAAA ada\n" + LINE + b"ssh-rsa AAAA last without newline"
    assert with_line(moved, LINE) == moved


@pytest.mark.parametrize(
    ("key", "cluster", "cluster_id"),
    [
        ("ssh-ed25519 AAAA\nssh-ed25519 MALLORYS", "lab", "3f"),
        ("ssh-ed25519 AAAA no-pty", "lab", "3f"),
        ("AAAA", "lab", "3f"),
        (KEY, "lab", "3f\nssh-ed25519 MALLORYS"),
        (KEY, "lab'; touch canary; '", "3f"),
        (KEY, "lab\n", "3f"),
    ],
)
def test_nothing_that_a_head_says_gets_a_second_line_or_other_rights(
    key: str, cluster: str, cluster_id: str
) -> None:
    with pytest.raises(NoLine):
        key_line(key, cluster, cluster_id, DEFAULT_LAUNCHER)
