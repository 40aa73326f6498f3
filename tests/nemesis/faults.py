"""Random faults, each with its repair."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import psutil

from tests.ssh.remote import Remote, commands


class Faults:
    """Does them, one after the other, and remembers what each job may be excused by."""

    def __init__(self, cluster: Remote, dice: random.Random, tell: Callable[[str], None]) -> None:
        self.cluster = cluster
        self.lab = cluster.lab
        self.dice = dice
        self.tell = tell
        self.count = 0
        self.at = ""
        """The node of the fault that is under way."""
        self.excuses: list[tuple[str, float, float]] = []
        """(node, from, to): what ran there then may have been lost."""
        self.silences: list[tuple[str, float, float]] = []
        """(node, from, to): when the head may not have heard it, or it not the head."""
        self.kinds: list[Callable[[], None]] = [
            *[self.kill_skyq] * 4,
            *[self.kill_shim, self.hang_up, self.restart_sshd, self.partition, self.one_way, self.freeze] * 2,
            self.reboot_worker,
            self.reboot_worker,
            self.reboot_head,
            self.refuse_logins,
        ]

    def one(self) -> None:
        """One fault, and its repair."""
        self.count += 1
        self.at, began = "", time.time()
        self.dice.choice(self.kinds)()
        self.silences.append((self.at, began, time.time()))

    def _node(self, first: int = 0) -> str:
        self.at = "node%d" % self.dice.randrange(first, len(self.lab.nodes))
        return self.at

    def _a_while(self, longest: float) -> None:
        time.sleep(self.dice.uniform(0.2, longest))

    def kill_skyq(self) -> None:
        """kill -9 of a process of skyq's that isn't a shim."""
        node = self._node()
        found = [
            (process, words)
            for process, words in commands(self.lab.host(node), of_root=False)
            if "skyq" in words and "prelude.sh" not in words and not _run_of(process)
        ]
        if found:
            process, words = self.dice.choice(sorted(found, key=lambda pair: pair[0].pid))
            self.tell("%s: kill -9 %s" % (node, words.split("/")[-1]))
            _kill(process)

    def kill_shim(self) -> None:
        """What it ran is lost."""
        node = self._node()
        shims = [process for process, _ in commands(self.lab.host(node), of_root=False) if _run_of(process)]
        if shims:
            shim = self.dice.choice(sorted(shims, key=lambda process: process.pid))
            self.tell("%s: kill -9 the shim of %s" % (node, _run_of(shim)))
            self.excuse(node)
            _kill(shim)

    def hang_up(self) -> None:
        """All connections to a node break."""
        node = self._node()
        self.tell("%s: connections break" % node)
        self.cluster.hang_up(node)

    def restart_sshd(self) -> None:
        """Nobody listens for a while."""
        node = self._node()
        self.tell("%s: sshd restarts" % node)
        self.lab.stop_sshd(node)
        self._a_while(2)
        self.lab.start_sshd(node)

    def refuse_logins(self) -> None:
        """Nobody listens for longer."""
        node = self._node(1)
        self.tell("%s: no sshd for some seconds" % node)
        self.lab.stop_sshd(node)
        self._a_while(12)
        self.lab.start_sshd(node)

    def partition(self) -> None:
        """Two machines hear nothing of each other."""
        node = self._node(1)
        self.tell("node0 and %s: cut" % node)
        self.lab.cut("node0", node)
        self._a_while(25)
        self.lab.heal("node0", node)
        self.tell("node0 and %s: healed" % node)

    def one_way(self) -> None:
        """One doesn't hear the other."""
        pair = ["node0", self._node(1)]
        self.dice.shuffle(pair)
        self.tell("%s is not heard by %s" % (*pair,))
        self.lab.cut(*pair, one_way=True)
        self._a_while(25)
        self.lab.heal(*pair)
        self.tell("%s is heard by %s" % (*pair,))

    def freeze(self) -> None:
        """Every process of a machine stands still."""
        node = self._node()
        self.tell("%s: frozen" % node)
        self.lab.freeze(node)
        self._a_while(25)
        self.lab.thaw(node)
        self.tell("%s: thawed" % node)

    def reboot_worker(self) -> None:
        """Its power fails, and comes back."""
        self._reboot(self._node(1))

    def reboot_head(self) -> None:
        """The same."""
        self._reboot("node0")

    def _reboot(self, node: str) -> None:
        self.tell("%s: power fails" % node)
        self.excuse(node)
        self.lab.power_off(node)
        self._a_while(8)
        self.lab.power_on(node)
        self.excuse(node)
        self.tell("%s: boots" % node)

    def excuse(self, node: str) -> None:
        """What ran there at this moment may be lost."""
        self.excuses.append((node, time.time() - 1, time.time() + 1))


def _run_of(process: psutil.Process) -> str:
    """The run directory whose lock a shim holds; "" for what is none."""
    folder = "/proc/%d/fd" % process.pid
    try:
        links = [os.readlink(os.path.join(folder, name)) for name in os.listdir(folder)]
    except OSError:
        return ""
    return next((link.split("/")[-2] for link in links if link.endswith("/alive")), "")


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass
