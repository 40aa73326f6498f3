"""What a head refuses before it is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skyq.core.errors import SkyqError
from skyq.head import founding


def test_a_folder_that_no_shell_can_be_told_is_refused_before_anything_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYQ_HOME", str(tmp_path / "ada's"))
    with pytest.raises(SkyqError, match=r"ada's/.* mean something to a shell\. Set SKYQ_HOME"):
        founding.begin("lab", "lab")
    assert os.listdir(tmp_path / "ada's") == []
