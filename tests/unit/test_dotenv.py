"""Files of --env-file and --secret-file."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyq.core.dotenv import parse_dotenv
from skyq.core.errors import SkyqError, UsageError

# Other work on the machine makes no test fail.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("A=", ""),
        ("A= b  ", "b"),
        ("A = b", "b"),
        ("export A=b", "b"),
        ("  A=b", "b"),
        ("\ufeffA=b", "b"),
        ("A=b=c", "b=c"),
        ("A=b # comment", "b"),
        ("A=b\t# comment", "b"),
        ("A= # comment", ""),
        ("A=a#b", "a#b"),
        ("A=it's", "it's"),
        ("A=a b", "a b"),
        ("A='a # b' # c", "a # b"),
        ('A="a # b"# c', "a # b"),
        ("A='a\\n${B}\"'", 'a\\n${B}"'),
        ('A="a\\n\\t\\"\\\\\\$\\x"', 'a\n\t"\\$\\x'),
        ('A="two\nlines"', "two\nlines"),
        ("A='two\nlines'", "two\nlines"),
        ('A="two\r\nlines"\r\n', "two\nlines"),
        ("A=C:\\new", "C:\\new"),
        ("A=$B", "$B"),
        ("A=$(touch x)`id`", "$(touch x)`id`"),
        ("A=3.10", "3.10"),
        ("A=0777", "0777"),
        ("A=1\nA=2", "2"),
    ],
)
def test_a_line_gives_its_value(line: str, value: str) -> None:
    assert parse_dotenv(line, ".env") == {"A": value}


def test_comments_and_blank_lines_are_nothing() -> None:
    assert parse_dotenv("\n  \n# a=b\n  # c\nA=1\n\n", ".env") == {"A": "1"}
    assert parse_dotenv("", ".env") == {}


def test_a_variable_is_an_earlier_entry_then_the_environment_then_its_default() -> None:
    text = 'A=1\nB=${A}${HOST}\nC="${B}-${NO:-x}-\\${A}"\nD=${LATER}\nLATER=2\nE=${A:-y}'
    entries = parse_dotenv(text, ".env", {"HOST": "h", "A": "outside"})
    assert entries == {"A": "1", "B": "1h", "C": "1h-x-${A}", "D": "", "LATER": "2", "E": "1"}


def test_what_a_variable_brings_in_is_not_expanded_again() -> None:
    assert parse_dotenv("A='${B}'\nB=x\nC=${A}", ".env")["C"] == "${B}"


def test_a_bare_name_is_refused_with_its_line() -> None:
    with pytest.raises(UsageError, match=r"^\.env, line 2: no '='\. Write NAME=value, or NAME= for an empty"):
        parse_dotenv("A=1\nD\n", ".env")


@pytest.mark.parametrize(
    "line",
    [
        "1A=hunter2",
        "A-B=hunter2",
        "=hunter2",
        'A="hunter2',
        "A='hunter2",
        "A='a' hunter2",
        "hunter2",
        "a: hunter2",
    ],
)
def test_a_broken_line_is_refused_with_its_number_and_never_shown(line: str) -> None:
    with pytest.raises(UsageError, match=r"^\.env, line 3: ") as error:
        parse_dotenv("B='x\ny'\n" + line, ".env")
    assert "hunter2" not in str(error.value)


def test_a_nul_is_refused() -> None:
    with pytest.raises(UsageError, match="line 1: the value holds a NUL byte"):
        parse_dotenv("A=a\0b", ".env")


def test_values_that_double_line_by_line_are_stopped() -> None:
    text = "A0=xxxxxxxx\n" + "".join(f"A{n + 1}=${{A{n}}}${{A{n}}}\n" for n in range(60))
    with pytest.raises(UsageError, match="the value grows beyond 131072 bytes"):
        parse_dotenv(text, ".env")


def test_a_megabyte_of_lines_takes_no_time_and_more_is_refused() -> None:
    began = time.process_time()
    assert len(parse_dotenv("".join(f"A{n}=1\n" for n in range(100_000)), ".env")) == 100_000
    assert time.process_time() - began < 3
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        parse_dotenv("#" * (1 << 20 | 1), ".env")


_pieces = st.lists(
    st.sampled_from(["A", "=", "'", '"', "\\", "$", "{", "}", ":-", "#", " ", "\n", "\r", "export ", "\0"])
)


@patient
@given(st.text() | _pieces.map("".join))
def test_any_text_gives_texts_or_an_error_in_words(text: str) -> None:
    try:
        entries = parse_dotenv(text, ".env", {"A": "1"})
    except SkyqError as error:
        assert str(error).startswith(".env")
        return
    assert all(isinstance(value, str) for value in entries.values())
