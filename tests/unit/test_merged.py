"""One text of the logs of several steps: whole, in the order of arrival, and from any place on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.cli import merged
from skyq.cli.merged import Merged

PIECES = st.lists(st.tuples(st.sampled_from(["run-0", "run-1", "run-2"]), st.text("ab\n", min_size=1)))


class Logs:
    """The raw logs of three ranks and their index."""

    def __init__(self, folder: Path) -> None:
        self.paths = {"run-%d" % rank: folder / ("%d.log" % rank) for rank in range(3)}
        self.index = folder / "run.idx"

    def write(self, step: str, text: str, named: bool = True) -> None:
        size = self.paths[step].stat().st_size if self.paths[step].exists() else 0
        with open(self.paths[step], "a") as file:
            file.write(text)
        if named:
            with open(self.index, "a") as file:
                file.write("%s %d %d\n" % (step, size, len(text)))

    def open(self) -> Merged:
        return Merged({step: str(path) for step, path in self.paths.items()}, str(self.index))


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


def read(text: Merged) -> list[tuple[str, str]]:
    """All there is, as (step, text), what comes of one step at once put together."""
    found: list[tuple[str, str]] = []
    while new := [(step, chunk.decode()) for step, chunk in text.read() if chunk]:
        for step, chunk in new:
            if found and found[-1][0] == step:
                chunk = found.pop()[1] + chunk
            found.append((step, chunk))
    return found


def test_pieces_come_in_the_order_of_the_index(logs: Logs) -> None:
    for step, text in [("run-1", "one\n"), ("run-0", "two\n"), ("run-1", "three\n")]:
        logs.write(step, text)

    assert read(logs.open()) == [("run-1", "one\n"), ("run-0", "two\n"), ("run-1", "three\n")]


def test_what_the_index_does_not_name_comes_last_in_rank_order(logs: Logs) -> None:
    logs.write("run-2", "named\n")
    logs.write("run-1", "b\n", named=False)
    logs.write("run-0", "a\n", named=False)

    assert read(logs.open()) == [("run-2", "named\n"), ("run-0", "a\n"), ("run-1", "b\n")]


def test_without_an_index_steps_come_whole_one_after_the_other(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "CHUNK", 4)
    logs.write("run-1", "longer than a chunk", named=False)
    logs.write("run-0", "this one too", named=False)

    assert read(logs.open()) == [("run-0", "this one too"), ("run-1", "longer than a chunk")]


def test_what_is_written_while_one_reads_comes_once(logs: Logs) -> None:
    text = logs.open()
    logs.write("run-0", "early\n", named=False)
    assert read(text) == [("run-0", "early\n")]
    logs.index.write_text("run-0 0 6\n")  # its line comes late
    logs.write("run-1", "late\n")

    assert read(text) == [("run-1", "late\n")]


def test_a_half_written_line_is_waited_for_and_a_broken_one_passed_over(logs: Logs) -> None:
    logs.write("run-0", "a\n")
    logs.write("run-1", "b\n", named=False)
    with open(logs.index, "a") as file:
        file.write("run-1 0")
    text = logs.open()
    assert read(text) == [("run-0", "a\n"), ("run-1", "b\n")]
    with open(logs.index, "a") as file:
        file.write("run-2 0 2\n")  # by another dispatcher: the one before was killed within its line
    logs.write("run-2", "c\n", named=False)
    logs.write("run-0", "d\n")

    assert read(text) == [("run-0", "d\n"), ("run-2", "c\n")]


def test_a_step_that_is_not_ready_holds_up_what_came_after_it(logs: Logs) -> None:
    logs.write("run-0", "a\n")
    logs.write("run-1", "b\n")
    text = logs.open()

    assert [chunk for _, chunk in text.read(lambda step: step != "run-0") if chunk] == []
    assert read(text) == [("run-0", "a\n"), ("run-1", "b\n")]


def test_a_piece_whose_file_is_gone_holds_up_nothing(logs: Logs) -> None:
    logs.write("run-0", "a\n")
    logs.write("run-1", "b\n")
    logs.paths["run-0"].unlink()

    assert read(logs.open()) == [("run-1", "b\n")]


@given(PIECES, st.integers(1, 7))
def test_nothing_is_lost_or_doubled_however_small_the_chunks(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[str, str]], chunk: int
) -> None:
    logs = Logs(tmp_path_factory.mktemp("logs"))
    for step, text in pieces:
        logs.write(step, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merged, "CHUNK", chunk)
        patch.setattr(merged, "_BLOCK", 32)
        found = "".join(text for _, text in read(logs.open()))

    assert found == "".join(text for _, text in pieces)


@given(
    st.lists(st.tuples(st.sampled_from(["run-0", "run-1"]), st.integers(0, 9), st.booleans())),
    st.integers(1, 12),
)
def test_the_tail_is_the_end_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, int, bool]], count: int
) -> None:
    logs = Logs(tmp_path_factory.mktemp("logs"))
    for step, number, _ in lines:
        logs.write(step, "%d\n" % number)
    whole = "".join(text for _, text in read(logs.open()))
    text = logs.open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merged, "_BLOCK", 16)
        text.skip_to_tail(count)

    assert "".join(chunk for _, chunk in read(text)).splitlines() == whole.splitlines()[-count:]


def test_the_tail_begins_with_what_the_index_does_not_name(logs: Logs) -> None:
    for number in range(5):
        logs.write("run-%d" % (number % 2), "%d\n" % number)
    logs.write("run-0", "x\ny", named=False)
    text = logs.open()
    text.skip_to_tail(3)
    assert read(text) == [("run-0", "4\nx\ny")]
    logs.write("run-1", "after\n")

    assert read(text) == [("run-1", "after\n")]
