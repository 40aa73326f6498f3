"""Small files and links are there whole or not at all, and the killed leave nothing for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skyq.transport.aside import WRITING, aside, write_whole
from skyq.transport.parcel import turn_link


def left_by_a_killed_process(path: Path, age: float = 2 * WRITING) -> Path:
    """Something under a name that aside() gave out."""
    found = Path(aside(str(path)))
    found.write_text("half")
    os.utime(found, (found.stat().st_mtime - age,) * 2)
    return found


def test_the_next_write_removes_what_killed_ones_left_and_nothing_else(tmp_path: Path) -> None:
    others = [tmp_path / "file.bak", tmp_path / "file.12345678.new.txt", tmp_path / "my-file.12345678.new"]
    for path in others:
        path.write_text("mine")
    old = left_by_a_killed_process(tmp_path / "file")
    young = left_by_a_killed_process(tmp_path / "file", age=0)
    write_whole(str(tmp_path / "file"), b"all of it", 0o640)

    assert (tmp_path / "file").read_text() == "all of it" and (
        tmp_path / "file"
    ).stat().st_mode & 0o777 == 0o640
    assert not old.exists() and young.exists() and all(path.exists() for path in others)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(str(tmp_path / "file"), b"all of it")
    with pytest.raises(IsADirectoryError):
        turn_link(str(tmp_path / "file"), "/elsewhere")

    assert os.listdir(tmp_path) == ["file"]


def test_a_link_is_turned_whatever_killed_processes_of_any_number_left(tmp_path: Path) -> None:
    link = tmp_path / "sky_workdir"
    link.symlink_to("former")
    Path("%s.%d" % (link, os.getpid())).symlink_to("a process of this number was killed here")
    old = left_by_a_killed_process(link)
    turn_link(str(link), "new")

    assert os.readlink(link) == "new" and not old.exists()
