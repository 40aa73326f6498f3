"""Copies of folders that come while another connection brings the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyq.core.paths import ClusterDir, Home
from skyq.head.workdirs import Copy
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
    parcel = copy.parcel("")
    parcel.announced([list(item_of(str(source), name)) for name in NAMES])
    for number in parcel.lacks():
        parcel.bytes(number, 0, (source / NAMES[number]).read_bytes())
    return parcel


@pytest.mark.parametrize("breaks", ["before the other has all", "after that"])
def test_what_a_broken_connection_left_goes_once_another_has_all(
    where: ClusterDir, tmp_path: Path, breaks: str
) -> None:
    first = Copy(where, "0" * 32).__enter__()
    come(first, tmp_path / "source")
    with Copy(where, "0" * 32) as second:
        parcel = come(second, tmp_path / "source")
        assert parcel.used == {first.part}
        if breaks != "after that":
            first.__exit__(KeyboardInterrupt)
        second.take(parcel, 1)
        second.keep("")
    if breaks == "after that":
        first.__exit__(KeyboardInterrupt)

    assert sorted(path.name for path in Path(where.workdirs).iterdir()) == ["0" * 32, "0" * 32 + ".json"]
