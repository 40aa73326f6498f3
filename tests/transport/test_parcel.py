"""Folders on their way: whole, only what lacks, and never outside of where they belong."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from skyq.core.errors import ProtocolError
from skyq.core.protocol import Decoder, greeting
from skyq.transport.parcel import (
    PIECE,
    Item,
    Parcel,
    announcement,
    contents,
    item_of,
    lacks_message,
    show_additions,
)

NAMES = ["plain", "a b", "new\nline", "-dash", "ünïcode", os.fsdecode(b"\xff\xfe"), "$(x)`y`'\""]


def roots_of(folder: Path) -> list[tuple[str, Item]]:
    """Everything below a folder, each folder before what is in it."""
    paths = sorted(
        os.path.relpath(os.path.join(at, name), folder) for at, d, f in os.walk(folder) for name in d + f
    )
    return [(os.path.join(folder, path), item_of(str(folder), path)) for path in paths]


def begun(roots: Sequence[tuple[str, Item]], into: Path, pieces: int) -> Parcel:
    """A parcel of which only so many frames came before the connection broke."""
    into.mkdir()
    parcel, decoder = Parcel(str(into), "", {}), Decoder()
    list(decoder.feed(greeting()))
    parcel.announced([list(item) for _, item in roots])
    for frame, _ in zip(contents(roots, parcel.lacks()), range(pieces)):
        for message in decoder.feed(frame):
            parcel.bytes(message["n"], message["at"], message["data"])
    parcel.abandon()
    return parcel


def sent(
    roots: Sequence[tuple[str, Item]],
    into: Path,
    base: str = "",
    known: dict[str, list[int]] | None = None,
    rests: Sequence[str] = (),
) -> tuple[Parcel, int]:
    """The parcel as it arrived, and how many files had to come."""
    into.mkdir()
    parcel, decoder = Parcel(str(into), base, known or {}, rests), Decoder()
    list(decoder.feed(greeting()))
    for message in decoder.feed(b"".join(announcement({"name": "x"}, [item for _, item in roots]))):
        if message["do"] == "entries":
            parcel.announced(message["entries"])
    lacks = parcel.lacks()
    for message in decoder.feed(b"".join(contents(roots, lacks))):
        if message["do"] == "bytes":
            parcel.bytes(message["n"], message["at"], message["data"])
    parcel.finish()
    parcel.settle()
    return parcel, len(lacks)


def test_names_modes_times_links_and_empty_folders_arrive(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    (source / "deep" / "er").mkdir(parents=True)
    for name in NAMES:
        (source / name).write_text("text of %r" % name, errors="surrogateescape")
    (source / "deep" / "er" / "script").write_bytes(os.urandom(200_000))
    (source / "deep" / "er" / "script").chmod(0o755)
    (source / "nothing").touch()
    (source / "link").symlink_to("deep/er/script")
    (source / "dangling").symlink_to("/nowhere")
    os.utime(source / "plain", ns=(1, 1_500_000_000_123_456_789))
    sent(roots_of(source), tmp_path / "copy")

    there, here = roots_of(tmp_path / "copy"), roots_of(source)
    assert [item.path for _, item in there] == [item.path for _, item in here]
    for (copy, its), (original, item) in zip(there, here):
        assert (its.mode, its.target) == (item.mode, item.target)
        if stat.S_ISREG(item.mode):
            assert its.mtime_ns == item.mtime_ns
            assert Path(copy).read_bytes() == Path(original).read_bytes()


def test_only_what_changed_comes_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / str(number)).write_text(str(number))
    first, came = sent(roots_of(source), tmp_path / "first")
    assert came == 20
    (source / "7").write_text("seven")
    (tmp_path / "first" / "9").write_text("X")  # a job wrote to its copy
    (tmp_path / "first" / "11").unlink()
    _, came = sent(roots_of(source), tmp_path / "second", first.root, first.record())
    assert came == 3
    assert [(tmp_path / "second" / name).read_text() for name in ("7", "9", "11")] == ["seven", "9", "11"]
    (tmp_path / "second" / "3").write_text("changed")
    assert (tmp_path / "first" / "3").read_text() == "3", "what jobs write to is never shared"


def test_what_was_whole_when_the_connection_broke_does_not_come_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    for name in ("deep/a", "b", "c"):
        (source / name).write_bytes(os.urandom(3 * PIECE))
    rest = begun(roots_of(source), tmp_path / "rest", 5)  # b, and two thirds of c

    parcel, came = sent(roots_of(source), tmp_path / "copy", rests=[rest.root])
    assert came == 2 and parcel.used == {rest.root}
    for name in ("deep/a", "b", "c"):
        assert (tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes()


def test_a_rest_of_a_file_that_changed_since_is_not_taken(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_bytes(os.urandom(100))
    rest = begun(roots_of(source), tmp_path / "rest", 2)
    (source / "a").write_bytes(os.urandom(100))

    parcel, came = sent(roots_of(source), tmp_path / "copy", rests=[rest.root, str(tmp_path / "gone")])
    assert came == 2 and not parcel.used
    assert (tmp_path / "copy" / "a").read_bytes() == (source / "a").read_bytes()


def test_what_two_tries_left_is_shared_with_no_job(tmp_path: Path) -> None:
    """Each took it from the former one, and the last one was kept: a job writes there."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("text")
    rests: list[str] = []
    for name in ("one", "two", "kept", "next"):
        sent(roots_of(source), tmp_path / name, rests=rests)
        if name == "kept":
            shutil.rmtree(tmp_path / "two")  # who has used it removes it
        rests = [str(tmp_path / "one")] if name == "kept" else [str(tmp_path / name)]

    files = [(tmp_path / name / "a").stat() for name in ("kept", "next")]
    assert files[0].st_ino != files[1].st_ino and files[0].st_mtime_ns == files[1].st_mtime_ns


