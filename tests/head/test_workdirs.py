"""Copies of folders that come while another connection brings the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyq.core.paths import ClusterDir, Home
from skyq.head.workdirs import Copy, collect_parts
from skyq.transport import parcel
from skyq.transport.parcel import Parcel, item_of

NAMES = ("one", "two")


@pytest.fixture
def where(tmp_path: Path) -> ClusterDir:
    """A cluster, and beside it a folder with two files."""
    (tmp_path / "source").mkdir()
    for name in NAMES:
        (tmp_path / "source" / name).write_text(name)
    found = Home(str(tmp_path / "state")).cluster("local")
    Path(found.root).mkdir(parents=True)
    return found


def come(copy: Copy, source: Path) -> Parcel:
    """All bytes have come, but for those of files that another connection has brought as a whole."""
    coming = copy.parcel("")
    coming.announced([list(item_of(str(source), name)) for name in NAMES])
    for number in coming.lacks():
        coming.bytes(number, 0, (source / NAMES[number]).read_bytes())
    return coming


@pytest.mark.parametrize("breaks", ["before the other has all", "after that"])
def test_what_a_broken_connection_left_goes_once_another_has_all(
    where: ClusterDir, tmp_path: Path, breaks: str
) -> None:
    first = Copy(where, "0" * 32).__enter__()
    come(first, tmp_path / "source")
    with Copy(where, "0" * 32) as second:
        coming = come(second, tmp_path / "source")
        assert coming.used == {first.part}
        if breaks != "after that":
            first.__exit__(KeyboardInterrupt)
        second.take(coming, 1)
        second.keep("")
    if breaks == "after that":
        first.__exit__(KeyboardInterrupt)

    assert sorted(path.name for path in Path(where.workdirs).iterdir()) == ["0" * 32, "0" * 32 + ".json"]


def test_a_copy_that_is_removed_is_gone_by_its_name_before_any_of_it(
    where: ClusterDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is killed in between leaves no half copy in which a job could run once more."""
    copy = Path(where.workdir("0" * 32))
    (copy / "sub").mkdir(parents=True)
    monkeypatch.setattr(parcel, "remove_tree", lambda part: None)  # killed here
    parcel.remove_copy(str(copy))
    (half,) = Path(where.workdirs).iterdir()
    assert half.name.startswith("0" * 32) and half.name.endswith(parcel.PART)

    collect_parts(where.workdirs, age=-1)
    assert list(Path(where.workdirs).iterdir()) == []
