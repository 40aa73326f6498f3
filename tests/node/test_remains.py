"""What ended jobs left on a worker is listed, and removed, but for what is shown there or may live."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.node.agent import Agent, Node

OLD, SHOWN, LAST = "1" * 32, "2" * 32, "3" * 32


@pytest.fixture
def work(node: Node) -> Path:
    """Three copies of folders: one that nothing needs, one that ~/sky_workdir shows, one that came last."""
    folder = node.root / "work"
    for age, name in enumerate((LAST, SHOWN, OLD)):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("x" * 10_000)
        record = folder / (name + ".sent")
        record.write_text("{}")
        os.utime(record, (1000 - age, 1000 - age))
    (node.home / "sky_workdir").symlink_to(folder / SHOWN)
    return folder


def listed(agent: Agent) -> dict[str, int]:
    agent.say({"do": "list"})
    return {message["name"]: message["size"] for message in answers(agent, "left")}


def removed(agent: Agent, *names: str) -> list[str]:
    agent.say({"do": "remove", "names": list(names)})
    return [message["name"] for message in answers(agent, "removed")]


def answers(agent: Agent, kind: str) -> list[dict[str, Any]]:
    found = []
    while not (message := agent.hear(kind)).get("last"):
        found.append(message)
    return found


def test_what_is_shown_and_what_came_last_stays(node: Node, work: Path) -> None:
    agent = node.agent()
    assert [(name, size >= 10_000) for name, size in listed(agent).items()] == [("work/" + OLD, True)]
    assert removed(agent, *("work/" + name for name in (OLD, SHOWN, LAST))) == ["work/" + OLD]

    assert sorted(path.name for path in work.iterdir()) == [SHOWN, SHOWN + ".sent", LAST, LAST + ".sent"]


def test_what_a_shown_copy_shows_parts_of_stays(node: Node, work: Path) -> None:
    (work / SHOWN / "sub").mkdir()
    (work / SHOWN / "sub" / "added").symlink_to(work / OLD / "file")

    assert listed(node.agent()) == {}


def test_a_mount_stays_for_as_long_as_it_is_shown(node: Node, work: Path) -> None:
    mount, target = OLD + "-mount-0", node.root / "data"
    (work / mount / "mount").mkdir(parents=True)
    (work / (mount + ".shown")).write_text(str(target))
    target.symlink_to(work / mount / "mount")
    agent = node.agent()
    assert list(listed(agent)) == ["work/" + OLD]
    target.unlink()

    assert removed(agent, "work/" + mount) == ["work/" + mount]
    assert not (work / (mount + ".shown")).exists()


def test_the_run_directory_of_a_step_goes_when_nothing_of_it_lives(node: Node) -> None:
    agent = node.agent()
    agent.start("sleep 600")
    agent.hear("running")
    assert listed(agent) == {}
    agent.stop()
    agent.hear("gone")
    (name,) = listed(agent)

    assert name == "run/" + Path(node.run().root).name
    assert removed(agent, name) == [name] and not os.path.exists(node.run().root)


def test_folders_that_nobody_may_write_to_go_and_those_of_the_head_stay(node: Node, work: Path) -> None:
    (work / OLD / "cache").mkdir()
    (work / OLD / "cache" / "locked").write_text("x")
    (work / OLD / "cache").chmod(0o500)
    theirs = node.root / "head" / "copy"
    theirs.mkdir(parents=True)
    (work / ("4" * 32)).symlink_to(theirs)
    names = ["work/" + OLD, "work/" + "4" * 32]

    assert removed(node.agent(), *names) == names
    assert theirs.is_dir()


def test_no_other_name_is_removed(node: Node, work: Path) -> None:
    precious = node.home / "precious"
    precious.mkdir()
    names = [
        "work/../home/precious",
        "../home/precious",
        str(precious),
        "",
        "work",
        "run",
        "work/" + OLD + ".sent",
    ]

    assert removed(node.agent(), *names) == []
    assert precious.is_dir() and (work / (OLD + ".sent")).exists()
