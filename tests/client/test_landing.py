"""The first word with a machine, over a process in place of a connection: the shells and Pythons are real."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from skyq.client.landing import Landing, Unfit, program, shell_line
from skyq.client.slices import Slice, Whole
from skyq.core import protocol
from skyq.core.errors import HostClaimed, SkyqError, Unreachable
from skyq.core.keylines import DEFAULT_LAUNCHER
from tests.client.conftest import Start
from tests.test_zipapp import pythons


def land(start: Start, shell: str = "/bin/sh", **environment: str) -> Landing:
    return Landing("there", start(shell_line(len(program())), shell, **environment))


@pytest.fixture
def build(pyz: str, tmp_path: Path) -> Slice:
    return Whole(pyz, str(tmp_path / "wheels"), print).for_worker()


def test_it_says_what_is_there_and_changes_nothing(start: Start, home: Path) -> None:
    landing = land(start)
    found = landing.hello()
    landing.close()

    assert found["root"] == str(home / ".skyq") and found["usual"]
    assert found["claim"] is None and found["builds"] == [] and found["lacks"] == []
    assert [path.name for path in home.iterdir()] == ["stderr"]


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "fish", "tcsh", "csh"])
def test_it_lands_from_every_login_shell(start: Start, build: Slice, home: Path, shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip("NOT TESTED: there is no %s here" % shell)
    landing = land(start, path)
    landing.hello()
    landing.become(build)

    assert landing.ask("facts", {"devices": False})["cpus"] > 0
    assert [path.name for path in (home / ".skyq/bin").iterdir()] == [build.name]


def test_what_the_shell_says_before_is_skipped(start: Start, build: Slice) -> None:
    noise = "printf 'Welcome!\\nskyq-land'; echo noise >&2; " + shell_line(len(program()))
    landing = Landing("there", start(noise))
    landing.hello()
    landing.become(build)
    assert landing.ask("facts", {"devices": False})


def test_a_file_that_is_there_is_not_sent_again(start: Start, build: Slice, home: Path) -> None:
    first = land(start)
    first.hello()
    first.become(build)
    first.close()
    seen = (home / ".skyq/bin" / build.name).stat()

    second = land(start)
    assert second.hello()["builds"] == [build.name]
    second.become(build.name)

    assert second.ask("facts", {"devices": False})
    assert (home / ".skyq/bin" / build.name).stat().st_mtime_ns == seen.st_mtime_ns


def test_a_python_without_zlib_gets_it_uncompressed(start: Start, build: Slice) -> None:
    landing = land(start)
    landing.hello()
    landing.become(build, compressed=False)
    assert landing.ask("facts", {"devices": False})


def test_what_changed_on_its_way_never_gets_its_name(start: Start, build: Slice, home: Path) -> None:
    landing = land(start)
    landing.hello()
    with pytest.raises(Unfit, match="changed on its way"):
        landing.become(build._replace(data=build.data + b"more"))
    assert list((home / ".skyq/bin").iterdir()) == [] if (home / ".skyq/bin").exists() else True


def test_a_home_that_can_not_be_written_to_is_named(start: Start, build: Slice, home: Path) -> None:
    (home / ".skyq").write_text("a file is in the way")
    landing = land(start)
    landing.hello()
    with pytest.raises(Unfit, match="can't be written") as raised:
        landing.become(build)
    assert str(home / ".skyq") in str(raised.value) and "ssh there" in str(raised.value)


@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_an_old_python_is_enough_for_a_worker(start: Start, build: Slice, home: Path, version: str) -> None:
    path = pythons(version).get(version)
    if path is None:
        pytest.skip("NOT TESTED: there is no Python %s here" % version)
    landing = land_with(start, home, python3=path)
    assert landing.hello()["python"][:2] == [3, int(version[2:])]
    landing.become(build)

    assert landing.ask("launcher", {"libraries": False})["launcher"] == DEFAULT_LAUNCHER
    assert landing.ask("claim", {"cluster": "lab", "id": "1", "head": "h", "state_dir": ""})
    started = subprocess.run(
        ["/bin/sh", home / ".skyq/bin/skyq", "--version"],
        env={"HOME": str(home)},
        capture_output=True,
        check=False,
    )
    assert started.stdout.startswith(b"skyq "), started.stderr


def land_with(start: Start, home: Path, **programs: str) -> Landing:
    """Where there are these programs and no others, neither on PATH nor where else one looks."""
    (home / "bin").mkdir()
    for name, path in programs.items():
        (home / "bin" / name.replace("_", ".")).symlink_to(path)
    line = shell_line(len(program())).replace("/usr/local/bin:/usr/bin:/bin:", "")
    return Landing("there", start(line, PATH=str(home / "bin")))


def test_the_newest_fitting_python_is_taken_though_python3_is_older(start: Start, home: Path) -> None:
    found = pythons("3.8", "3.12")
    if len(found) < 2:
        pytest.skip("NOT TESTED: this needs Python 3.8 and 3.12")
    landing = land_with(start, home, python3=found["3.8"], python3_12=found["3.12"])
    assert landing.hello()["python"][:2] == [3, 12]


@pytest.mark.parametrize("there", ["none", "old"])
def test_without_a_python_it_says_what_is_needed(start: Start, home: Path, there: str) -> None:
    (home / "old").write_text("#!/bin/sh\n[ $1 = --version ] && echo Python 3.6.1; exit 1\n")
    (home / "old").chmod(0o755)
    landing = land_with(start, home, **({"python3": str(home / "old")} if there == "old" else {}))

    with pytest.raises(Unfit, match=r"3\.8 or newer") as raised:
        landing.hello()

    assert ("Python 3.6.1 is too old" in str(raised.value)) == (there == "old")


def test_a_shell_that_starts_nothing_is_told_from_a_machine_that_died(
    start: Start, build: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one with `exec fish`, or a question, in its ~/.bashrc."""
    monkeypatch.setattr(protocol, "FIRST_WORD", 0.5)
    landing = Landing("there", start("echo Which project?; exec sleep 60"))
    with pytest.raises(Unreachable, match=r"started nothing within 0 s, and said: Which project\?") as raised:
        landing.hello()
    assert "~/.bashrc" in str(raised.value) and "ssh there true" in str(raised.value)


