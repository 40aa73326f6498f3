"""What a head refuses before it is one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from skyq.cli import setup
from skyq.core.errors import SkyqError
from skyq.head import founding


def test_a_folder_that_no_shell_can_be_told_is_refused_before_anything_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYQ_HOME", str(tmp_path / "ada's"))
    with pytest.raises(SkyqError, match=r"ada's/.* mean something to a shell\. Set SKYQ_HOME"):
        founding.begin("lab", "lab")
    assert os.listdir(tmp_path / "ada's") == []


@pytest.mark.parametrize("killed", ["before there is a queue", "before there is a claim", "after that"])
def test_a_host_that_was_to_be_the_head_and_becomes_a_worker_forgets_the_queue_that_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    monkeypatch.setenv("SKYQ_HOME", str(tmp_path / "skyq"))
    monkeypatch.setenv("SKYQ_CLAIM_DIR", str(tmp_path / "claims"))
    monkeypatch.setattr(founding, "_take_turn", lambda *_: None)  # it is held until a process ends
    own = founding.begin("lab", "lab")["id"]
    state = tmp_path / "skyq" / "clusters" / "lab"
    claim = {"cluster": "lab", "head": "here", "state_dir": str(state), "node": "here"}
    setup._claim({**claim, "id": own})
    assert (state / "queue.db").exists(), "it is that very cluster's head"

    if killed != "after that":
        (tmp_path / "claims" / "skyq-host.claim").unlink()
    if killed == "before there is a queue":
        shutil.rmtree(state)
        state.mkdir()
    setup._claim({**claim, "id": "of another head", "head": "there", "state_dir": "/"})
    assert not state.exists()


def test_a_cluster_whose_first_contact_was_interrupted_takes_no_more_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them would be taken for the head."""
    monkeypatch.setenv("SKYQ_HOME", str(tmp_path / "skyq"))
    monkeypatch.setattr(founding, "_take_turn", lambda *_: None)
    founding.begin("lab", "lab")
    with pytest.raises(SkyqError, match="was interrupted"):
        founding.enlist("lab", {}, [])
    assert founding.names("lab") == []


def test_a_half_written_key_of_who_was_killed_is_gone_after_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYQ_HOME", str(tmp_path / "skyq"))
    monkeypatch.setattr(founding, "_take_turn", lambda *_: None)
    keys = tmp_path / "skyq" / "clusters" / "lab" / "ssh"
    keys.mkdir(parents=True)
    (keys / "id_ed25519.0a1b2c3d.new").touch()
    told = founding.begin("lab", "lab")["key"]
    (keys / "id_ed25519.pub.0a1b2c3d.new").touch()
    assert founding.begin("lab", "lab")["key"] == told
    assert sorted(os.listdir(keys)) == ["id_ed25519", "id_ed25519.pub"]
