"""A node tells who uses its devices without being of a job: a fake nvidia-smi, real processes."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.agent import Agent, Node
from tests.waiting import wait_until

DEVICES = [[0, "GPU-0"], [1, "GPU-1"]]
NVIDIA_SMI = """\
#!/bin/sh
echo "$$" >>"$0.asked"
[ ! -e "$0.hangs" ] || exec sleep 600
case $1 in
--query-compute-apps=gpu_uuid,pid,used_memory,process_name) cat "$0.apps" ;;
--query-gpu=uuid,index,memory.used) cat "$0.devices" ;;
esac
"""
ME = pwd.getpwuid(os.getuid()).pw_name


class Smi:
    """What it says from now on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "nvidia-smi"
        self.path.write_text(NVIDIA_SMI)
        self.path.chmod(0o755)
        self.says()

    def beside(self, name: str) -> Path:
        return Path("%s.%s" % (self.path, name))

    def says(self, *apps: str, devices: str = "GPU-0, 0, 1\nGPU-1, 1, 1\n") -> None:
        for name, text in (("apps", "".join(app + "\n" for app in apps)), ("devices", devices)):
            aside = self.beside(name + ".new")
            aside.write_text(text)
            aside.rename(self.beside(name))

    def times(self) -> int:
        """How often it was asked."""
        asked = self.beside("asked")
        return len(asked.read_text().splitlines()) if asked.exists() else 0


@pytest.fixture
def smi(node: Node, monkeypatch: pytest.MonkeyPatch) -> Smi:
    found = Smi(node.root / "smi")
    monkeypatch.setenv("PATH", "%s:%s" % (found.path.parent, os.environ["PATH"]))
    return found


@pytest.fixture
def stranger() -> Iterator[int]:
    """The pid of a process of no job."""
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    process.kill()
    process.wait()


def look(agent: Agent) -> list[list[object]]:
    """Who uses the devices."""
    agent.say({"do": "look", "devices": DEVICES})
    answer = agent.hear("strangers")
    assert answer["why"] == ""
    return list(answer["found"])


def test_a_stranger_is_told_with_program_account_and_memory(node: Node, smi: Smi, stranger: int) -> None:
    smi.says("GPU-1, %d, 4096, /usr/bin/python3" % stranger)

    assert look(node.agent()) == [[1, stranger, "python3", ME, 4096]]


def test_where_nobody_is_one_look_is_enough(node: Node, smi: Smi) -> None:
    assert look(node.agent()) == []
    assert smi.times() == 2  # for processes, for devices


def test_who_is_gone_at_the_second_look_was_none(node: Node, smi: Smi, stranger: int) -> None:
    smi.says("GPU-0, %d, 1, x" % stranger, "GPU-1, %d, 1, y" % stranger)
    agent = node.agent()
    agent.say({"do": "look", "devices": DEVICES})
    wait_until(lambda: smi.times() == 2, "it is asked")
    time.sleep(0.3)
    smi.says("GPU-1, %d, 1, y" % stranger)

    assert [each[0] for each in agent.hear("strangers")["found"]] == [1]


def test_who_is_known_needs_no_second_look(node: Node, smi: Smi, stranger: int) -> None:
    smi.says("GPU-0, %d, 1, x" % stranger)
    agent = node.agent()
    assert len(look(agent)) == 1
    before = smi.times()
    assert len(look(agent)) == 1
    assert smi.times() == before + 2


def test_no_process_of_a_job_is_a_stranger_whatever_it_does_to_hide(node: Node, smi: Smi) -> None:
    agent = node.agent()
    mine = node.root / "pids"
    agent.start(
        "sleep 600 & echo $! >>%(f)s; setsid sleep 600 & echo $! >>%(f)s; "
        "env -i setsid sleep 600 & echo $! >>%(f)s; echo $$ >>%(f)s; wait" % {"f": mine}
    )
    wait_until(lambda: mine.exists() and mine.read_text().count("\n") == 4, "they run")
    shim = agent.shim().pid
    smi.says(*("GPU-0, %s, 1, x" % pid for pid in [*mine.read_text().split(), shim]))

    assert look(agent) == []
    assert look(node.agent()) == []  # another agent that has forked none of them


def test_a_device_that_is_listed_no_more_or_under_another_number_is_missing(node: Node, smi: Smi) -> None:
    agent = node.agent()
    smi.says(
        devices="GPU-1, 0, 1\nUnable to determine the device handle for GPU0000:17:00.0: Unknown Error\n"
    )
    agent.say({"do": "look", "devices": DEVICES})
    assert agent.hear("strangers")["missing"] == [
        [0, "nvidia-smi says: Unable to determine the device handle for GPU0000:17:00.0: Unknown Error"],
        [1, "nvidia-smi lists it as device 0"],
    ]
    smi.says()
    agent.say({"do": "look", "devices": DEVICES})
    assert agent.hear("strangers")["missing"] == []


def test_what_is_missing_for_a_moment_only_is_not_missing(node: Node, smi: Smi) -> None:
    smi.says(devices="GPU-0, 0, 1\n")
    agent = node.agent()
    agent.say({"do": "look", "devices": DEVICES})
    wait_until(lambda: smi.times() == 2, "it is asked")
    time.sleep(0.3)
    smi.says()

    assert agent.hear("strangers")["missing"] == []


def test_what_hangs_is_given_up_and_holds_up_nothing(
    node: Node, smi: Smi, stranger: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi.beside("hangs").touch()
    agent = node.agent()
    agent.say({"do": "look", "devices": DEVICES})
    wait_until(lambda: smi.times() == 2, "it is asked")
    agent.start("true")
    agent.hear("gone", within=8.0)  # meanwhile a job runs

    answer = agent.hear("strangers")
    assert (answer["found"], answer["why"]) == ([], "nvidia-smi did not answer within 10 s")
    pids = [int(pid) for pid in smi.beside("asked").read_text().split()]
    wait_until(lambda: not any(os.path.exists("/proc/%d" % pid) for pid in pids), "it is killed")
    smi.beside("hangs").unlink()
    smi.says("GPU-0, %d, 1, x" % stranger)
    assert len(look(agent)) == 1


def test_without_the_tool_that_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = node.agent()
    agent.say({"do": "look", "devices": DEVICES})
    answer = agent.hear("strangers")

    assert answer["found"] == []
    assert answer["why"] in ("there is no nvidia-smi", "")  # this machine may have a real one