def test_a_shell_that_lets_nobody_in_is_quoted(start: Start) -> None:
    landing = Landing("there", start("cat >/dev/null & echo This account is not available.; exit 1"))
    with pytest.raises(SkyqError, match="This account is not available"):
        landing.hello()


# What it does there.


@pytest.fixture
def there(start: Start, build: Slice) -> Landing:
    landing = land(start)
    landing.hello()
    landing.become(build)
    return landing


CLAIM = {"cluster": "lab", "id": "1", "head": "node0", "state_dir": ""}
AUTHORIZE = {"key": "ssh-ed25519 AAAA", "cluster": "lab", "id": "1", "launcher": DEFAULT_LAUNCHER}


def test_the_key_is_authorized_once_and_the_file_keeps_its_mode(there: Landing, home: Path) -> None:
    (home / ".ssh").mkdir()
    keys = home / ".ssh/authorized_keys"
    keys.write_bytes(b"ssh-rsa AAAA ada without newline")
    keys.chmod(0o640)

    for _ in range(2):
        there.ask("authorize", AUTHORIZE)

    ours, others = keys.read_bytes().split(b"\n", 1)
    assert ours.endswith(b"skyq:lab:1") and others == b"ssh-rsa AAAA ada without newline"
    assert keys.stat().st_mode & 0o777 == 0o640


def test_a_new_authorized_keys_is_private(there: Landing, home: Path) -> None:
    there.ask("authorize", AUTHORIZE)
    assert (home / ".ssh").stat().st_mode & 0o777 == 0o700
    assert (home / ".ssh/authorized_keys").stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(there: Landing, home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / "elsewhere").write_bytes(b"")
    (home / ".ssh/authorized_keys").symlink_to(home / "elsewhere")
    there.ask("authorize", AUTHORIZE)
    assert (home / ".ssh/authorized_keys").is_symlink()
    assert b"skyq:lab:1" in (home / "elsewhere").read_bytes()


