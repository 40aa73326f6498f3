"""A sample of the crash points: `python -m tests.crash` walks them all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import NO_LAB
from tests.crash.__main__ import Walk
from tests.crash.remote import REMOTE
from tests.crash.trace import Point, why_not
from tests.lab.possible import why_not as why_no_lab

SAMPLE = {
    ("first", "full"): [r"command \d+ mkdir .*/app/\.new-\w+-cpython[^/]*$"],
    ("submit", "kill"): [
        r"command \d+ openat .*/queue\.db$",
        r"command \d+ fsync .*/secrets/\w+\.json",
        r"command \d+ fdatasync .*\.db-wal",
        r"command \d+ clone ",
    ],
    ("submit", "enospc"): [r"command \d+ write .*/secrets/\w+\.json", r"command \d+ pwrite64 .*\.db-wal"],
    ("submit", "eio"): [r"command \d+ fdatasync .*\.db-wal"],
    ("workdir", "kill"): [
        r"command \d+ rename .*\.part ",
        r"command \d+ pwrite64 .*\.db-wal",
        r"command \d+ rename .*sky_workdir",
    ],
    ("workdir", "enospc"): [r"command \d+ symlink .*sky_workdir"],
    ("tick", "kill"): [r"dispatcher \d+ fdatasync .*\.db-wal", r"dispatcher \d+ mkdir .*/tasks$"],
    ("start", "kill"): [
        r"agent \d+ link .*\.claim$",
        r"agent \d+ clone ",
        r"shim \d+ rename .*/started$",
        r"shim \d+ write pipe:",
        r"script \d+ execve ",
    ],
    ("start", "enospc"): [r"agent \d+ mkdir .*\.run-0$", r"shim \d+ openat .*/started\.new"],
    ("finish", "kill"): [r"shim \d+ rename .*/exit$", r"dispatcher \d+ fdatasync .*\.db-wal"],
    ("stop", "kill"): [r"agent \d+ (kill|pidfd_send_signal) ", r"dispatcher \d+ fdatasync .*\.db-wal"],
    ("cancel", "kill"): [r"command \d+ fdatasync .*\.db-wal"],
    ("upgrade", "kill"): [r"command \d+ rename .*/app/", r"command \d+ fdatasync .*\.db-wal"],
    ("upgrade-worker", "kill"): [r"setup \d+ rename .*/bin/skyq$", r"agent \d+ execve "],
}
"""(operation, what happens) → where. Of several points that fit it is the last one of a command, which does
the same each time, and the first one of a dispatcher, which does as much as time allows."""


MISSES = 5
"""Times that what was counted may not come to pass: a write more or less, by what else goes on."""


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, session_dir: Path) -> Iterator[Walk]:
    if reason := why_not():
        pytest.skip("NOT TESTED: " + reason)
    found = Walk(tmp_path_factory.mktemp("crash"), program=session_dir)
    yield found
    found.close()


@pytest.mark.parametrize(("operation", "kind"), SAMPLE)
def test_all_recovers_from_a_crash_at(walk: Walk, operation: str, kind: str) -> None:
    if operation in REMOTE and (reason := why_no_lab()):
        pytest.skip(NO_LAB + reason)
    for pattern in SAMPLE[operation, kind]:
        for missed in range(MISSES):
            point = _point(walk.points(operation, anew=missed > 0), pattern)
            outcome = walk.run(operation, point, kind)
            if outcome.hit or outcome.wrong:
                break
        assert outcome.hit, "%s was not met\n%s" % (point, outcome.evidence)
        assert not outcome.wrong, "%s %s: %s\n%s" % (kind, outcome.hit, outcome.wrong, outcome.evidence)


def _point(points: list[Point], pattern: str) -> Point:
    fitting = [point for point in points if re.match(pattern, str(point))]
    assert fitting, "no point like %s in\n%s" % (pattern, "\n".join(map(str, points)))
    return fitting[0 if fitting[0].role == "dispatcher" else -1]
