"""Folders on their way: whole, only what lacks, and never outside of where they belong."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from skyq.core.errors import ProtocolError
from skyq.core.protocol import Decoder, greeting
from skyq.transport.parcel import (
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


def sent(
    roots: Sequence[tuple[str, Item]], into: Path, base: str = "", known: dict[str, list[int]] | None = None
) -> tuple[Parcel, int]:
    """The parcel as it arrived, and how many files had to come."""
    into.mkdir()
    parcel, decoder = Parcel(str(into), base, known or {}), Decoder()
    list(decoder.feed(greeting()))
    for message in decoder.feed(b"".join(announcement({"name": "x"}, [item for _, item in roots]))):
        if message["do"] == "entries":
            parcel.announced(message["entries"])
    lacks = parcel.lacks()
    for message in decoder.feed(b"".join(contents(roots, lacks))):
        if message["do"] == "bytes":
            parcel.bytes(message["n"], message["at"], message["data"])
    parcel.finish()
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
