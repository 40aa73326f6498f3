"""Between machines: passwords, hosts that are off or cut off, hosts that stand still."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyq.transport.hosts import Target
from skyq.transport.keycopy import own_public_key
from tests.lab import PASSWORD, Lab, Traits
from tests.lab.traits import USER
from tests.program import ROOT
from tests.transport.server import new_key

Visit = Callable[..., dict[str, Any]]


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    """Has visitor.py log in from a lab's client to its node0."""
    known_hosts, own = tmp_path / "known_hosts", tmp_path / "own"
    new_key(own)

    def visit(lab: Lab, **more: Any) -> dict[str, Any]:
        node = lab.node(0)
        known_hosts.write_text("%s %s\n" % (node.address, node.host_key))
        order = {
            "host": node.address,
            "user": USER,
            "identities": [str(lab.client.home / ".ssh" / "id_ed25519")],
            "known_hosts": str(known_hosts),
            "home": str(tmp_path / "skyq"),
            **more,
        }
        # Only its network is the client's: this machine's Python and files are at hand.
        prefix = [word for word in lab.client.prefix if word not in ("--mount", "--pid", "--ipc")]
        words = [*prefix, sys.executable, "-m", "tests.transport.visitor", json.dumps(order)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return visit


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(1, 0, traits={"node0": Traits(sshd={"PasswordAuthentication": "yes"})})


def test_a_password_is_asked_for_when_keys_fail_and_a_key_installed(
    lab: Lab, visit: Visit, tmp_path: Path
) -> None:
    own = str(tmp_path / "own")
    line = own_public_key(Target("", "", 22, "", (str(tmp_path / "none"), own)))

    first = visit(lab, identities=[own], types=["wrong", PASSWORD], install=line)
    again = visit(lab, identities=[own], types=[PASSWORD], install=line)

    assert first["by_password"] and first["installed"] and first["said"] == "node0\n"
    assert first["prompts"] == ["Password of %s on there (%s): " % (USER, lab.node(0).address)] * 2
    assert (again["by_password"], again["installed"], again["prompts"]) == (False, False, [])
    path = lab.node(0).home / ".ssh" / "authorized_keys"
    assert path.read_text().splitlines()[-1] == line
    assert path.stat().st_mode & 0o077 == 0


def test_a_key_is_installed_by_any_login_shell_and_on_a_line_of_its_own(
    make_lab: Callable[..., Lab], visit: Visit, tmp_path: Path
) -> None:
    for shell in ("/bin/dash", "/bin/csh", "/usr/bin/fish"):
        if not Path(shell).exists():
            continue
        lab = make_lab(1, 0, traits={"node0": Traits(shell=shell)})
        keys = lab.node(0).home / ".ssh" / "authorized_keys"
        keys.write_text(keys.read_text() + "# torn")

        assert visit(lab, install="ssh-ed25519 AAAA me")["installed"], shell

        assert keys.read_text().endswith("# torn\nssh-ed25519 AAAA me\n"), shell


def test_three_wrong_passwords_are_enough(lab: Lab, visit: Visit, tmp_path: Path) -> None:
    found = visit(lab, identities=[str(tmp_path / "own")], types=["a", "b", "c", PASSWORD])

    assert found["kind"] == "auth"
    assert len(found["prompts"]) == 3
    assert "a" not in found["error"].split()


def test_nobody_is_asked_for_a_password_where_a_key_will_do(lab: Lab, visit: Visit) -> None:
    assert visit(lab, types=[PASSWORD])["prompts"] == []


def test_without_a_terminal_no_password_is_asked_for(lab: Lab, visit: Visit, tmp_path: Path) -> None:
    found = visit(lab, identities=[str(tmp_path / "own")])

    assert found["kind"] == "auth"
    assert "ssh-copy-id" in found["error"]


def test_a_second_proof_is_asked_for(make_lab: Callable[..., Lab], visit: Visit) -> None:
    options = {"PasswordAuthentication": "yes", "AuthenticationMethods": "publickey,password"}
    lab = make_lab(1, 0, traits={"node0": Traits(sshd=options)})

    assert visit(lab, types=[PASSWORD])["said"] == "node0\n"
    assert visit(lab)["kind"] == "auth"


def test_hosts_that_cant_be_reached_are_told_apart(lab: Lab, visit: Visit) -> None:
    kinds = {}
    lab.cut("node0")
    kinds["cut"] = visit(lab, patience=2.0)["kind"]
    lab.heal("node0")
    lab.node(0).stop_sshd()
    kinds["stopped"] = visit(lab)["kind"]
    lab.node(0).start_sshd()
    lab.node(0).freeze()
    kinds["frozen"] = visit(lab, patience=2.0)["kind"]
    lab.node(0).thaw()
    kinds["elsewhere"] = visit(lab, host="192.0.2.1")["kind"]

    assert kinds == {"cut": "timeout", "stopped": "refused", "frozen": "frozen", "elsewhere": "no-route"}
    assert visit(lab)["said"] == "node0\n"
