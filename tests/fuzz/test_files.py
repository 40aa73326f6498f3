"""Files that users write: whatever stands in them, a value of bounded size or the one documented error."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from skyq.core import taskfile, wiretask
from skyq.core.dotenv import parse_dotenv
from skyq.core.errors import InventoryError, SkyqError, TaskError, UsageError
from skyq.core.inventory import load_inventory
from skyq.core.request import MAX_ENV, Overrides
from skyq.core.taskfile import is_task_text, load_task
from skyq.core.yamltext import MAX_EXPANDED, MAX_VALUES, load_all
from tests.fuzz.trees import LEAVES, ODD_TEXTS, harmless, trees, yaml_texts

TASK_KEYS = [*taskfile._TASK_FIELDS, *taskfile._RESOURCE_FIELDS, "H100", "url", "ref", "A", "foo"]
TASKS = st.fixed_dictionaries(
    {},
    optional={
        **{
            key: trees(TASK_KEYS)
            for key in ("resources", "workdir", "file_mounts", "config", "service", "foo")
        },
        **{
            key: st.dictionaries(st.sampled_from(["A", "B_1", "1BAD", "a-b"]) | ODD_TEXTS, LEAVES, max_size=3)
            for key in ("envs", "secrets")
        },
        **{key: LEAVES for key in ("name", "run", "setup", "num_nodes")},
    },
)
INVENTORY_KEYS = [
    "hosts",
    "ip",
    "user",
    "identity_file",
    "port",
    "internal_ip",
    "accelerators",
    "cpus",
    "memory",
    "password",
    "H100",
    "x",
]
HOSTS = ODD_TEXTS | st.dictionaries(
    st.sampled_from(INVENTORY_KEYS), LEAVES | st.just("10.0.0.1") | st.just("node1"), max_size=6
)
POOLS = st.dictionaries(
    st.sampled_from(["local", "lab", "a.b-c"]) | ODD_TEXTS,
    st.fixed_dictionaries(
        {"hosts": st.lists(HOSTS, max_size=3)}, optional={key: LEAVES for key in INVENTORY_KEYS[2:6]}
    )
    | LEAVES,
    max_size=3,
)
SECRET = "hunter2-hunter2"


@given(yaml_texts(TASK_KEYS, TASKS | trees(TASK_KEYS)) | st.text(max_size=200))
def test_a_task_file_is_a_task_or_a_task_error(text: str) -> None:
    is_task_text(text)
    try:
        task = load_task(text, "t.yaml", Overrides(name="x") if len(text) % 2 else Overrides())
    except (TaskError, UsageError) as error:
        return harmless(error, "t.yaml")
    assert wiretask.unpacked(json.loads(json.dumps(wiretask.packed(task)))) == task
    assert all(isinstance(v, str) and "\0" not in v for v in [*task.envs.values(), *task.secrets.values()])
    assert 0 < len(task.alternatives) <= 64
    assert task.name is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", task.name)
    if task.git:
        assert (
            not task.git.url.startswith("-") and "::" not in task.git.url and not task.git.ref.startswith("-")
        )


@given(yaml_texts(TASK_KEYS, TASKS), st.integers(0, 300))
def test_no_error_of_a_task_file_shows_a_secret(text: str, at: int) -> None:
    text = "secrets:\n  TOKEN: %s\n%s" % (SECRET, text)
    text = text[: at % len(text)] + "\t{" + text[at % len(text) :] if at % 3 else text
    try:
        load_task(text, "t.yaml")
    except SkyqError as error:
        assert SECRET not in str(error)


@given(yaml_texts(INVENTORY_KEYS, POOLS | trees(INVENTORY_KEYS)) | st.text(max_size=200))
def test_an_inventory_is_pools_or_an_inventory_error(text: str) -> None:
    try:
        pools = load_inventory(text, "pools.yaml")
    except InventoryError as error:
        return harmless(error, "pools.yaml")
    for name, pool in pools.items():
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name) and pool.hosts
        for host in pool.hosts:
            for word in (host.ip, host.user, host.internal_ip):
                assert word is None or not re.search(r"[\s'\"$`;&|<>*?\\(){}\x00-\x1f]|^-", word), word
            assert host.port is None or 0 < host.port < 65536
            assert sum((host.accelerators or {}).values()) <= 1024 * len(host.accelerators or "x")


@given(
    yaml_texts(["a", "b"], trees(["a", "b", "<<"]))
    | st.lists(
        st.sampled_from(
            ["&a ", "*a", "- ", "[", "]", "{", "}", ", ", ": ", "\n", "  ", "<<", "x", "? ", "|", "!!str "]
        ),
        max_size=60,
    ).map("".join)
)
def test_yaml_never_grows_beyond_its_budget(text: str) -> None:
    try:
        documents = load_all(text, "f")
    except TaskError as error:
        return harmless(error, "f")
    for document in documents:
        assert len(document.lines) <= MAX_VALUES
        assert len(json.dumps(document.value, default=str)) <= 10 * MAX_EXPANDED


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
BROKEN = st.lists(
    st.sampled_from(
        [
            "A",
            "=",
            "'",
            '"',
            "\\",
            "$",
            "{",
            "}",
            "${A}",
            "${A:-b}",
            "#",
            " #",
            " ",
            "\n",
            "\r\n",
            "export ",
            "\0",
            "\ufeff",
            "\u2028",
            "\x0c",
        ]
    )
    | st.text(max_size=3),
    max_size=60,
).map("".join)


ENTRIES = st.lists(
    st.tuples(NAMES, st.sampled_from(["", "'", '"']), BROKEN | ODD_TEXTS).map(
        lambda entry: "%s=%s%s%s\n" % (entry[0], entry[1], entry[2], entry[1])
    ),
    max_size=3,
).map("".join)


@given(ENTRIES | BROKEN | st.text(max_size=300))
def test_a_dotenv_is_texts_or_a_usage_error(text: str) -> None:
    try:
        entries = parse_dotenv(text, ".env", {"A": "1" * 1000})
    except UsageError as error:
        return harmless(error, ".env")
    for name, value in entries.items():
        assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)
        assert "\0" not in value and len(value) <= max(MAX_ENV, len(text))


@given(
    st.dictionaries(
        NAMES,
        st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=20),
        max_size=5,
    )
)
def test_what_is_quoted_in_a_dotenv_arrives(entries: dict[str, str]) -> None:
    quoted = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
        for name, value in entries.items()
    }
    text = "".join('export %s="%s" # comment\n' % pair for pair in quoted.items())

    assert parse_dotenv(text, ".env") == entries
