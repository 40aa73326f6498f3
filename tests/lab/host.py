"""One machine of a lab: power, what runs there, its files, its sshd, its devices."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Union

import psutil

from tests.lab import clock, disk
from tests.lab.inside import Program
from tests.lab.network import Network, cable, mac
from tests.lab.terminal import Terminal
from tests.lab.traits import UID, USER, Traits
from tests.machine import PATH, namespace, which
from tests.waiting import wait_until

HERE = Path(__file__).resolve().parent
LIMIT = 120.0  # seconds after which a command hangs
LOGIN_PATH = "/usr/local/bin:/usr/bin:/bin"
INODES = 1000 * 1000  # of a disk in memory, while it isn't full
EVIDENCE = 3000  # characters of each log, the last ones
Stream = Union[int, IO[Any], None]


class Host:
    """Off until boot(); a Lab makes them."""

    def __init__(self, folder: Path, name: str, address: str, wires: Network, traits: Traits) -> None:
        self.name = name
        self.address = address
        self.traits = traits
        self.disk = folder
        self.homes = folder / "home"
        self.serves = False  # whether there is an sshd
        self._cut = False
        self._wires = wires
        login = {"SetEnv": "XDG_SESSION_ID=1"} if traits.kills_at_logout else {}  # as pam_systemd says
        self._sshd_options = {**login, **traits.sshd}
        self._outside: subprocess.Popen[str] | None = None
        self._first: psutil.Process | None = None
        self._programs: list[Program] = []
        self._terminals: list[Terminal] = []

    # Power.

    @property
    def on(self) -> bool:
        return self._first is not None

    def boot(self) -> None:
        """Returns when it answers."""
        self.begin_boot()
        self.end_boot()

    def begin_boot(self) -> None:
        """The first half: several machines can boot at the same time."""
        assert not self.on, self.name + " is on"
        (self.disk / "boot_id").write_text("%s\n" % uuid.uuid4())
        with open(self.disk / "console", "a") as console:
            self._outside = subprocess.Popen(
                [*self._wires.prefix, which("unshare"), "--net", "sh", str(HERE / "plug.sh")],
                env=self._boot_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=console,
                text=True,
                start_new_session=True,
            )

    def end_boot(self) -> None:
        """The second half."""
        assert self._outside is not None and self._outside.stdout is not None
        said = self._outside.stdout.readline()
        assert said == "up\n", "%s doesn't boot: %s" % (self.name, (self.disk / "console").read_text())
        self._outside.stdout.close()
        parent = psutil.Process(self._outside.pid).children()[0]
        self._first = parent.children()[0]
        if self.serves:
            self.wait_for_sshd()

    def power_off(self) -> None:
        """As when the power fails: nothing lives, nobody is told."""
        if self._first is not None:
            self._wires.remove(self.name)
            self._first.send_signal(signal.SIGKILL)
            self.forget()

    def reboot(self) -> None:
        """As after a power cut: the same disk, another boot id."""
        self.power_off()
        self.boot()

    def unplug(self) -> None:
        """Its packets vanish, and so they do after a reboot."""
        self._cut = True
        if self.on:
            self._wires.unplug(self.name)

    def plug(self) -> None:
        """They arrive again."""
        self._cut = False
        if self.on:
            self._wires.plug(self.name)

    def forget(self) -> None:
        """All that ran there is dead, or dies: collect what we started."""
        if self._outside is not None:
            self._outside.wait(30)
        for program in self._programs:
            program.bury()
        for terminal in self._terminals:
            terminal.close()
        self._outside = self._first = None
        self._programs, self._terminals = [], []

    def _boot_environment(self) -> dict[str, str]:
        return {
            "PATH": PATH,
            "name": self.name,
            "disk": str(self.disk),
            "home": str(self.homes),
            "small_home": self.traits.small_home,
            "init": str(HERE / "init.sh"),
            "cable": cable(self.name),
            "port": "" if self._cut else "master bridge",
            "mac": mac(self.address),
            "sshd": which("sshd") if self.serves else "",
            "logins": "/usr/local/bin/logins %d" % self.port if self.traits.kills_at_logout else "",
            "cron": which("cron") if self.traits.cron and self.serves else "",
        }

    # What runs there.

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = USER,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float = LIMIT,
    ) -> subprocess.CompletedProcess[str]:
        """A command there, as ada in her home with an environment as sshd makes it (or as root)."""
        source = subprocess.DEVNULL if input is None else subprocess.PIPE
        streams: dict[str, Any] = {"stdin": source, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        program = self.start(argv, user=user, env=env, text=False, **streams)
        try:
            out, err = program.communicate(None if input is None else input.encode(), timeout)
        except BaseException:
            program.kill_all()
            program.communicate()
            raise
        finally:
            self._programs.remove(program)
        # Not by Popen's text mode, which would take \r for an end of line.
        texts = [output.decode(errors="replace") for output in (out, err)]
        return subprocess.CompletedProcess(list(argv), program.returncode, *texts)

    def start(
        self,
        argv: Sequence[str],
        *,
        user: str = USER,
        env: Mapping[str, str] | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        text: bool = True,
    ) -> Program:
        """The same, without waiting. It dies with its machine."""
        program = Program(
            [*self.prefix, *_as(user), "sh", "-c", 'cd && exec "$@"', "sh", *argv],
            env={**_environment(user, self.traits.shell), **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            start_new_session=True,
        )
        self._programs.append(program)
        return program

    def terminal(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Terminal:
        """The same at a terminal, which is ada's: with a prompt for a password, Ctrl-C..."""
        terminal = Terminal()
        self._terminals.append(terminal)
        words = ["setsid", "--ctty", *argv]
        ends: dict[str, Any] = {"stdin": terminal.slave, "stdout": terminal.slave, "stderr": terminal.slave}
        terminal.holds(self.start(words, env={"TERM": "xterm", **(env or {})}, **ends))
        return terminal

    @property
    def prefix(self) -> list[str]:
        """What makes a command run there, as root, with the environment of the caller."""
        namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc"]
        return [which("nsenter"), "--target", str(self._pid), *namespaces, "--"]

    def processes(self) -> list[psutil.Process]:
        """Those that run there, without the first one; their pids are those of outside."""
        own = namespace(self._pid)
        return [p for p in psutil.process_iter() if p != self._first and namespace(p.pid) == own]

    def process(self, pid: int) -> psutil.Process:
        """The one that has this pid there."""
        found = [p for p in self.processes() if _inner_pid(p.pid) == pid]
        assert found, "%s has no process %d" % (self.name, pid)
        return found[0]

    def freeze(self) -> None:
        """Every process there stops. The kernel still accepts connections, and nobody says a word on them."""
        wait_until(lambda: not self._stop_those_that_run(), "all of %s is frozen" % self.name)

    def thaw(self) -> None:
        """They go on."""
        assert self._first is not None
        for process in [self._first, *self.processes()]:
            _signal(process, signal.SIGCONT)
        for program in self._programs:
            program.outer_signal(signal.SIGCONT)

    def _stop_those_that_run(self) -> list[psutil.Process]:
        assert self._first is not None
        running = [p for p in [self._first, *self.processes()] if _status(p) not in ("stopped", "zombie", "")]
        for process in running:
            _signal(process, signal.SIGSTOP)
        return running

    @property
    def _pid(self) -> int:
        assert self._first is not None, self.name + " is off"
        return self._first.pid

    # Its files.

    @property
    def home(self) -> Path:
        """ada's, seen from outside."""
        return self.path("/home/" + USER)

    def path(self, there: str) -> Path:
        """Where a file of its own is seen from outside; it need not exist. The machine may be off."""
        inner = there.lstrip("/")
        if inner.startswith("home/"):
            return self._homes_seen / inner[len("home/") :]
        if inner.startswith(tuple(folder + "/" for folder in disk.OWN_FOLDERS)):
            return self.disk / inner
        return Path("/proc/%d/root" % self._pid) / inner

    @property
    def _homes_seen(self) -> Path:
        if self.traits.small_home and self.on:
            return Path("/proc/%d/root/home" % self._pid)
        return self._wires.path(self.homes) if self.traits.disk else self.homes

    def read(self, there: str) -> str:
        return self.path(there).read_text()

    def write(self, there: str, text: str, mode: int = 0o644) -> Path:
        """A file with this content; whoever's the folder is, that one's the file."""
        path = self.path(there)
        missing = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        if there.startswith("/home/" + USER + "/"):
            disk.give(path, *missing)
        return path

    def remount_home(self, options: str) -> None:
        """Until the next boot /home is "ro", "noexec"..., or "rw" again."""
        self.root("mount", "-o", "remount,bind," + options, "/home")

    def root(self, *words: str) -> str:
        """A command as root, which must not fail; returns what it said."""
        done = self.run(words, user="root")
        assert done.returncode == 0, "%s: %s\n%s%s" % (self.name, " ".join(words), done.stdout, done.stderr)
        return done.stdout

    # Its disk, for one whose traits say how large it is.

    def make_disk(self) -> None:
        """In memory, with what is in its /home already."""
        words = "size=%s,nr_inodes=%d,mode=755" % (self.traits.disk, INODES)
        script = 'cd "$1" && mount -t tmpfs -o "$2" tmpfs "$1" && cp -a . "$1"'
        self._wires.run("sh", "-c", script, "sh", str(self.homes), words)

    def fill_disk(self, files: bool = False) -> None:
        """There is no room left on it, until free_disk(); `files`: not for one more empty file either."""

        def filled() -> bool:
            disk = os.statvfs(self._homes_seen)
            size = "size=%d" % ((disk.f_blocks - disk.f_bfree) * disk.f_frsize)
            more = ",nr_inodes=%d" % (disk.f_files - disk.f_ffree) if files else ""
            return self._resize(size + more)

        wait_until(filled, "the disk of %s is full" % self.name)

    def free_disk(self) -> None:
        """There is room again."""
        assert self._resize("size=%s,nr_inodes=%d" % (self.traits.disk, INODES))

    def _resize(self, size: str) -> bool:
        """Whether what is there fits."""
        return self._wires.ran("mount", "-o", "remount," + size, str(self.homes))

    # Its wall clock, for one whose traits give it one.

    def set_clock(self, ahead: int) -> None:
        """It is so many seconds later there than here, from this moment on."""
        clock.set_ahead(self.disk / "etc", ahead)

    # Its cron.

    def stop_cron(self) -> None:
        """Only the daemon; what it started goes on."""
        for process in self._crons():
            process.kill()
        wait_until(lambda: not self._crons(), "cron of %s is dead" % self.name)

    def start_cron(self) -> None:
        """As at boot."""
        if not self._crons():
            self.root(which("cron"))

    def _crons(self) -> list[psutil.Process]:
        return [p for p in self.processes() if _command(p).split(" ")[0] == which("cron")]

    # Its sshd.

    @property
    def port(self) -> int:
        return int(self._sshd_options.get("Port", "22"))

    @property
    def host_key(self) -> str:
        """Its public line, without the comment."""
        return " ".join(self.read("/etc/ssh/ssh_host_ed25519_key.pub").split()[:2])

    def new_host_key(self) -> None:
        """From the next start of its sshd it is another machine to who knows it."""
        disk.new_key(self.disk / "etc" / "ssh" / "ssh_host_ed25519_key", self.name)

    def sshd_options(self, **options: str) -> None:
        """From the next start of its sshd they count: MaxSessions="1". ada's password is traits.PASSWORD."""
        self._sshd_options.update(options)
        disk.sshd_config(self.disk, self._sshd_options)

    def stop_sshd(self) -> None:
        """Nobody listens; connections that are open live on."""
        for process in self._listeners():
            process.kill()
        wait_until(lambda: not self._listeners(), "sshd of %s is dead" % self.name)

    def start_sshd(self) -> None:
        self.root(which("sshd"), "-E", "/var/log/sshd.log")
        self.wait_for_sshd()

    def restart_sshd(self) -> None:
        self.stop_sshd()
        self.start_sshd()

    def wait_for_sshd(self) -> None:
        """Somebody listens at its port."""
        wait_until(self._listens, "sshd of %s listens" % self.name, evidence=self.evidence)

    def _listeners(self) -> list[psutil.Process]:
        """Not those that serve one connection."""
        return [p for p in self.processes() if _command(p).startswith("sshd: %s " % which("sshd"))]

    def _listens(self) -> bool:
        here = ":%04X" % self.port
        lines = Path("/proc/%d/net/tcp" % self._pid).read_text().splitlines()[1:]
        return any(fields[1].endswith(here) and fields[3] == "0A" for fields in map(str.split, lines))

    # Its cable.

    def received(self) -> int:
        """Bytes that came over it since the last boot."""
        lines = Path("/proc/%d/net/dev" % self._pid).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == "eth0:")

    # Its devices, and what it tells when a test fails.

    def gpus(self, count: int, state: str = "works") -> None:
        """What nvidia-smi says from now on; state: works, fails, hangs."""
        disk.gpus(self.disk, self.name, count, state)

    def uses_gpu(self, index: int, pid: int, megabytes: int = 500, program: str = "python") -> None:
        """A process that nvidia-smi tells of."""
        with open(self.disk / "etc" / "gpus", "a") as file:
            file.write("app\t%d\t%d\t%d\t%s\n" % (index, pid, megabytes, program))

    def evidence(self) -> str:
        """The ends of its logs."""
        logs = [self.disk / "console", *sorted(self.disk.glob("var/log/*"))]
        logs += sorted(self.home.glob(".skyq/clusters/*/dispatcher.log"))
        texts = [(path, path.read_text(errors="replace")[-EVIDENCE:]) for path in logs if path.is_file()]
        return "".join("== %s: %s\n%s\n" % (self.name, path, text) for path, text in texts if text)


def _as(user: str) -> list[str]:
    if user == "root":
        return []
    return ["setpriv", "--reuid=%d" % UID, "--regid=%d" % UID, "--init-groups", "--"]


def _environment(user: str, shell: str) -> dict[str, str]:
    root = user == "root"
    return {
        "HOME": "/root" if root else "/home/" + user,
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/bash" if root else shell,
        "PATH": "/usr/local/sbin:/usr/sbin:/sbin:" + LOGIN_PATH if root else LOGIN_PATH,
        "LANG": "C.UTF-8",
    }


def _inner_pid(pid: int) -> int:
    """What a process is to those of its own namespace; 0: it is gone."""
    try:
        lines = Path("/proc/%d/status" % pid).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), 0)


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return ""


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, OSError):
        return ""


def _signal(process: psutil.Process, number: int) -> None:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        pass
