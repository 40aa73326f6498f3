"""Host keys: known ones pass, unknown ones are asked about, others are refused before anything is sent."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from skyq.core.errors import Unreachable
from skyq.core.paths import Home
from skyq.transport.keys import fingerprint
from skyq.transport.ssh import Session
from skyq.transport.trust import Trust, pin
from tests.transport.server import Sshd, new_key

LogIn = Callable[..., Session]


def refusal(log_in: LogIn, sshd: Sshd, trust: Trust | None = None, **more: object) -> Unreachable:
    """Why there is no session; and nobody tried to log in."""
    with pytest.raises(Unreachable) as error:
        log_in(sshd.target(**more), trust)
    assert "publickey" not in sshd.log()
    return error.value


def another_key(tmp_path: Path, kind: str = "ed25519") -> str:
    return " ".join(new_key(tmp_path / ("other_" + kind), kind).split()[:2])


def test_an_unknown_key_is_refused_with_its_fingerprint_and_what_to_type(sshd: Sshd, log_in: LogIn) -> None:
    sshd.known_hosts.unlink()

    error = refusal(log_in, sshd)

    assert error.kind == "host-key-unknown"
    assert fingerprint(sshd.host_key) in str(error)
    assert "--accept-new-host-keys" in str(error)
    assert "ssh node1" in str(error)


def test_an_unknown_key_is_asked_about_once_and_then_pinned(sshd: Sshd, log_in: LogIn, home: Home) -> None:
    sshd.known_hosts.unlink()
    asked: list[str] = []

    def yes(question: str) -> bool:
        asked.append(question)
        return True

    log_in(sshd.target(), Trust(home, yes))
    log_in(sshd.target(), Trust(home, yes))
    log_in(sshd.target())

    assert len(asked) == 1
    assert "node1" in asked[0] and fingerprint(sshd.host_key) in asked[0]
    assert Path(home.known_hosts).read_text() == "%s %s\n" % (sshd.name, sshd.host_key)
    assert not sshd.known_hosts.exists()


def test_an_unknown_key_that_is_not_accepted_is_refused_and_not_pinned(
    sshd: Sshd, log_in: LogIn, home: Home
) -> None:
    sshd.known_hosts.unlink()

    assert refusal(log_in, sshd, Trust(home, lambda question: False)).kind == "host-key-unknown"
    assert not Path(home.known_hosts).exists()


def test_new_keys_can_be_accepted_without_a_question(sshd: Sshd, log_in: LogIn, home: Home) -> None:
    sshd.known_hosts.unlink()

    log_in(sshd.target(), Trust(home, accept_new=True))

    assert log_in(sshd.target()).host_keys == sshd.host_key


def test_many_at_once_ask_one_question(sshd: Sshd, log_in: LogIn, home: Home) -> None:
    sshd.known_hosts.unlink()
    asked: list[str] = []
    trust = Trust(home, lambda question: not asked.append(question))
    threads = [threading.Thread(target=log_in, args=(sshd.target(), trust)) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(asked) == 1
    assert Path(home.known_hosts).read_text().count("\n") == 1


@pytest.mark.parametrize("accept_new", [False, True])
def test_a_changed_key_is_always_refused(
    sshd: Sshd, log_in: LogIn, home: Home, tmp_path: Path, accept_new: bool
) -> None:
    sshd.known_hosts.write_text("# mine\n%s %s\n" % (sshd.name, another_key(tmp_path)))

    error = refusal(log_in, sshd, Trust(home, lambda question: True, accept_new))

    assert error.kind == "host-key-changed"
    assert "%s line 2" % sshd.known_hosts in str(error)
    assert "ssh-keygen -R '%s'" % sshd.name in str(error)
    assert fingerprint(sshd.host_key) in str(error)


def test_what_the_error_says_to_type_mends_it(sshd: Sshd, log_in: LogIn, home: Home, tmp_path: Path) -> None:
    pin(home.known_hosts, sshd.name, another_key(tmp_path))
    sshd.known_hosts.write_text(Path(home.known_hosts).read_text())
    advice = str(refusal(log_in, sshd)).splitlines()[-1].partition("ssh-keygen")[2]

    for command in ("ssh-keygen" + advice).split("; "):
        subprocess.run(["sh", "-c", command], check=True)

    log_in(sshd.target(), Trust(home, accept_new=True))


def test_a_key_of_another_kind_than_the_known_one_is_refused(
    sshd: Sshd, log_in: LogIn, home: Home, tmp_path: Path
) -> None:
    sshd.known_hosts.write_text("%s %s\n" % (sshd.name, another_key(tmp_path, "ecdsa")))

    assert refusal(log_in, sshd, Trust(home, accept_new=True)).kind == "host-key-changed"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_of_several_host_keys_the_known_one_is_asked_for(
    make_sshd: Callable[..., Sshd], log_in: LogIn, kind: str
) -> None:
    sshd = make_sshd(kinds=["ed25519", "ecdsa", "rsa"]).start()
    sshd.known_hosts.write_text("%s %s\n" % (sshd.name, sshd.host_keys[kind]))

    assert log_in(sshd.target()).host_keys == sshd.host_keys[kind]


def test_hashed_names_are_understood(sshd: Sshd, log_in: LogIn) -> None:
    subprocess.run(["ssh-keygen", "-Hf", str(sshd.known_hosts)], check=True, capture_output=True)
    assert sshd.name not in sshd.known_hosts.read_text()

    log_in(sshd.target())


@pytest.mark.parametrize(
    "names",
    ["[127.0.0.*]:{port}", "other,[127.0.0.?]:{port}", "*", "127.0.0.1", "[127.0.0.1]:{port},!nobody"],
)
def test_patterns_and_a_name_without_its_port_are_understood(sshd: Sshd, log_in: LogIn, names: str) -> None:
    sshd.known_hosts.write_text("%s %s\n" % (names.format(port=sshd.port), sshd.host_key))

    log_in(sshd.target())


@pytest.mark.parametrize(
    "names",
    ["*,!*127.0.0.1*", "![127.0.0.1]:{port},[127.0.0.1]:{port}", "[127.0.0.1]:1", "127.0.0.[0-9]"],
)
def test_what_is_excluded_or_another_name_is_not_the_host(sshd: Sshd, log_in: LogIn, names: str) -> None:
    sshd.known_hosts.write_text("%s %s\n" % (names.format(port=sshd.port), sshd.host_key))

    assert refusal(log_in, sshd).kind == "host-key-unknown"


def test_an_alias_for_the_hosts_key_is_looked_up_instead(sshd: Sshd, log_in: LogIn) -> None:
    sshd.known_hosts.write_text("farm %s\n" % sshd.host_key)

    assert refusal(log_in, sshd, host_key_alias="other").kind == "host-key-unknown"
    log_in(sshd.target(host_key_alias="farm"))


def test_a_revoked_key_is_refused_though_it_is_known(sshd: Sshd, log_in: LogIn, home: Home) -> None:
    pin(home.known_hosts, sshd.name, sshd.host_key)
    sshd.known_hosts.write_text("@revoked * %s\n" % sshd.host_key)

    error = refusal(log_in, sshd, Trust(home, accept_new=True))

    assert error.kind == "host-key-changed"
    assert "revoked" in str(error)


def test_a_certificate_authority_is_said_to_be_of_no_use(sshd: Sshd, log_in: LogIn, tmp_path: Path) -> None:
    sshd.known_hosts.write_text("@cert-authority * %s\n" % another_key(tmp_path))

    error = refusal(log_in, sshd)

    assert error.kind == "host-key-unknown"
    assert "doesn't check host certificates" in str(error)


def test_a_host_with_a_certificate_is_known_by_its_plain_key(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    sshd = make_sshd()
    new_key(sshd.folder / "authority")
    public = sshd.folder / "host_ed25519.pub"
    words = ["ssh-keygen", "-q", "-s", str(sshd.folder / "authority"), "-I", "host", "-h", str(public)]
    subprocess.run(words, check=True)
    sshd.start(HostCertificate=str(sshd.folder / "host_ed25519-cert.pub"))

    log_in(sshd.target())


def test_lines_that_are_none_do_no_harm(sshd: Sshd, log_in: LogIn) -> None:
    good = sshd.known_hosts.read_text()
    sshd.known_hosts.write_bytes(
        b"\xff\xfe\n|1|x|y a b\n@revoked\n\n[ * c\n%s x y\n" % sshd.name.encode() + good.encode()
    )

    log_in(sshd.target())


def test_the_dispatcher_trusts_one_file_alone(sshd: Sshd, log_in: LogIn, home: Home, tmp_path: Path) -> None:
    only = tmp_path / "only"
    only.touch()

    assert refusal(log_in, sshd, Trust(home, only=str(only))).kind == "host-key-unknown"

    only.write_text(sshd.known_hosts.read_text())
    log_in(sshd.target(known_hosts=()), Trust(home, only=str(only)))


def test_a_pin_comes_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "new" / "known_hosts"
    pin(str(path), "a", "ssh-ed25519 AAAA")
    path.write_text("torn")

    pin(str(path), "b", "ssh-ed25519 BBBB")

    assert path.read_text() == "torn\nb ssh-ed25519 BBBB\n"
    assert path.parent.stat().st_mode & 0o777 == 0o700
