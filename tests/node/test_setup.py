"""What first contacts leave in ~/.skyq/bin."""

from __future__ import annotations

import os
from pathlib import Path

from skyq.core.paths import Home
from skyq.node.setup import ABANDONED, tidy


def test_what_broken_contacts_left_goes_and_what_another_one_just_renamed_is_no_trouble(
    tmp_path: Path,
) -> None:
    home = Home(str(tmp_path))
    Path(home.bin).mkdir()
    old, young = Path(home.bin, "skyq-1-a.pyz.0123"), Path(home.bin, "skyq-1-a.pyz.4567")
    for path in (old, young):
        path.touch()
    os.utime(old, (old.stat().st_mtime - 2 * ABANDONED,) * 2)
    Path(home.bin, "skyq-1-a.pyz.89ab").symlink_to("listed, and gone before anybody looked")
    tidy(home, "")

    assert not old.exists() and young.exists()
