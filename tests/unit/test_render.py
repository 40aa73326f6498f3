"""Tables, signs and JSON."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.cli.render import (
    UNSTYLED,
    QueueRow,
    QueueView,
    Style,
    nodes_json,
    nodes_table,
    quarantine_text,
    queue_json,
    queue_table,
    table,
    useful_commands,
)
from skyq.core.model import Device, Grant, Holding, Job, Node, Quarantine, Request

NOW = 1_700_000_000.0
COLOURED = Style(colour=True)


def a_job(id: int = 1, state: str = "RUNNING", **given_: object) -> Job:
    known = {
        "uuid": "u%d" % id,
        "name": "job%d" % id,
        "user": "ada",
        "submitted_at": NOW - 600,
        "started_at": None if state == "PENDING" else NOW - 598,
        "ended_at": None,
        "num_nodes": 1,
        "alternatives": (Request(),),
        "priority": 0,
        "attempt": 1,
        "alternative": 0,
        "cancel_requested_at": None,
        "reason": "",
        "exit_codes": (),
        "has_setup": False,
        "cpus_shown": "",
        "task_id": "sky-task",
        "pids": {},
        "grants": (),
        "setup_on": (),
        "rev": 1,
    }
    return Job(id=id, state=state, **{**known, **given_})  # type: ignore[arg-type]


def a_row(id: int = 1, state: str = "RUNNING", waits_for: str = "", **given_: object) -> QueueRow:
    log = "/home/ada/.skyq/logs/%d-job%d" % (id, id)
    return QueueRow(a_job(id, state, **given_), resources="1x[H100:2]", log=log, reason=waits_for)


def shown(*rows: QueueRow, now: float = NOW, style: Style = UNSTYLED) -> str:
    return queue_table("c", rows, QueueView(now, home="/home/ada"), style)


def cell(row: QueueRow, column: str) -> str:
    _, header, line = shown(row).split("\n")
    start = header.index(column)
    return line[start:].split("  ")[0].strip()


def test_a_queue_is_laid_out_as_its_users_know_it():
    waiting = a_row(4, "PENDING", waits_for="needs 4 H100 on one node; 2 are free")
    assert shown(waiting, a_row(5)) == "\n".join(
        [
            "Job queue of current user on cluster c",
            "ID  NAME  USER  SUBMITTED    STARTED     DURATION  RESOURCES   STATUS   LOG                  "
            "GIT COMMIT  REASON",
            "5   job5  ada   10 mins ago  9 mins ago  9m 58s    1x[H100:2]  RUNNING  ~/.skyq/logs/5-job5  "
            "-           -",
            "4   job4  ada   10 mins ago  -           -         1x[H100:2]  PENDING  ~/.skyq/logs/4-job4  "
            "-           needs 4 H100 on one node; 2 are free",
        ]
    )


def test_an_empty_queue_is_a_title_and_a_header():
    title, header = queue_table("c", [], QueueView(NOW, all_users=True)).split("\n")
    assert title == "Job queue of all users on cluster c"
    assert header.startswith("ID  NAME  USER  SUBMITTED") and header.endswith("GIT COMMIT  REASON")


def test_an_ended_job_lasted_from_its_start_to_its_end():
    assert cell(a_row(state="SUCCEEDED", ended_at=NOW - 538), "DURATION") == "1m"


def test_a_clock_set_back_shows_no_negative_time():
    assert "-3" not in shown(a_row(), now=NOW - 3599)


def test_a_job_without_a_name_shows_a_dash():
    assert cell(a_row(name=None), "NAME") == "-"


@pytest.mark.parametrize(("state", "word"), [("RUNNING", "CANCELLING"), ("CANCELLED", "CANCELLED")])
def test_a_cancel_shows_as_cancelling_until_it_is_done(state, word):
    assert cell(a_row(state=state, cancel_requested_at=NOW), "STATUS") == word


@pytest.mark.parametrize(
    ("state", "reason"),
    [("FAILED", "exit code 3"), ("CANCELLED", "exit code 3"), ("SUCCEEDED", "-"), ("RUNNING", "-")],
)
def test_a_reason_is_shown_where_things_went_wrong(state, reason):
    assert cell(a_row(state=state, reason="exit code 3"), "REASON") == reason


def test_a_long_reason_is_shortened_in_the_table_and_whole_in_json():
    row = a_row(state="PENDING", waits_for="because " * 20)
    assert len(cell(row, "REASON")) <= 60
    assert cell(row, "REASON").endswith("…")
    assert queue_json("c", [row])["c"][0]["reason"] == "because " * 20


@pytest.mark.parametrize(
    ("state", "code"), [("PENDING", 34), ("RUNNING", 32), ("FAILED_SETUP", 31), ("CANCELLED", 33)]
)
def test_a_status_has_its_colour_and_colours_move_no_column(state, code):
    coloured = shown(a_row(state=state), style=COLOURED)
    assert "\x1b[%dm%s\x1b[0m" % (code, state) in coloured
    assert coloured.replace("\x1b[%dm" % code, "").replace("\x1b[0m", "") == shown(a_row(state=state))


def test_json_has_the_reference_keys_and_our_own():
    grants = (Grant("head", 0, ((2, 5000),), 500, 2048),)
    (record,) = queue_json("c", [a_row(exit_codes=(3,), grants=grants)])["c"]
    known = "job_id,job_name,username,user_hash,submitted_at,start_at,end_at"
    assert ",".join(list(record)[:12]) == known + ",resources,status,log_path,metadata,links"
    assert record["end_at"] is None
    assert record["nodes"] == [
        {"node": "head", "rank": 0, "devices": [{"index": 2, "amount": 0.5}], "cpus": 0.5, "memory_mb": 2048}
    ]
    assert json.loads(json.dumps(record)) == record


# Nodes.

NODES = (
    Node("head", 0, tuple(Device(i, "H100") for i in range(4)), cpus=8000, memory=65536),
    Node("worker1", 1, (Device(0, "A100"), Device(1, "V100")), cpus=16000, memory=131072, unusable="drained"),
)
HELD = (
    Holding(7, (Grant("head", 0, ((0, 5000),), 500, 2048), Grant("worker1", 1, ((0, 10000),), 500, 0))),
    Holding(3, (Grant("head", 0, ((1, 10000),), 1500, 0),)),
)


def test_nodes_show_what_is_in_use():
    assert nodes_table(NODES, HELD) == "\n".join(
        [
            "NODE     STATE    DEVICES                                   CPUS    MEMORY    JOBS",
            "head     UP       H100: 1.5 of 4 in use                     2/8     2/64 GB   3, 7",
            "worker1  drained  A100: 1 of 1 in use, V100: 0 of 1 in use  0.5/16  0/128 GB  7",
        ]
    )


QUARANTINED = NODES[0]._replace(
    quarantined=tuple(Quarantine(i, 3, 1, "run-0", 0.0, "pid 4711 (\x1bcat)") for i in (0, 2))
)


def test_devices_in_quarantine_are_counted_and_told_of():
    assert "  H100: 1.5 of 4 in use, 2 in quarantine  " in nodes_table([QUARANTINED], HELD)
    lines = quarantine_text([QUARANTINED, NODES[1]], "lab").splitlines()
    assert [line.partition(" since ")[0] for line in lines[:2]] == [
        "head: device 0 is in quarantine",
        "head: device 2 is in quarantine",
    ]
    assert lines[0].endswith(" of job 3 can't be killed") and "\x1b" not in lines[0]
    assert lines[2].endswith(": skyq resume lab head")
    assert quarantine_text(NODES, "lab") == ""
    devices = nodes_json("lab", [QUARANTINED], HELD)["lab"][0]["devices"]
    assert [bool(device["quarantine"]) for device in devices] == [True, False, True, False]


def test_nodes_in_json():
    head, worker = nodes_json("c", NODES, HELD)["c"]
    assert (head["usable"], worker["usable"], worker["reason"]) == (True, False, "drained")
    assert [device["in_use"] for device in head["devices"]] == [0.5, 1.0, 0, 0]
    assert (head["cpus_in_use"], head["memory_mb_in_use"], head["jobs"]) == (2.0, 2048, [3, 7])
    assert json.loads(json.dumps(head)) == head


# The generic table, and signs.


def test_wide_and_combining_characters_keep_the_columns_in_line():
    lines = table(("A", "B"), [("漢字", "x"), ("e\u0301", "x"), ("abc", "x")]).split("\n")
    assert lines == ["A     B", "漢字  x", "e\u0301     x", "abc   x"]


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5))
def test_a_table_has_one_harmless_line_per_row(rows):
    text = table(("A", "B", "C"), rows)
    assert len(text.split("\n")) == len(rows) + 1
    assert not [char for char in text if unicodedata.category(char)[0] == "C" and char != "\n"]


def test_an_escape_in_a_name_stays_out_of_the_table():
    assert "\x1b" not in shown(a_row(name="x\x1b]0;owned\x07"))


@pytest.mark.parametrize(
    ("isatty", "environment", "colour"),
    [
        (True, {"TERM": "xterm"}, True),
        (False, {"TERM": "xterm"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
    ],
)
def test_colours_are_for_terminals_that_want_them(isatty, environment, colour):
    assert Style.of(isatty, environment).colour is colour


def test_signs():
    style = UNSTYLED
    assert [
        style.started("a"),
        style.finished("b"),
        style.failed("c"),
        style.branch("d"),
        style.last("e"),
    ] == [*("⚙︎ a", "✓ b", "⨯ c", "├── d", "└── e")]
    assert COLOURED.finished("b") == "\x1b[32m✓ b\x1b[0m"


def test_useful_commands_name_what_to_type():
    assert useful_commands("c", 3).split("\n") == [
        "",
        "📋 Useful Commands",
        "Job ID: 3",
        "├── To cancel the job:\t\tskyq cancel c 3",
        "├── To stream job logs:\t\tskyq logs c 3",
        "└── To view job queue:\t\tskyq queue c",
        "Cluster name: c",
        "└── To submit a job:\t\tskyq exec c yaml_file",
    ]
