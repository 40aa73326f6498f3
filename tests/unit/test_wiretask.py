"""A task survives the way to another skyq, of another version too."""

from __future__ import annotations

import json

import pytest

from skyq.core.errors import ProtocolError
from skyq.core.model import Batch, Git, Recovery, Request, Task, TimeLimit
from skyq.core.wiretask import packed, unpacked

WHOLE = Task(
    name="train",
    num_nodes=2,
    alternatives=(Request("H100", 40_000), Request("A100", 80_000, cpus=4000, memory=1024)),
    priority=5,
    setup="echo s",
    run="echo r",
    git=Git("https://example.org/x.git", "main"),
    envs={"A": "1", "ODD": "\udcff"},
    secrets={"KEY": "s3cret"},
    file_mounts={"data": "~/data"},
    cpus_shown="4+",
    recovery=Recovery(3, (33,), True),
    time_limit=TimeLimit(7200, "USR1", 60),
    warnings=("ports: ignored",),
    batch=Batch((0, 2), (("lr", ("1e-3", "3e-3")),), 8),
)


@pytest.mark.parametrize("task", [Task(), Task(run="echo"), WHOLE])
def test_a_task_arrives_as_it_was_sent(task: Task) -> None:
    assert unpacked(json.loads(json.dumps(packed(task)))) == task


def test_what_a_newer_side_adds_is_left_out() -> None:
    message = packed(WHOLE)
    message["future"] = 1
    message["alternatives"][0]["future"] = 1
    message["git"]["future"] = 1

    assert unpacked(message) == WHOLE


def test_what_an_older_side_does_not_say_is_as_if_nothing_was_said() -> None:
    assert unpacked({"run": "echo"}) == Task(run="echo")


@pytest.mark.parametrize(
    "message",
    [
        {"alternatives": 5},
        {"alternatives": [5]},
        {"git": "x"},
        {"warnings": 1},
        {"batch": 3},
        {"batch": {"sweeps": [3]}},
    ],
)
def test_what_is_no_task_is_refused(message: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        unpacked(message)
