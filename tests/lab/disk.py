"""What is on the disk of a lab's machine when it is new: users, keys, daemons' settings, devices."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.lab import clock, network
from tests.lab.traits import UID, USER, Traits
from tests.machine import which

HERE = Path(__file__).resolve().parent
PASSWORD_HASH = (
    "$6$skyqlab$wD9dLEz3J16kZJrsXmxnwtP3cTws4PwHYenBMnKJCvQK5QeDWIf55Ck9bdt0iyPaPI0oKGUk1nGjOPrmtKPYY/"
)
OWN_FOLDERS = ("etc", "home", "root", "tmp", "usr/local/bin", "var/log", "var/spool", "var/tmp")
NOT_OURS = (
    "passwd",
    "group",
    "shadow",
    "gshadow",
    "hosts",
    "hostname",
    "machine-id",
    "resolv.conf",
    "ssh",
    "motd",
)
"""Of this machine's /etc; and what is cron's. The rest is seen through links."""

SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
"""

CLIENT = """\
Host {name}
    HostName {address}
    Port {port}
    User {user}
    IdentityFile ~/.ssh/id_ed25519

"""


def make(disk: Path, name: str, traits: Traits) -> None:
    """An empty machine: nobody may log in yet."""
    for folder in OWN_FOLDERS:
        (disk / folder).mkdir(parents=True)
    for folder in ("tmp", "var/tmp"):
        (disk / folder).chmod(0o1777)
    (disk / "root").chmod(0o711)  # what is shared below it can be reached
    (disk / "seen").mkdir()
    _etc(disk / "etc", name, traits)
    _crontabs(disk / "var" / "spool" / "cron")
    if traits.gpus:
        Path(shutil.copy(HERE / "nvidia-smi", disk / "usr" / "local" / "bin")).chmod(0o755)
        gpus(disk, name, traits.gpus)
    if traits.clock:
        clock.install(disk / "etc")
    if traits.kills_at_logout:
        for name in ("logins", "loginctl", "systemd-run"):
            Path(shutil.copy(HERE / name, disk / "usr" / "local" / "bin")).chmod(0o755)
    real = ["/usr/bin/nvidia-smi", "/bin/nvidia-smi"]
    (disk / "hidden").write_text("".join(path + "\n" for path in [*real, *traits.hidden]))


def home(folder: Path) -> Path:
    """A home for ada in a folder of homes."""
    own = folder / USER
    own.mkdir(parents=True, exist_ok=True)
    own.chmod(0o750)
    (own / ".ssh").mkdir(mode=0o700, exist_ok=True)
    give(own, own / ".ssh")
    return own


def give(*paths: Path) -> None:
    """They are ada's."""
    for path in paths:
        os.chown(path, UID, UID, follow_symlinks=False)


def new_key(path: Path, comment: str) -> str:
    """Makes PATH and PATH.pub; returns the public line."""
    for old in (path, path.with_suffix(".pub")):
        old.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    network.run([which("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return path.with_suffix(".pub").read_text()


def sshd_config(disk: Path, options: Mapping[str, str]) -> None:
    """Settings that are the machine's own come first, in place of the usual ones."""
    own = "".join("%s %s\n" % option for option in options.items())
    usual = [line for line in SSHD.splitlines(keepends=True) if line.split()[0] not in options]
    (disk / "etc" / "ssh" / "sshd_config").write_text(own + "".join(usual))


def addresses(disks: Iterable[Path], hosts: Mapping[str, str]) -> None:
    """Every name is known everywhere."""
    text = "127.0.0.1 localhost\n" + "".join("%s %s\n" % (hosts[name], name) for name in hosts)
    for disk in disks:
        (disk / "etc" / "hosts").write_text(text)


def gpus(disk: Path, name: str, count: int, state: str = "works") -> None:
    """From now on nvidia-smi tells of these, and nobody uses them."""
    lines = ["state\t" + state]
    for index in range(count):
        own = uuid.uuid5(uuid.NAMESPACE_DNS, "%s/%d" % (name, index))
        lines.append("gpu\t%d\tGPU-%s\tNVIDIA H100 80GB HBM3" % (index, own))
    (disk / "etc" / "gpus").write_text("\n".join(lines) + "\n")


def _etc(etc: Path, name: str, traits: Traits) -> None:
    for entry in os.scandir("/etc"):
        if entry.name in NOT_OURS or entry.name.startswith("cron"):
            continue
        target = os.readlink(entry.path) if entry.is_symlink() else "/run/etc/" + entry.name
        os.symlink(target, etc / entry.name)
    ids = (USER, UID, UID, USER, traits.shell)
    (etc / "passwd").write_text(Path("/etc/passwd").read_text() + "%s:x:%d:%d:Ada:/home/%s:%s\n" % ids)
    (etc / "group").write_text(Path("/etc/group").read_text() + "%s:x:%d:\n" % (USER, UID))
    (etc / "shadow").write_text(
        "root:*:20000:0:99999:7:::\n%s:%s:20000:0:99999:7:::\n" % (USER, PASSWORD_HASH)
    )
    (etc / "shadow").chmod(0o600)
    (etc / "hostname").write_text(name + "\n")
    (etc / "machine-id").write_text(uuid.uuid4().hex + "\n")
    (etc / "resolv.conf").touch()
    for folder in ("ssh", "cron.d", "cron.hourly", "cron.daily", "cron.weekly", "cron.monthly"):
        (etc / folder).mkdir()
    (etc / "crontab").touch()
    for entry in os.scandir("/etc/ssh"):
        if entry.name.startswith(("ssh_config", "moduli")):
            os.symlink("/run/etc/ssh/" + entry.name, etc / "ssh" / entry.name)


def _crontabs(spool: Path) -> None:
    """With the group and mode that crontab(1) has here: it is set-group-id."""
    (spool / "crontabs").mkdir(parents=True)
    if program := which("crontab"):
        os.chown(spool / "crontabs", 0, os.stat(program).st_gid)
    (spool / "crontabs").chmod(0o1730)