def test_a_claimed_machine_is_refused_with_the_cluster_and_its_owner(there: Landing, home: Path) -> None:
    there.ask("claim", CLAIM)
    there.ask("claim", CLAIM)
    with pytest.raises(HostClaimed, match="cluster 'lab' of"):
        there.ask("claim", {**CLAIM, "cluster": "other", "id": "2"})
    claim = json.loads((home / "skyq-host.claim").read_text())
    assert claim["cluster"] == "lab"


def test_a_claim_is_seen_before_anything_is_sent(there: Landing, start: Start, home: Path) -> None:
    there.ask("claim", {**CLAIM, "state_dir": str(home)})
    found = land(start).hello()["claim"]
    assert (found["cluster"], found["mine"], found["headed"], found["gone"]) == ("lab", True, True, False)


def test_a_claim_of_a_deleted_queue_is_told_as_such(there: Landing, start: Start) -> None:
    there.ask("claim", {**CLAIM, "state_dir": "/gone"})
    assert land(start).hello()["claim"]["gone"]


def test_the_end_leaves_the_home_as_it_was(there: Landing, home: Path) -> None:
    (home / ".ssh").mkdir()
    keys = home / ".ssh/authorized_keys"
    keys.write_bytes(b"ssh-rsa AAAA ada\n")
    there.ask("facts", {"devices": False})
    there.ask("launcher", {"libraries": False})
    there.ask("claim", CLAIM)
    there.ask("authorize", AUTHORIZE)
    (home / ".skyq/nodes/lab.0123/run").mkdir(parents=True)
    (home / ".skyq/home-token.01234567.new").touch()  # somebody was killed
    os.utime(home / ".skyq/home-token.01234567.new", (1e9, 1e9))

    there.ask("leave", {"cluster": "lab", "id": "1", "end": True})

    assert keys.read_bytes() == b"ssh-rsa AAAA ada\n"
    assert not (home / ".skyq").exists() and not (home / "skyq-host.claim").exists()


def test_the_end_of_one_cluster_leaves_another_what_it_needs(there: Landing, home: Path) -> None:
    there.ask("launcher", {"libraries": False})
    (home / ".skyq/nodes/other.0123/run").mkdir(parents=True)
    there.ask("leave", {"cluster": "lab", "id": "1", "end": True})
    assert os.access(home / ".skyq/bin/skyq", os.X_OK)


def test_what_it_does_not_know_it_says_so(there: Landing) -> None:
    with pytest.raises(SkyqError, match="doesn't know"):
        there.ask("dance", {})


def test_what_interrupted_contacts_left_goes_and_new_builds_stay(there: Landing, home: Path) -> None:
    month_ago = time.time() - 40 * 86400
    folder = home / ".skyq/bin"
    for number in range(6):
        old = folder / ("skyq-0.0.%d-0123456789abcdef.pyz" % number)
        old.touch()
        os.utime(old, (month_ago + number, month_ago + number))
    (folder / "skyq-0.0.9-0123456789abcdef.pyz.77").touch()
    (folder / "skyq-0.0.8-0123456789abcdef.pyz.77").touch()
    os.utime(folder / "skyq-0.0.8-0123456789abcdef.pyz.77", (month_ago, month_ago))

    there.ask("launcher", {"libraries": False})

    left = {path.name.split("-")[1] + path.suffix for path in folder.glob("*.pyz*") if "0.0." in path.name}
    assert left == {"0.0.5.pyz", "0.0.4.pyz", "0.0.3.pyz", "0.0.9.77"}


@pytest.mark.parametrize("usable", [True, False])
def test_the_launcher_of_a_newer_skyq_stays_if_that_can_start(
    there: Landing, home: Path, usable: bool
) -> None:
    path = home / ".skyq/bin/skyq"
    there.ask("launcher", {"libraries": False})
    own = path.read_text()
    newer = re.sub(r"Written by skyq [\d.]+: ", "Written by skyq 99.0.0: ", own)
    newer = newer if usable else re.sub("^main=.*", "main=/gone", newer, flags=re.MULTILINE)
    assert newer != own
    path.write_text(newer)

    there.ask("launcher", {"libraries": False})

    assert path.read_text() == (newer if usable else own)
