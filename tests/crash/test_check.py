"""The check of a crash's outcome sees each thing that must not be."""

from __future__ import annotations

from typing import Any

import pytest

from tests.crash.check import Expected, Row, Seen, strangers, violations

WELL = Seen(
    rows=[Row(1, "victim", "FAILED", "exit code 7", [7])],
    starts={1: 1},
    ends=[1],
    told=[],
    alive=[],
    logs={1: "said\n"},
    in_use=[],
    integrity="ok",
    files=[],
    said={"dispatcher.log": "12: dispatcher of local"},
)
WANTED = {"victim": Expected([1], True, {"FAILED": [7]}, "said\n")}


def wrong(wanted: dict[str, Expected] | None = None, **seen: Any) -> list[str]:
    return violations(WELL._replace(**seen), WANTED if wanted is None else wanted)


def test_what_is_well_is_no_violation() -> None:
    assert wrong() == []
    assert wrong({"victim": WANTED["victim"], "perhaps": Expected([], False, {})}) == []


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        ({"starts": {1: 2}}, "job 1 ran 2 times"),
        ({"starts": {1: 1, 2: 1}}, "job 2 ran, and isn't in the queue"),
        ({"ends": [1, 1]}, "job 1 ended 2 times"),
        ({"rows": []}, "victim is lost, acknowledged as [1]"),
        ({"rows": [*WELL.rows, Row(2, "victim", "FAILED", "exit code 7", [7])]}, "victim is there 2 times"),
        ({"rows": [*WELL.rows, Row(2, "other", "FAILED", "exit code 7", [7])]}, "other was never submitted"),
        ({"rows": [Row(3, "victim", "FAILED", "exit code 7", [7])]}, "it is job 3"),
        ({"rows": [Row(1, "victim", "SUCCEEDED", "", [0])]}, "it is SUCCEEDED"),
        ({"rows": [Row(1, "victim", "RUNNING", "", [])]}, "it is RUNNING"),
        ({"rows": [Row(1, "victim", "FAILED", "", [7])]}, "without a reason"),
        ({"rows": [Row(1, "victim", "FAILED", "exit code 1", [1])]}, "exit codes [1], not [7]"),
        ({"logs": {1: "sa"}}, "its log is 'sa'"),
        ({"told": ["device 0 is given twice, to job 1"]}, "device 0 is given twice"),
        ({"alive": ["sleep 600"]}, "still alive: sleep 600"),
        ({"in_use": [("node", 0, 1, 10000)]}, "a device is still given"),
        ({"integrity": "wrong # of entries"}, "wrong # of entries"),
        ({"files": ["work/1.part"]}, "nothing will ever remove work/1.part"),
        ({"said": {"dispatcher.log": "Traceback (most recent call last)"}}, "dispatcher.log shows a mistake"),
    ],
)
def test_each_thing_that_must_not_be_is_seen(seen: dict[str, Any], text: str) -> None:
    assert any(text in violation for violation in wrong(**seen)), wrong(**seen)


def test_a_job_that_was_acknowledged_twice_or_refused_must_not_be_there_so() -> None:
    assert "victim was acknowledged as [1, 2]" in wrong({"victim": Expected([1, 2], True, {"FAILED": [7]})})
    assert any("may be" in text for text in wrong({"victim": Expected([], False, {})}))


def test_of_a_strange_folder_only_the_folder_is_told() -> None:
    names = ["work", "work/1", "work/2.part", "work/2.part/a", "work/2.part/a/b"]

    assert strangers(names, [r"work", r"work/\d+"]) == ["work/2.part"]
