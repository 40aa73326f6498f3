"""The cables between the machines of a lab: a bridge in a namespace of its own.

The first process of that namespace is the ancestor of all that runs in the lab. It ends when the other end of
its standard input is gone, however that happened, and the kernel ends the rest with it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import psutil

from tests.machine import PATH, which

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
            self._outside = None

    @property
    def prefix(self) -> list[str]:
        """What makes a command run at the bridge, among whose descendants the machines are."""
        return [which("nsenter"), "--target", str(self._first), "--pid", "--net", "--mount", "--"]

    def plug(self, host: str) -> None:
        """Its packets arrive again."""
        self._ip("link", "set", cable(host), "master", "bridge")

    def unplug(self, host: str) -> None:
        """Its packets vanish. The cable looks well on both ends."""
        self._ip("link", "set", cable(host), "nomaster")

    def remove(self, host: str) -> None:
        """There is no cable any more."""
        self._ip("link", "delete", cable(host))

    def _ip(self, *words: str) -> None:
        enter = [which("nsenter"), "--target", str(self._first), "--net", "--"]
        run([*enter, which("ip"), *words])


def cable(host: str) -> str:
    """The name of its end at the bridge."""
    return "to-" + host


def run(words: Sequence[str], given: str = "") -> str:
    """A command of this machine, which must not fail; returns what it said."""
    done = subprocess.run(list(words), input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, "%s\n%s%s" % (" ".join(words), done.stdout, done.stderr)
    return done.stdout
