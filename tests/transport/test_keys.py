"""Keys are such as OpenSSH makes and names."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from skyq.transport.keys import fingerprint, make_key


def test_a_key_is_one_that_openssh_reads_and_only_its_owner_can(tmp_path: Path) -> None:
    path = tmp_path / "id"

    line = make_key(str(path), "skyq:lab")

    assert subprocess.check_output(["ssh-keygen", "-yf", path], text=True).split() == line.split()[:2]
    assert (tmp_path / "id.pub").read_text() == line + "\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_there_stays(tmp_path: Path) -> None:
    line = make_key(str(tmp_path / "id"))
    (tmp_path / "id.pub").unlink()

    assert make_key(str(tmp_path / "id")) == line
    assert (tmp_path / "id.pub").exists()


def test_a_fingerprint_is_what_ssh_keygen_prints(tmp_path: Path) -> None:
    line = make_key(str(tmp_path / "id"))

    shown = subprocess.check_output(["ssh-keygen", "-lf", tmp_path / "id"], text=True)

    assert fingerprint(line) == shown.split()[1]


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 not/base64!"])
def test_what_is_no_key_has_no_fingerprint(line: str) -> None:
    with pytest.raises(ValueError, match="no public key"):
        fingerprint(line)
