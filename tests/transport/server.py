"""A real sshd on this machine, for one test: as the user who tests, with its own keys and options; and what
can stand between it and a client.
"""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from skyq.core.model import Reach
from skyq.transport.hosts import Target
from tests.machine import which
from tests.waiting import wait_until

HOST = "127.0.0.1"
SEPARATION = Path("/run/sshd")
"""An empty folder that Debian's sshd wants when root starts it; its service makes it, too."""


def why_not() -> str:
    """Why there can be no sshd; empty: it can."""
    missing = [name for name in ("sshd", "ssh", "ssh-keygen", "ssh-agent", "ssh-add") if not which(name)]
    return "missing here: %s (apt install openssh-server)" % ", ".join(missing) if missing else ""


def new_key(path: Path, kind: str = "ed25519", passphrase: str = "", comment: str = "tests") -> str:
    """A key pair; returns the public line."""
    words = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", comment, "-f", str(path)]
    subprocess.run([*words, *(["-b", "2048"] if kind == "rsa" else [])], check=True)
    return path.with_name(path.name + ".pub").read_text().strip()


class Sshd:
    """Off until start(). Keys of the host and of the one who may log in are made with it."""

    def __init__(self, folder: Path, kinds: Sequence[str] = ("ed25519",)) -> None:
        folder.mkdir()
        self.folder = folder
        self.user = getpass.getuser()
        self.port = free_port()
        self.host_keys = {kind: self._bare(new_key(folder / ("host_" + kind), kind)) for kind in kinds}
        self.key = folder / "client"
        self.allowed = folder / "authorized_keys"
        self.allowed.write_text(new_key(self.key) + "\n")
        self.known_hosts = folder / "known_hosts"
        self.trust_all()
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def _bare(line: str) -> str:
        return " ".join(line.split()[:2])

    @property
    def name(self) -> str:
        """As known_hosts has it."""
        return "[%s]:%d" % (HOST, self.port)

    @property
    def host_key(self) -> str:
        """The first of them, without a comment."""
        return next(iter(self.host_keys.values()))

    def trust_all(self) -> None:
        """Let known_hosts have all its keys."""
        self.known_hosts.write_text("".join("%s %s\n" % (self.name, key) for key in self.host_keys.values()))

    def start(self, **options: str) -> Sshd:
        """Listens when it returns. `options` are lines of sshd_config."""
        if os.geteuid() == 0:
            SEPARATION.mkdir(exist_ok=True)
        standard = {
            "Port": str(self.port),
            "ListenAddress": HOST,
            "AuthorizedKeysFile": str(self.allowed),
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "yes",
            "LogLevel": "VERBOSE",
            # SHLVL: or bash would read ~/.bashrc, whatever that does to who runs the tests.
            "SetEnv": "PATH=%s SHLVL=1" % os.environ["PATH"],
        }
        lines = ["%s %s" % pair for pair in {**standard, **options}.items()]
        keys = ["HostKey %s" % (self.folder / ("host_" + kind)) for kind in self.host_keys]
        (self.folder / "config").write_text("\n".join([*keys, *lines]) + "\n")
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [which("sshd"), "-D", "-e", "-f", str(self.folder / "config")],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        wait_until(self._listens, "sshd listens", evidence=self.log)
        return self

    def _listens(self) -> bool:
        assert self._process and self._process.poll() is None, self.log()
        return "Server listening" in self.log()

    def stop(self) -> None:
        """New connections are refused; open ones live on."""
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None
            self.folder.joinpath("log").rename(self.folder / "old log")

    def log(self) -> str:
        """What it said."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def target(self, **more: object) -> Target:
        """How one gets there, by the key that may."""
        found = Target(
            "node1", HOST, self.port, self.user, (str(self.key),), known_hosts=(str(self.known_hosts),)
        )
        return found._replace(**more)

    def reach(self) -> Reach:
        """The same for the dispatcher."""
        return Reach(HOST, self.port, self.user)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as trial:
        trial.bind((HOST, 0))
        port: int = trial.getsockname()[1]
        return port


class Silent:
    """Takes connections and never says a word; or no more than one."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._callers: list[socket.socket] = []

    def greets(self, word: bytes) -> None:
        """The next caller."""
        threading.Thread(target=self._greet, args=(word,), daemon=True).start()

    def _greet(self, word: bytes) -> None:
        self._callers.append(self._listener.accept()[0])
        self._callers[-1].sendall(word)

    def close(self) -> None:
        for each in [self._listener, *self._callers]:
            each.close()


class Relay:
    """Between a client and a server on this machine; when it stops, both are cut off without a word."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._flows = threading.Event()
        self._flows.set()
        self._ends: list[socket.socket] = []
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """From now on nothing passes; the network's buffers fill."""
        self._flows.clear()

    def close(self) -> None:
        self._flows.set()
        for end in [self._listener, *self._ends]:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
                there = socket.create_connection((HOST, self._to))
            except OSError:
                return
            self.connections += 1
            self._ends += [here, there]
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(64 * 1024):
                self._flows.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def soon(within: float) -> float:
    """A moment by which something must have happened."""
    return time.monotonic() + within
