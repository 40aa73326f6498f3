"""The user's crontab: whatever it holds, every line that isn't skyq's stays as it was, byte for byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skyq.core.crontab import tick_line, with_block, without_block

OWN = "3f2a"
WORDS = ["/bin/sh", "/home/ada/.skyq/bin/skyq", "tick", "lab"]
BLOCK = [b"# skyq begin 3f2a", tick_line(WORDS, OWN).rstrip(b"\n"), b"# skyq end 3f2a"]
LINES = st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")) | st.sampled_from(
    [
        *(
            b"",
            b"# skyq begin 3f2b",
            b"# skyq 3f2",
            b"#skyq 3f2a",
            b"MAILTO=ada",
            b"SHELL=/bin/zsh",
            b"\r",
            b"%\\%",
        ),
        *(
            b"* * * * * x # skyq 3f2ab",
            b"# skyq begin 3f2a # mine",
            b"@reboot x",
            "ä数".encode(),
            b"\xff\x00\x0c",
        ),
    ]
)
CRONTABS = st.lists(st.sampled_from(BLOCK) | LINES, max_size=12).flatmap(
    lambda lines: st.sampled_from([b"\n".join(lines), b"".join(line + b"\n" for line in lines)])
)


def foreign(text: bytes) -> list[bytes]:
    """The lines that don't end, but for white space, in the id of a block of ours."""
    ends = tuple(b"# skyq %s%s" % (word, OWN.encode()) for word in (b"", b"begin ", b"end "))
    return [line for line in text.split(b"\n") if line and not line.rstrip().endswith(ends)]


@given(CRONTABS)
def test_foreign_lines_stay_byte_for_byte_and_in_order(text: bytes) -> None:
    added, removed = with_block(text, OWN, WORDS), without_block(text, OWN)

    assert foreign(added) == foreign(removed) == foreign(text)
    assert [line for line in added.split(b"\n") if line in BLOCK] == BLOCK
    assert not any(line in BLOCK for line in removed.split(b"\n"))
    assert with_block(added, OWN, WORDS) == added and without_block(removed, OWN) == removed
    assert without_block(added, OWN) == removed
    assert len(added) <= len(text) + sum(len(line) + 1 for line in BLOCK)
