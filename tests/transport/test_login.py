"""Logging in: which keys are tried, in which order; what is asked; and what is said when nothing helps."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyq.core.errors import Unreachable
from skyq.transport.login import Keyring
from skyq.transport.ssh import Session
from tests.transport.server import Sshd, new_key

LogIn = Callable[..., Session]


class Person:
    """Types these answers, and notes the prompts."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str | None:
        self.prompts.append(prompt)
        return self.answers.pop(0) if self.answers else None


@pytest.fixture
def agent(tmp_path: Path, sshd_possible: None) -> Iterator[str]:
    """The socket of an SSH agent without keys."""
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    while not path.exists():
        assert process.poll() is None
    yield str(path)
    process.terminate()
    process.wait()


def add(agent: str, key: Path) -> None:
    env = {**os.environ, "SSH_AUTH_SOCK": agent}
    subprocess.run(["ssh-add", "-q", str(key)], env=env, check=True, stderr=subprocess.DEVNULL)


def offered(sshd: Sshd) -> list[str]:
    """The fingerprints of keys that came, in their order."""
    return list(dict.fromkeys(re.findall(r"(?:Failed|Accepted) publickey .*(SHA256:\S+)", sshd.log())))


def shown(key: Path) -> str:
    return subprocess.check_output(["ssh-keygen", "-lf", str(key)], text=True).split()[1]


def stranger(folder: Path, name: str = "stranger", **more: str) -> Path:
    """A key that may not log in."""
    new_key(folder / name, **more)
    return folder / name


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_keys_of_each_kind_log_in(sshd: Sshd, log_in: LogIn, tmp_path: Path, kind: str) -> None:
    sshd.allowed.write_text(new_key(tmp_path / "own", kind))

    assert not log_in(sshd.target(identities=(str(tmp_path / "own"),))).by_password


def test_a_key_in_the_old_format_logs_in(sshd: Sshd, log_in: LogIn, tmp_path: Path) -> None:
    sshd.allowed.write_text(new_key(tmp_path / "own", "rsa"))
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-m", "PEM", "-N", "", "-f", tmp_path / "own"],
        check=True,
        capture_output=True,
    )

    log_in(sshd.target(identities=(str(tmp_path / "own"),)))


def test_files_are_tried_in_their_order_and_missing_ones_left_out(
    sshd: Sshd, log_in: LogIn, tmp_path: Path
) -> None:
    first = stranger(tmp_path)

    log_in(sshd.target(identities=(str(tmp_path / "missing"), str(first), str(sshd.key))))

    assert offered(sshd) == [shown(first), shown(sshd.key)]


def test_the_agent_logs_in(sshd: Sshd, log_in: LogIn, agent: str) -> None:
    add(agent, sshd.key)

    log_in(sshd.target(identities=(), agent=agent))


def test_of_the_agents_keys_the_named_ones_come_first(
    sshd: Sshd, log_in: LogIn, agent: str, tmp_path: Path
) -> None:
    other, file = stranger(tmp_path, "other"), stranger(tmp_path, "file")
    add(agent, other)
    add(agent, sshd.key)

    log_in(sshd.target(identities=(str(file), str(sshd.key)), agent=agent))

    assert offered(sshd) == [shown(sshd.key)]


def test_identities_only_leaves_the_agents_other_keys_alone(
    sshd: Sshd, log_in: LogIn, agent: str, tmp_path: Path
) -> None:
    add(agent, stranger(tmp_path))
    add(agent, sshd.key)
    locked = stranger(tmp_path, "locked", passphrase="secret")

    with pytest.raises(Unreachable):
        log_in(sshd.target(identities=(str(locked),), agent=agent, identities_only=True))

    assert offered(sshd) == []


def test_a_locked_key_that_the_agent_holds_needs_no_passphrase(sshd: Sshd, log_in: LogIn, agent: str) -> None:
    add(agent, sshd.key)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-N", "secret", "-f", sshd.key], check=True, capture_output=True
    )

    log_in(sshd.target(agent=agent, identities_only=True))


@pytest.mark.parametrize("old_format", [False, True])
def test_a_passphrase_is_asked_for_once_for_all_hosts(
    sshd: Sshd, log_in: LogIn, tmp_path: Path, old_format: bool
) -> None:
    own = tmp_path / "own"
    sshd.allowed.write_text(new_key(own, "rsa", "secret"))
    if old_format:
        words = ["ssh-keygen", "-q", "-p", "-m", "PEM", "-P", "secret", "-N", "secret", "-f", own]
        subprocess.run(words, check=True, capture_output=True)
    person = Person("wrong", "secret")
    keyring = Keyring(person)

    log_in(sshd.target(identities=(str(own),)), keyring=keyring)
    log_in(sshd.target(identities=(str(own),), name="node2"), keyring=keyring)

    assert person.prompts == ["Passphrase of %s: " % own] * 2  # the first answer was wrong


