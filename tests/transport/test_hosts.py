"""The way to a host is what the user's ~/.ssh/config says, as OpenSSH reads it."""

from __future__ import annotations

import getpass
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from skyq.core.errors import Unreachable
from skyq.core.host import Host
from skyq.transport.hosts import Target, resolve
from tests.machine import which

ME = getpass.getuser()
HOME = pwd.getpwuid(os.getuid()).pw_dir

Configure = Callable[[str], Path]


@pytest.fixture
def configure(sshd_possible: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """What is written here is what `ssh` reads instead of ~/.ssh/config."""
    config = tmp_path / "config"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text('#!/bin/sh\nexec %s -F %s "$@"\n' % (which("ssh"), config))
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (programs, os.environ["PATH"]))
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")

    def write(text: str) -> Path:
        config.write_text(text)
        return config

    return write


def test_a_host_that_nothing_is_said_about_is_reached_as_ssh_would(configure: Configure) -> None:
    configure("")

    found = resolve(Host("box"))

    assert (found.name, found.hostname, found.port, found.user) == ("box", "box", 22, ME)
    assert "%s/.ssh/id_ed25519" % HOME in found.identities
    assert not found.identities_only
    assert found.agent == "/run/agent"
    assert found.known_hosts[0] == "%s/.ssh/known_hosts" % HOME
    assert "/etc/ssh/ssh_known_hosts" in found.known_hosts
    assert (found.jumps, found.proxy_command, found.notes) == ((), "", ())


def test_an_alias_may_stand_in_an_included_file(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "farm").write_text(
        """
        Host gpu*
            HostName %h.farm.example
            Port 2222
            User ada
            IdentityFile ~/.ssh/%h-%r
            IdentitiesOnly yes
            IdentityAgent none
            HostKeyAlias farm
            UserKnownHostsFile "~/my keys/known" /dev/null
            ConnectTimeout 3
            CertificateFile ~/.ssh/cert.pub
        """
    )
    configure("Include %s/farm\n" % tmp_path)

    found = resolve(Host("gpu7"))

    assert (found.hostname, found.port, found.user) == ("gpu7.farm.example", 2222, "ada")
    assert found.identities == ("%s/.ssh/gpu7.farm.example-ada" % HOME,)
    assert found.identities_only and found.agent == ""
    assert found.host_key_alias == "farm"
    assert found.known_hosts[:2] == ("%s/my keys/known" % HOME, "/dev/null")
    assert found.connect_timeout == 3
    assert found.certificates == ("%s/.ssh/cert.pub" % HOME,)


def test_the_inventory_overrides_the_configuration(configure: Configure) -> None:
    configure("Host box\n User ada\n Port 2222\n IdentityFile /a\nMatch user bob\n HostName bobs\n")

    found = resolve(Host("box", user="bob", port=2200, identity_file="~/b"))

    assert (found.hostname, found.user, found.port) == ("bobs", "bob", 2200)
    assert found.identities == ("%s/b" % HOME,)
    assert found.identities_only


def test_the_agent_may_be_another_one(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = {"a": "~/agent", "b": "$MY_AGENT", "c": "SSH_AUTH_SOCK"}
    configure("".join("Host %s\n IdentityAgent %s\n" % pair for pair in agents.items()))
    monkeypatch.setenv("MY_AGENT", "/mine")

    assert [resolve(Host(name)).agent for name in "abc"] == [HOME + "/agent", "/mine", "/run/agent"]


def test_jump_hosts_are_resolved_in_the_order_of_the_way(configure: Configure) -> None:
    configure(
        """
        Host inner
            ProxyJump first,bob@second:2222
        Host first
            HostName 10.0.0.1
            ProxyJump zeroth
        Host second
            HostName 10.0.0.2
            User nobody
            ProxyJump elsewhere
        Host zeroth
            ProxyCommand nc %h %p
        """
    )

    jumps = resolve(Host("inner")).jumps

    assert [(hop.name, hop.hostname, hop.port, hop.user) for hop in jumps] == [
        ("zeroth", "zeroth", 22, ME),
        ("first", "10.0.0.1", 22, ME),
        ("second", "10.0.0.2", 2222, "bob"),
    ]
    assert [hop.proxy_command for hop in jumps] == ["nc zeroth 22", "", ""]
    assert not any(hop.jumps for hop in jumps)


@pytest.mark.parametrize(
    ("spec", "hostname", "port", "user"),
    [
        ("jump", "jump", 22, ME),
        ("ada@jump", "jump", 22, "ada"),
        ("ssh://ada@jump:2200", "jump", 2200, "ada"),
        ("ada@[fd00::1]:2200", "fd00::1", 2200, "ada"),
        ("[fd00::1]", "fd00::1", 22, ME),
    ],
)
def test_a_jump_host_may_be_written_in_many_ways(
    configure: Configure, spec: str, hostname: str, port: int, user: str
) -> None:
    configure("Host inner\n ProxyJump %s\n" % spec)

    (hop,) = resolve(Host("inner")).jumps

    assert (hop.hostname, hop.port, hop.user) == (hostname, port, user)


def test_a_circle_of_jump_hosts_is_told(configure: Configure) -> None:
    configure("Host a\n ProxyJump b\nHost b\n ProxyJump a\n")

    with pytest.raises(Unreachable, match="circle"):
        resolve(Host("a"))


def test_a_proxy_command_gets_its_values(configure: Configure) -> None:
    configure("Host box\n HostName 10.0.0.1\n ProxyCommand nc -x p:1080 %h %p --for %r@%n --at 100%%\n")

    found = resolve(Host("box", user="ada", port=2222))

    assert found.proxy_command == "nc -x p:1080 10.0.0.1 2222 --for ada@box --at 100%"


def test_none_means_none(configure: Configure) -> None:
    configure("Host box\n ProxyJump none\n ProxyCommand none\n IdentityFile none\n UserKnownHostsFile none\n")

    found = resolve(Host("box"))

    assert (found.jumps, found.proxy_command, found.identities) == ((), "", ())


def test_a_configuration_that_openssh_refuses_is_told_with_its_words(configure: Configure) -> None:
    path = configure("Host box\n Prot 22\n")

    with pytest.raises(Unreachable) as error:
        resolve(Host("box"))

    assert "%s: line 2" % path in str(error.value)
    assert "ssh -G box" in str(error.value)


def test_without_openssh_the_files_are_read_and_an_include_is_noted(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("skyq.transport.hosts._home", lambda: str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        "Include more\nHost box\n HostName 10.0.0.1\n Port 2222\n ProxyJump jump\n"
    )

    found = resolve(Host("box", user="ada"))

    assert (found.hostname, found.port, found.user) == ("10.0.0.1", 2222, "ada")
    assert str(tmp_path / ".ssh" / "id_ed25519") in found.identities
    assert found.known_hosts[0] == str(tmp_path / ".ssh" / "known_hosts")
    assert [hop.name for hop in found.jumps] == ["jump"]
    assert "Include is not followed" in found.notes[0]


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (Target("box", "box", 22, "ada"), "box"),
        (Target("box", "box", 2222, "ada"), "box port 2222"),
        (Target("box", "10.0.0.1", 22, "ada"), "box (10.0.0.1)"),
        (Target("box", "10.0.0.1", 2222, "ada"), "box (10.0.0.1 port 2222)"),
    ],
)
def test_a_host_is_shown_with_where_it_is(target: Target, shown: str) -> None:
    assert target.where == shown
