"""`logs -s` from a head elsewhere: every byte, nothing twice, and nothing outside of the job's folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from skyq.client.fetch import MARK, Receiver
from skyq.core.errors import SkyqError
from tests.acceptance.test_logs import shown
from tests.cli.laptop import Far, Laptop
from tests.cluster import Result

MEGABYTES = 40


def folder_of(laptop: Laptop) -> Path:
    return laptop.user_home / "sky_logs" / "lab"


def test_the_logs_of_several_jobs_come_here(laptop: Laptop, head: Far) -> None:
    head.file("task.yaml", "name: both\nsetup: echo s\nrun: echo r\n")
    head.ok("launch", "-c", "lab", "task.yaml", "-d")
    head.submit("echo 2")
    head.wait_all([1, 2], "SUCCEEDED")
    result = laptop.ok("logs", "lab", "-s", "1", "2")

    home = folder_of(laptop)
    assert result.lines == [
        "Syncing down logs to local...",
        "Job 1 logs: %s" % (home / "1-both"),
        "Job 2 logs: %s" % (home / "2-sky-cmd"),
    ]
    assert (home / "1-both/tasks/setup.log").read_text() == "s\n"
    assert (home / "1-both/tasks/run.log").read_text() == "r\n"
    assert shown(Result((), 0, (home / "1-both/run.log").read_text(), "")) == ["s", "r"]
    assert not (head.user_home / "sky_logs").exists()


def test_no_job_of_that_number_is_no_error(laptop: Laptop, head: Far) -> None:
    result = laptop.ok("logs", "lab", "-s", "77")

    assert result.out == "No matching log directories found\n"
    assert not folder_of(laptop).exists()


def test_a_large_log_comes_whole_though_the_connection_is_lost_again_and_again(
    laptop: Laptop, head: Far
) -> None:
    head.submit("head -c %d /dev/urandom; echo; seq 10" % (MEGABYTES << 20))
    head.wait(1, "SUCCEEDED")
    raw = folder_of(laptop) / "1-sky-cmd/tasks/run.log"
    process = laptop.start("logs", "lab", "-s")
    sizes = [0]
    while process.poll() is None and len(sizes) < 4:
        if raw.exists() and raw.stat().st_size > sizes[-1]:
            with laptop.cut_off():
                head.until(lambda: not head.agents(), "the agent ends, too")
                sizes.append(raw.stat().st_size)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 0, err
    assert len(sizes) > 1 and b"Connecting again" in err
    assert raw.read_bytes() == head.raw_log(1)
    assert out.decode().count("Job 1 logs: ") == 1
    assert (raw.parent.parent / "run.log").stat().st_size > raw.stat().st_size


def test_what_is_here_is_not_sent_again(laptop: Laptop, head: Far) -> None:
    head.submit("seq 3; %s; seq 4 6" % head.until_open())
    head.until(lambda: head.log(1) == "1\n2\n3\n", "it has written")
    laptop.ok("logs", "lab", "-s")
    raw = folder_of(laptop) / "1-sky-cmd/tasks/run.log"
    assert raw.read_text() == "1\n2\n3\n"
    raw.write_text("A\nB\nC\n")  # so that it can be told apart
    head.open_gate()
    head.wait(1, "SUCCEEDED")
    laptop.ok("logs", "lab", "-s")

    assert raw.read_text() == "A\nB\nC\n4\n5\n6\n"


def test_another_job_of_the_same_number_replaces_it(laptop: Laptop, head: Far) -> None:
    head.submit("echo old and longer")
    head.wait(1, "SUCCEEDED")
    laptop.ok("logs", "lab", "-s")
    (folder_of(laptop) / "1-sky-cmd" / MARK).write_text("of another cluster of that name")
    raw = folder_of(laptop) / "1-sky-cmd/tasks/run.log"
    raw.write_text("something else, longer than that\n")
    laptop.ok("logs", "lab", "-s")

    assert raw.read_text() == "old and longer\n"


def test_links_among_the_logs_are_not_followed_on_the_head(laptop: Laptop, head: Far) -> None:
    head.submit("true")
    head.wait(1, "SUCCEEDED")
    (head.log_folder(1) / "tasks/extra.log").symlink_to("/etc/passwd")
    laptop.ok("logs", "lab", "-s")

    assert sorted(os.listdir(folder_of(laptop) / "1-sky-cmd/tasks")) == ["run.log"]


# What a head may not do.


class Taken:
    """A Receiver, and what it said."""

    def __init__(self, root: Path) -> None:
        self.root = root / "logs"
        self.fetched: list[str] = []
        self.receiver = Receiver(str(self.root), lambda job, folder: self.fetched.append(folder))

    def job(self, *files: tuple[str, int], folder: str = "1-x", mark: str = "m") -> Any:
        reply = self.receiver.take({"is": "job", "id": 1, "folder": folder, "mark": mark, "files": files})
        return json.loads(reply or "")

    def file(self, path: str, data: bytes, offset: int = 0, size: int | None = None) -> None:
        size = offset + len(data) if size is None else size
        self.receiver.take({"is": "file", "path": path, "offset": offset, "size": size})
        self.receiver.take({"offset": offset, "data": data})


@pytest.fixture
def taken(tmp_path: Path) -> Taken:
    return Taken(tmp_path)


BAD = ["../x", "/etc/x", "a/../../x", "..", ".", "", "a//b", "a/", "a\0b", "a\nb", "\x1b[2J", "a/" * 9 + "b"]


@pytest.mark.parametrize("path", [*BAD, MARK, "x" * 300])
def test_a_path_that_leads_elsewhere_is_refused(taken: Taken, path: str, tmp_path: Path) -> None:
    with pytest.raises(SkyqError):
        taken.job((path, 1))
    taken.job(("good", 1))
    with pytest.raises(SkyqError):
        taken.file(path, b"x")

    assert sorted(str(found.relative_to(tmp_path)) for found in tmp_path.rglob("*")) == [
        "logs",
        "logs/1-x",
        "logs/1-x/" + MARK,
    ]


@pytest.mark.parametrize("folder", ["..", "x", "1-x/..", "1-/../../y", "/1-x", "1-\n", ""])
def test_a_folder_that_is_no_jobs_is_refused(taken: Taken, folder: str) -> None:
    with pytest.raises(SkyqError):
        taken.job(("a", 1), folder=folder)
    assert not taken.root.exists()


def test_links_that_lie_here_are_not_followed(taken: Taken, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (taken.root / "1-x").mkdir(parents=True)
    (taken.root / "1-x/tasks").symlink_to(outside)
    (taken.root / "1-x/run.log").symlink_to(outside / "run.log")
    (taken.root / "2-x").symlink_to(outside)
    taken.job(("tasks/a", 1), ("run.log", 1))

    for path in ("tasks/a", "run.log"):
        with pytest.raises(SkyqError, match="can't be written"):
            taken.file(path, b"x")
    with pytest.raises(SkyqError, match="can't be written"):
        taken.job(("a", 1), folder="2-x")
    assert list(outside.iterdir()) == []


def test_pieces_must_follow_each_other(taken: Taken) -> None:
    taken.job(("a", 10))
    taken.file("a", b"xyz", size=10)
    for offset, data in [(4, b"x"), (0, b"x"), (3, b"x" * 8)]:
        with pytest.raises(SkyqError, match="doesn't follow"):
            taken.receiver.take({"offset": offset, "data": data})
    with pytest.raises(SkyqError, match="doesn't follow"):
        taken.file("b", b"x", offset=1)
    taken.receiver.take({"offset": 3, "data": b"1234567"})
    taken.receiver.take({"is": "fetched"})

    assert (taken.root / "1-x/a").read_bytes() == b"xyz1234567"
    assert taken.fetched == [str(taken.root / "1-x")]


def test_what_is_here_counts_only_for_the_same_job(taken: Taken) -> None:
    taken.job(("a", 3))
    taken.file("a", b"xyz")
    taken.receiver.take({"is": "fetched"})

    assert taken.job(("a", 5)) == {"a": 3}
    assert taken.job(("a", 2)) == {"a": 0}
    assert taken.job(("a", 5), mark="another") == {"a": 0}