def test_no_passphrase_is_asked_for_while_another_key_will_do(
    sshd: Sshd, log_in: LogIn, tmp_path: Path
) -> None:
    locked = stranger(tmp_path, passphrase="secret")
    person = Person()

    log_in(sshd.target(identities=(str(locked), str(sshd.key))), keyring=Keyring(person))

    assert person.prompts == []


def test_without_a_terminal_a_locked_key_is_named(sshd: Sshd, log_in: LogIn, tmp_path: Path) -> None:
    locked = stranger(tmp_path, passphrase="secret")

    with pytest.raises(Unreachable, match="locked by a passphrase: `ssh-add") as error:
        log_in(sshd.target(identities=(str(locked),)))
    assert error.value.kind == "auth"


def test_a_refusal_names_the_keys_that_were_tried_and_what_to_type(
    sshd: Sshd, log_in: LogIn, agent: str, tmp_path: Path
) -> None:
    file = stranger(tmp_path)
    new_key(tmp_path / "held", comment="ada@laptop")
    add(agent, tmp_path / "held")

    with pytest.raises(Unreachable) as error:
        log_in(sshd.target(identities=(str(file),), agent=agent))

    assert error.value.kind == "auth"
    assert "node1" in str(error.value) and sshd.user in str(error.value)
    assert "Tried: ada@laptop of the agent, %s." % file in str(error.value)
    assert "ssh-copy-id -i %s node1" % file in str(error.value)


def test_no_password_is_asked_for_where_the_server_takes_none(
    sshd: Sshd, log_in: LogIn, tmp_path: Path
) -> None:
    person = Person("secret")

    with pytest.raises(Unreachable, match="doesn't let"):
        log_in(sshd.target(identities=(str(stranger(tmp_path)),)), keyring=Keyring(person))

    assert person.prompts == []


def test_a_server_that_takes_only_what_skyq_doesnt_do_is_told(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    sshd = make_sshd().start(PubkeyAuthentication="no", HostbasedAuthentication="yes")

    with pytest.raises(Unreachable, match="nothing but hostbased, which skyq doesn't do"):
        log_in(sshd.target())


def test_no_key_at_all_is_said(sshd: Sshd, log_in: LogIn) -> None:
    with pytest.raises(Unreachable, match="There was no key to try"):
        log_in(sshd.target(identities=()))


def test_too_many_keys_are_said_to_be_too_many(
    make_sshd: Callable[..., Sshd], log_in: LogIn, tmp_path: Path
) -> None:
    sshd = make_sshd().start(MaxAuthTries="2")
    keys = [str(stranger(tmp_path, "key%d" % number)) for number in range(4)]

    with pytest.raises(Unreachable, match="IdentitiesOnly yes") as error:
        log_in(sshd.target(identities=(*keys, str(sshd.key))))
    assert error.value.kind == "auth"


def test_a_fido_key_is_said_to_be_of_no_use(sshd: Sshd, log_in: LogIn, tmp_path: Path) -> None:
    fido = tmp_path / "id_ed25519_sk"
    fido.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    fido.with_suffix(".pub").write_text("sk-ssh-ed25519@openssh.com AAAA me\n")

    with pytest.raises(Unreachable, match="FIDO key, which only an agent can use here"):
        log_in(sshd.target(identities=(str(fido),)))


@pytest.mark.parametrize(
    "text", ["", "no key\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n"]
)
def test_a_file_that_is_no_key_does_no_harm(sshd: Sshd, log_in: LogIn, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad").write_text(text)

    log_in(sshd.target(identities=(str(tmp_path / "bad"), str(sshd.key))))


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("held", [True, False])
def test_a_users_certificate_logs_in(
    make_sshd: Callable[..., Sshd],
    log_in: LogIn,
    agent: str,
    tmp_path: Path,
    kind: str,
    beside: bool,
    held: bool,
) -> None:
    sshd = make_sshd()
    own = stranger(tmp_path, "own", kind=kind)
    new_key(tmp_path / "authority")
    words = [
        "ssh-keygen",
        "-q",
        "-s",
        str(tmp_path / "authority"),
        "-I",
        "me",
        "-n",
        sshd.user,
        str(own) + ".pub",
    ]
    subprocess.run(words, check=True)
    sshd.start(TrustedUserCAKeys=str(tmp_path / "authority.pub"))
    certificate = tmp_path / "own-cert.pub"
    if not beside:
        certificate = certificate.rename(tmp_path / "elsewhere")
    if held:
        add(agent, own)

    log_in(sshd.target(identities=(str(own),), certificates=(str(certificate),), agent=agent if held else ""))

    assert "Accepted certificate" in sshd.log() or "-CERT" in sshd.log()


@pytest.mark.parametrize("where", ["missing", "not a socket"])
def test_an_agent_that_isnt_there_is_done_without(
    sshd: Sshd, log_in: LogIn, tmp_path: Path, where: str
) -> None:
    (tmp_path / "not a socket").touch()

    log_in(sshd.target(agent=str(tmp_path / where)))
