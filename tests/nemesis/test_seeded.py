"""A short run of the nemesis with a fixed seed. By hand it is longer: `python -m tests.nemesis`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nemesis import kernel
from tests.nemesis.run import Nemesis
from tests.ssh.test_upgrade import NEWER, build

SEED = 20
JOBS = 60
SECONDS = 120.0
LONGEST = 6.0  # seconds that a fault lasts
SETTLE = 75.0  # seconds without any change: more than cron takes to look, and than the longest job does


def test_random_jobs_and_random_faults_leave_all_as_it_must_be(lab_possible: None, tmp_path: Path) -> None:
    if reason := kernel.why_not():
        pytest.skip("NOT TESTED: " + reason)
    nemesis = Nemesis(tmp_path, SEED, JOBS, build(tmp_path / "newer", NEWER))
    wrong = nemesis.run(SECONDS, LONGEST, SETTLE)

    assert not wrong, "\n".join(["seed %d" % SEED, *nemesis.history, nemesis.summary(wrong), *wrong])
