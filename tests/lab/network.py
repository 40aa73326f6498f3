"""The cables between the machines of a lab: a bridge in a namespace of its own.

The first process of that namespace is the ancestor of all that runs in the lab. It ends when the other end of
its standard input is gone, however that happened, and the kernel ends the rest with it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.machine import PATH, which

HERE = Path(__file__).resolve().parent
PREFIX = "10.213.0."
NOWHERE = "02:d5:00:00:ff:ff"
"""A hardware address that nobody has: what is sent there vanishes."""

HUB = """\
set -e
ip link set lo up
ip link add bridge type bridge mcast_snooping 0
ip link set bridge up
echo ready
exec >&-
read -r end
"""


def mac(address: str) -> str:
    """The hardware address of who has this one."""
    return "02:d5:00:00:00:%02x" % int(address.rpartition(".")[2])


class Network:
    """Not there until start()."""

    def __init__(self) -> None:
        self._outside: subprocess.Popen[bytes] | None = None
        self._first = 0
        self._relays: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """An empty bridge."""
        words = ["unshare", "--pid", "--net", "--mount", "--mount-proc", "--fork", "--kill-child"]
        self._outside = subprocess.Popen(
            [which(words[0]), *words[1:], "sh", "-c", HUB],
            env={"PATH": PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests, which then end it in order
        )
        assert self._outside.stdout is not None and self._outside.stderr is not None
        if self._outside.stdout.readline() != b"ready\n":
            raise AssertionError("no bridge: " + self._outside.stderr.read().decode())
        self._first = psutil.Process(self._outside.pid).children()[0].pid

    def stop(self) -> None:
        """All that runs in the lab is killed."""
        if self._outside is not None:
            try:
                self._outside.communicate(timeout=30)
            finally:
                self._outside.kill()
                self._outside.wait()
            self._outside, self._first = None, 0
        for host in list(self._relays):
            self._bury(host)

    @property
    def prefix(self) -> list[str]:
        """What makes a command run at the bridge, among whose descendants the machines are."""
        return [which("nsenter"), "--target", str(self._first), "--pid", "--net", "--mount", "--"]

    def run(self, *words: str) -> None:
        """A command at the bridge, which must not fail. What it mounts, the machines see; not this one."""
        run([*self.prefix, *words])

    def ran(self, *words: str) -> bool:
        """The same; whether it did not fail."""
        return subprocess.run([*self.prefix, *words], capture_output=True, check=False).returncode == 0

    def path(self, there: Path) -> Path:
        """Where a file is seen from outside that lies on what was mounted at the bridge."""
        return Path("/proc/%d/root%s" % (self._first, there)) if self._first else there

    def plug(self, host: str) -> None:
        """Its packets arrive again."""
        self._ip("link", "set", self._port(host), "master", "bridge")

    def unplug(self, host: str) -> None:
        """Its packets vanish. The cable looks well on both ends."""
        self._ip("link", "set", self._port(host), "nomaster")

    def remove(self, host: str) -> None:
        """There is no cable any more."""
        self._ip("link", "delete", cable(host))
        if host in self._relays:
            for process in psutil.Process(self._relays[host].pid).children():
                process.kill()
            self._bury(host)
            self._ip("link", "delete", _far(host))

    def delay(self, host: str, seconds: float) -> None:
        """Its packets take so much longer, each way: a relay lies between its cable and the bridge."""
        assert host not in self._relays, "it is slow already"
        near, far = _near(host), _far(host)
        self._ip("link", "add", near, "type", "veth", "peer", "name", far)
        self._ip("link", "set", near, "up")
        self._ip("link", "set", cable(host), "nomaster")
        words = [sys.executable, "-I", str(HERE / "relay.py"), cable(host), near, str(seconds)]
        relay = subprocess.Popen(
            [*self.prefix, *words],
            env={"PATH": PATH},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._relays[host] = relay
        assert relay.stdout is not None and relay.stderr is not None
        if relay.stdout.readline() != b"up\n":
            raise AssertionError("no relay: " + relay.stderr.read().decode())
        self._ip("link", "set", far, "master", "bridge", "up")

    def _port(self, host: str) -> str:
        """What of its is at the bridge."""
        return _far(host) if host in self._relays else cable(host)

    def _bury(self, host: str) -> None:
        self._relays.pop(host).communicate(timeout=30)

    def _ip(self, *words: str) -> None:
        enter = [which("nsenter"), "--target", str(self._first), "--net", "--"]
        run([*enter, which("ip"), *words])


def cable(host: str) -> str:
    """The name of its end at the bridge."""
    return "to-" + host


def _near(host: str) -> str:
    return "slow-" + host


def _far(host: str) -> str:
    return "far-" + host


def run(words: Sequence[str], given: str = "") -> str:
    """A command of this machine, which must not fail; returns what it said."""
    done = subprocess.run(list(words), input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, "%s\n%s%s" % (" ".join(words), done.stdout, done.stderr)
    return done.stdout