def test_nothing_is_taken_of_a_rest_through_a_link(tmp_path: Path) -> None:
    for name in ("source/out", "outside", "rest"):
        (tmp_path / name).mkdir(parents=True)
    for folder in ("source/out", "outside"):
        (tmp_path / folder / "x").write_text(folder[:6])  # of the same length
        os.utime(tmp_path / folder / "x", (1, 1))
    (tmp_path / "rest" / "out").symlink_to(tmp_path / "outside")

    _, came = sent(roots_of(tmp_path / "source"), tmp_path / "copy", rests=[str(tmp_path / "rest")])
    assert came == 1 and (tmp_path / "copy" / "out" / "x").read_text() == "source"


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "a//b", "", ".", "./a", "a\0b"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    parcel = Parcel(str(tmp_path), "", {})
    with pytest.raises(ProtocolError):
        parcel.announced([[path, stat.S_IFREG | 0o644, 1, 1, ""]])


def test_nothing_is_written_through_a_link_of_the_parcel(tmp_path: Path) -> None:
    """It says that `out` is a link, and brings a file below it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    into = tmp_path / "into"
    into.mkdir()
    parcel = Parcel(str(into), "", {})
    link, file = ["out", stat.S_IFLNK | 0o777, 0, 0, str(outside)], ["out/x", stat.S_IFREG | 0o644, 1, 0, ""]
    parcel.announced([link, file])
    with suppress(OSError, ProtocolError):
        for number in parcel.lacks():
            parcel.bytes(number, 0, b"!")
        parcel.finish()
    assert not list(outside.iterdir())


def test_nothing_is_written_through_a_link_that_was_there(tmp_path: Path) -> None:
    outside, into = tmp_path / "outside", tmp_path / "into"
    outside.mkdir()
    into.mkdir()
    (into / "out").symlink_to(outside)
    parcel = Parcel(str(into), "", {})
    parcel.announced([["out/x", stat.S_IFREG | 0o644, 1, 0, ""]])
    with pytest.raises(ProtocolError):
        for number in parcel.lacks():
            parcel.bytes(number, 0, b"!")
    assert not list(outside.iterdir())


FILE, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


def attempted(into: Path, *heaps: list[list[object]]) -> None:
    """A parcel of these entries comes, each heap said to be the last; whoever sends it knows no shame."""
    parcel = Parcel(str(into), "", {})
    with suppress(OSError, ProtocolError):
        for heap in heaps:
            parcel.announced(heap)
            for number in parcel.lacks() if heap is heaps[0] else ():
                parcel.bytes(number, 0, b"!")
        parcel.finish()


def everything(folder: Path) -> list[object]:
    return [(path.name, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))]


@pytest.mark.parametrize(
    "heaps",
    [
        [[["out", LINK, 0, 0, "OUTSIDE"], ["out/x", LINK, 0, 0, "/etc/passwd"]]],
        [[["out", LINK, 0, 0, "OUTSIDE"], ["out/new", FOLDER, 0, 0, ""]]],
        [[["out", LINK, 0, 0, "OUTSIDE"]], [["out/there", FOLDER, 0, 1, ""], ["out", FOLDER, 0, 1, ""]]],
        [[["out", LINK, 0, 0, "OUTSIDE"]], [["out/x", FILE, 1, 0, ""]]],
    ],
    ids=["link", "folder", "late-folder", "late-file"],
)
def test_nothing_outside_changes_by_a_link_and_what_lies_behind_it(
    tmp_path: Path, heaps: list[list[list[object]]]
) -> None:
    outside, into = tmp_path / "outside", tmp_path / "into"
    (outside / "there").mkdir(parents=True, mode=0o700)
    (outside / "x").write_text("mine")
    into.mkdir()
    before = everything(outside)
    heaps = [[[str(outside) if e == "OUTSIDE" else e for e in entry] for entry in heap] for heap in heaps]

    attempted(into, *heaps)
    assert everything(outside) == before and (outside / "x").read_text() == "mine"


@pytest.mark.parametrize("entry", [["out/new", FOLDER, 0, 0, ""], ["out/x", LINK, 0, 0, "/etc/passwd"]])
def test_no_folder_or_link_is_made_through_a_link_that_was_there(tmp_path: Path, entry: list[object]) -> None:
    """A repository may hold it."""
    outside, into = tmp_path / "outside", tmp_path / "into"
    for folder in (outside, into):
        folder.mkdir()
    (into / "out").symlink_to(outside)

    attempted(into, [entry])
    assert not list(outside.iterdir())


def test_set_uid_and_what_is_no_file_does_not_arrive(tmp_path: Path) -> None:
    entries: list[list[object]] = [
        ["folder", stat.S_IFDIR | 0o7777, 0, 0, ""],
        ["file", stat.S_IFREG | 0o7755, 1, 0, ""],
        ["device", stat.S_IFCHR | 0o666, 0, 0, ""],
        ["disk", stat.S_IFBLK | 0o666, 0, 0, ""],
        ["pipe", stat.S_IFIFO | 0o666, 0, 0, ""],
        ["socket", stat.S_IFSOCK | 0o666, 0, 0, ""],
    ]
    attempted(tmp_path, entries)

    assert {path.name: stat.S_IMODE(path.lstat().st_mode) for path in tmp_path.iterdir()} == {
        "folder": 0o777,
        "file": 0o755,
    }


HUGE = 10**30


@pytest.mark.parametrize(
    "entry",
    [
        5,
        [],
        ["a"],
        ["a", None, 0, 0, ""],
        ["a", FILE, float("inf"), 0, ""],
        ["a", FILE, float("nan"), 0, ""],
        ["a", HUGE, 0, 0, ""],
        ["a", -1, 0, 0, ""],
        ["a", FILE, -1, 0, ""],
        ["a", FILE, 0, HUGE, ""],
        ["a", FILE, 0, -HUGE, ""],
        ["a/" * 1500 + "a", FOLDER, 0, 0, ""],
        ["a", LINK, 0, 0, "x\0y"],
    ],
)
def test_an_entry_that_no_file_has_is_refused(tmp_path: Path, entry: object) -> None:
    with pytest.raises(ProtocolError):
        Parcel(str(tmp_path), "", {}).announced([entry])


@pytest.mark.parametrize("at", [-1, 1 << 40, HUGE])
def test_a_piece_far_beyond_what_was_announced_is_refused(tmp_path: Path, at: int) -> None:
    parcel = Parcel(str(tmp_path), "", {})
    parcel.announced([["a", FILE, 5, 0, ""]])
    with pytest.raises(ProtocolError):
        parcel.bytes(0, at, b"x")


@pytest.mark.parametrize("asked", [[5], [-1], [1]])
def test_a_sender_gives_no_more_than_it_announced(tmp_path: Path, asked: list[int]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    roots = [(str(tmp_path / name), item_of(str(tmp_path), name)) for name in ("file", "folder")]
    with pytest.raises(ProtocolError):
        list(contents(roots, asked))


def test_a_receiver_takes_no_more_than_was_announced(tmp_path: Path) -> None:
    parcel = Parcel(str(tmp_path), "", {})
    parcel.announced([["folder", stat.S_IFDIR | 0o755, 0, 0, ""]])
    for number in (0, 1, -1):
        with pytest.raises(ProtocolError):
            parcel.bytes(number, 0, b"x")


def test_many_wishes_fit_into_messages_of_a_bounded_size() -> None:
    messages = list(lacks_message(range(100_000)))
    assert [number for message in messages for number in message["files"]] == list(range(100_000))
    assert max(len(message["files"]) for message in messages) <= 20_000
    assert [message.get("last") for message in messages] == [None] * (len(messages) - 1) + [True]


def test_what_jobs_added_shows_in_the_next_copy_and_what_the_user_deleted_does_not(tmp_path: Path) -> None:
    base, part = tmp_path / "base", tmp_path / "part"
    for folder in (base / "kept", part / "kept", base / ".venv"):
        folder.mkdir(parents=True)
    for path in ("kept/made", ".venv/x", "deleted"):
        (base / path).touch()
    (part / "kept" / "file").touch()
    show_additions(str(base), str(part), {"kept", "kept/file"}, {"deleted", "kept"})
    assert os.readlink(part / ".venv") == str(base / ".venv")
    assert (part / "kept" / "made").exists() and not (part / "deleted").exists()
