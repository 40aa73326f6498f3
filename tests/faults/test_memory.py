"""A job that the kernel kills for memory says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import LocalQueue


@pytest.fixture
def limited() -> Iterator[Path]:
    """A memory cgroup of 40 MB: its cgroup.procs."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    parent = Path("/sys/fs/cgroup") if unified.exists() else Path("/sys/fs/cgroup/memory")
    group = parent / ("skyq-test-%d" % os.getpid())
    try:
        group.mkdir()
        limit = "memory.max" if unified.exists() else "memory.limit_in_bytes"
        (group / limit).write_text(str(40 << 20))
    except OSError as error:
        pytest.skip("NOT TESTED: no memory cgroup can be made here (%s)" % error)
    yield group / "cgroup.procs"
    group.rmdir()


def test_out_of_memory_is_the_reason(queue: LocalQueue, limited: Path) -> None:
    job = queue.submit("echo $$ >%s && exec python3 -c 'len(bytearray(400 << 20))'" % limited)
    reason = queue.wait(job, "FAILED")["reason"]

    assert reason.startswith("exit code 137") and "out of memory: the kernel killed a process" in reason
    assert "out of memory" in queue.ok("why", str(job)).out
