"""A machine of its own within this one, for what only a boot or a power cut shows: with its own processes,
boot id, cron and crontabs. Root is needed, and Debian's cron; nothing of this machine's own cron is touched.

    machine.boot()
    machine.prefix + [...]     -> a command line that runs there
    machine.cut_power()        -> every process there is dead; the disk stays
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path

import psutil

from tests.waiting import wait_until

PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"

INIT = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/spool
mkdir /var/spool/cron
mount --bind "$disk/crontabs" /var/spool/cron
for folder in /etc/cron.d /etc/cron.hourly; do [ ! -d $folder ] || mount -t tmpfs tmpfs $folder; done
[ ! -e /etc/crontab ] || mount --bind /dev/null /etc/crontab
mount --bind "$disk/boot_id" /proc/sys/kernel/random/boot_id
[ -z "$cron" ] || "$cron" -f &
touch "$disk/booted"
while :; do wait; sleep 0.2; done  # an init collects orphans
"""


def why_not() -> str:
    """Why such a machine can't be had here; empty: it can."""
    if os.geteuid() != 0:
        return "only root can make a machine of its own within this one"
    missing = [name for name in ("unshare", "nsenter", "mount", "cron", "crontab") if not which(name)]
    if missing:
        return "missing here: %s (apt install cron)" % ", ".join(missing)
    trial = "mount -t tmpfs tmpfs /run && mount --bind /dev/null /proc/sys/kernel/random/boot_id"
    words = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", trial]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


def which(name: str) -> str:
    """The path of a program, also of one that only root has on PATH."""
    return shutil.which(name, path=PATH) or ""


class Machine:
    """Off until boot()."""

    def __init__(self, disk: Path, cron: bool = True) -> None:
        self.disk = disk
        self.cron = cron
        self.crontabs = disk / "crontabs" / "crontabs"
        self.crontabs.mkdir(parents=True)
        self.crontabs.chmod(0o730)
        self._init: psutil.Process | None = None

    def boot(self, same_boot_id: bool = False) -> None:
        """As after a power cut: nothing runs, and the boot id is another one (unless it is a container)."""
        assert self._init is None
        if not same_boot_id:
            (self.disk / "boot_id").write_text("%s\n" % uuid.uuid4())
        booted = self.disk / "booted"
        booted.unlink(missing_ok=True)
        console = os.open(self.disk / "console", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        outside = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", INIT],
            env={"PATH": PATH, "disk": str(self.disk), "cron": which("cron") if self.cron else ""},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
        wait_until(booted.exists, "the machine boots", evidence=(self.disk / "console").read_text)
        os.close(console)
        self._outside = outside
        self._init = psutil.Process(outside.pid).children()[0]

    @property
    def prefix(self) -> list[str]:
        """What makes a command run there."""
        assert self._init is not None
        return ["nsenter", "--target", str(self._init.pid), "--mount", "--pid", "--"]

    def crontab(self) -> str:
        """root's crontab there."""
        path = self.crontabs / "root"
        return path.read_text() if path.exists() else ""

    def stop_cron(self) -> None:
        """Only the daemon; what it started goes on."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                if process.name() == "cron":
                    process.kill()
        wait_until(lambda: "cron" not in [p.name() for p in self.processes()], "cron is dead")

    def processes(self) -> list[psutil.Process]:
        """Those that run there, without its init."""
        assert self._init is not None
        own = os.stat("/proc/%d/ns/pid" % self._init.pid).st_ino
        return [p for p in psutil.process_iter() if p != self._init and namespace(p.pid) == own]

    def cut_power(self) -> None:
        """Every process there dies at once, without a word."""
        if self._init is not None:
            self._init.send_signal(signal.SIGKILL)
            self._outside.wait()
            self._init = None


def namespace(pid: int) -> int:
    """The number of a process's pid namespace; 0: it is gone."""
    try:
        return os.stat("/proc/%d/ns/pid" % pid).st_ino
    except OSError:
        return 0
