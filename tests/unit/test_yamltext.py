"""YAML within bounds and without surprises."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyq.core.errors import InventoryError, SkyqError, TaskError
from skyq.core.yamltext import Document, load, load_all

# Other work on the machine makes no test fail.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "yes",
        "on",
        "off",
        "Y",
        "0777",
        "0o17",
        "0x1F",
        "12:30:45",
        "2024-01-01",
        "1_000",
        ".inf",
        ".nan",
        "+",
        "=",
        "1e",
    ],
)
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(text: str) -> None:
    assert load(f"a: {text}", "f").value == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("4", 4),
        ("-4", -4),
        ("+4", 4),
        ("3.10", 3.1),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("0", 0),
        ("0.5", 0.5),
    ],
)
def test_only_booleans_null_and_decimal_numbers_are_more_than_text(text: str, value: object) -> None:
    document = load(f"a: {text}", "f")
    assert document.value == {"a": value}
    assert type(document.value["a"]) is type(value)
    assert document.texts == {("a",): text}


@pytest.mark.parametrize("text", ["'4'", '"4"', "!!str 4", "|-\n  4", ">-\n  4"])
def test_quotes_blocks_and_the_str_tag_make_text(text: str) -> None:
    assert load(f"a: {text}", "f").value == {"a": "4"}


def test_a_number_is_given_back_as_written() -> None:
    document = load("a: [1.50, x]", "f")
    assert document.written(("a", 0), 1.5) == "1.50"
    assert document.written(("a", 1), "x") == "x"


def test_keys_are_text_whatever_they_look_like() -> None:
    assert load("on: 1\n5: 2\n~: 3\ntrue: 4\n3.10: 5\n'': 6", "f").value == {
        "on": 1, "5": 2, "~": 3, "true": 4, "3.10": 5, "": 6,
    }  # fmt: skip


def test_everything_has_a_line() -> None:
    document = load("# c\na:\n  - b: 1\n    c: 2\n  - d\n", "f")
    assert document.lines == {(): 2, ("a",): 2, ("a", 0): 3, ("a", 0, "b"): 3, ("a", 0, "c"): 4, ("a", 1): 5}
    assert document.line(("a", 0, "nothing", 5)) == 3
    assert Document().line(("a",)) == 1


def test_a_duplicate_key_is_refused_with_both_lines() -> None:
    with pytest.raises(TaskError) as error:
        load("run: a\nrun: b", "x.yaml")
    assert str(error.value) == (
        "Invalid task YAML: Duplicate key 'run' in YAML at line 2 (also defined at line 1). "
        "Remove one of the entries so the intended value is unambiguous. (x.yaml, line 2)"
    )


@pytest.mark.parametrize("text", ["a:\n  b: {c: 1, c: 2}", "a:\n- 5: x\n  '5': y", "&k a: 1\n*k : 2"])
def test_a_duplicate_key_is_found_at_any_depth_and_in_any_spelling(text: str) -> None:
    with pytest.raises(TaskError, match="Duplicate key"):
        load(text, "f")


def test_merge_keys_give_what_the_mapping_itself_does_not() -> None:
    bases = "- &a {x: 1, y: 1}\n- &b {y: 2, z: 2}\n"
    text = bases + "- {<<: [*a, *b], x: 0}\n- {<<: *a}\n- {'<<': 1}\n- {<<: {w: 3}}"
    value = load(text, "f").value
    assert isinstance(value, list)
    assert value[2:] == [{"x": 0, "y": 1, "z": 2}, {"x": 1, "y": 1}, {"<<": 1}, {"w": 3}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [touch x]", "A tag (!...) is not supported."),
        ("a: !!python/name:os.system", "A tag (!...) is not supported."),
        ("!!python/object:x.Y {}", "A tag (!...) is not supported."),
        ("a: !!binary aGk=", "A tag (!...) is not supported."),
        ("a: !hunter2", "Put a value that begins with ! in quotes."),
        ("a: *hunter2", "Found undefined alias. Put a value that begins with * & ! % @ or ` in quotes."),
        ("a: &hunter2 1\nb: &hunter2 2", "An &anchor is given twice."),
        ("a: !hunter2!x b", "Found undefined tag handle."),
        ("a: @hunter2", "Found character '@' that cannot start any token."),
        ("a: %hunter2", "Found character '%' that cannot start any token."),
        ("a: 'hunter2", "Found unexpected end of stream."),
        ("hunter2: b: c", "Mapping values are not allowed here. (f, line 1)"),
        ("a: 1\n\tb: hunter2", "Indent with spaces, not tabs. (f, line 2)"),
        ("a: [hunter2", "Expected ',' or ']'"),
        ("x: &hunter2 [*hunter2]", "An alias (*name) stands inside what it names."),
        ("&hunter2 a: {<<: *hunter2 }", "A merge key (<<) takes a mapping"),
        ("x: &hunter2 {<<: *hunter2 }", "An alias (*name) stands inside what it names."),
        ("<<: hunter2", "A merge key (<<) takes a mapping"),
        ("{[hunter2]: 1}", "A key must be a word."),
        ("a: b\x07hunter2", "Character U+0007 is not allowed in YAML. Remove it. (f, line 1)"),
        ("a: \ud800hunter2", "Character U+D800 is not allowed"),
        ('a: "\\0hunter2"', "A text holds a NUL or half a character."),
        ('a: "\\ud800hunter2"', "A text holds a NUL or half a character."),
        ('a: "\\UFFFFFFFF"', "A number or an escape is out of range."),
        ("%YAML 1." + "9" * 5000 + "\n--- a", "A number or an escape is out of range."),
    ],
)
def test_what_is_no_plain_yaml_is_refused_without_quoting_it(text: str, message: str) -> None:
    with pytest.raises(TaskError) as error:
        load(text, "f")
    assert message in str(error.value)
    assert str(error.value).startswith("Invalid task YAML: ")
    assert "hunter2" not in str(error.value)


_BOMBS = {
    "laughs": "a: &a0 [x]\n" + "".join(f"b{n}: &a{n + 1} [{','.join([f'*a{n}'] * 6)}]\n" for n in range(25)),
    "long text": f"a: &a {'x' * 100_000}\nb: [{','.join(['*a'] * 1000)}]",
    "merges": "- &a0 {k: 1}\n" + "".join(f"- &a{n + 1} {{<<: [*a{n}, *a{n}, *a{n}]}}\n" for n in range(31)),
    "deep flow": "[" * 1_000_000,
    "deep block": "- " * 500_000,
    "deep aliases": "- &a0 [x]\n" + "".join(f"- &a{n + 1} [*a{n}]\n" for n in range(40)),
    "many values": "[" + "a," * 60_000 + "]",
    "many documents": "--- a\n" * 200,
    "too large": "#" * ((1 << 20) + 1),
    "too large in bytes": "#" + "ä" * (1 << 19),
}


@pytest.mark.parametrize("bomb", _BOMBS.values(), ids=_BOMBS)
def test_a_bomb_is_refused_in_no_time(bomb: str) -> None:
    began = time.process_time()
    with pytest.raises(TaskError, match=r"More than|Nested deeper|Too large|larger than 1 MiB|stands inside"):
        load_all(bomb, "f")
    assert time.process_time() - began < 5


def test_thirty_two_levels_are_fine_and_thirty_three_are_not() -> None:
    assert load("[" * 32 + "]" * 32, "f").value
    with pytest.raises(TaskError, match="Nested deeper than 32 levels"):
        load("[" * 33 + "]" * 33, "f")


def test_a_stream_gives_each_document_with_its_own_lines() -> None:
    first, second = load_all("a: 1\n---\nb: 2\n", "f")
    assert (first.value, second.value) == ({"a": 1}, {"b": 2})
    assert (first.line(("a",)), second.line(("b",))) == (1, 3)


def test_load_takes_one_document_or_none() -> None:
    assert load("", "f").value is None
    assert load("# only a comment", "f").value is None
    with pytest.raises(InventoryError, match=r"^Invalid inventory: Several documents .*\(f, line 3\)$"):
        load("a: 1\n---\nb: 2", "f", InventoryError)


def test_a_document_does_not_print_its_values() -> None:
    assert "hunter2" not in repr(load("secrets: {A: hunter2, B: 1234}", "f"))
    assert "1234" not in repr(load("secrets: {A: hunter2, B: 1234}", "f"))


_marks = st.sampled_from(
    [*list("{}[]:,-?&*!|>%@`#'\"~<\n \tab1.\\\x00\r"), "&a ", "*a", "<<: ", "- ", "---\n", "!!", ": "]
)


@patient
@given(st.text() | st.lists(_marks, max_size=40).map("".join))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        load_all(text, "f")
    except SkyqError as error:
        assert str(error).startswith("Invalid task YAML: ")
