"""Random faults, each with its repair. Two hands do them at once, never on the same machine."""

from __future__ import annotations

import functools
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

from tests.lab import clock
from tests.nemesis.people import Person
from tests.ssh.remote import Remote, commands
from tests.waiting import wait_until

Span = tuple[str, float, float]
"""(node, from, to); monotonic."""
HOUR = 3600
JUMPS = (HOUR, -HOUR, 87660 * HOUR, -87660 * HOUR)  # an hour, ten years
CRONTAB = "/var/spool/cron/crontabs/ada"


@dataclass
class Excuses:
    """By what a job may be excused."""

    losses: list[Span] = field(default_factory=list)
    """What ran there then may have been lost."""
    silences: list[Span] = field(default_factory=list)
    """When the head may not have heard it, or it not the head, or it could not do what it was asked for."""


class Faults:
    """Does them, and remembers what each job may be excused by."""

    def __init__(
        self, cluster: Remote, people: Sequence[Person], newer: str, tell: Callable[[str], None]
    ) -> None:
        """`newer`: a newer skyq, at the last client."""
        self.cluster = cluster
        self.lab = cluster.lab
        self.people = people
        self.newer = newer
        self.tell = tell
        self.count = 0
        self.kinds: set[str] = set()
        self.excuses = Excuses()
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._power = threading.Lock()
        """Who sets a route starts a program on two machines: neither must go off, or freeze, meanwhile."""

    def hand(self, dice: random.Random, stop: threading.Event, longest: float) -> None:
        """Faults, one after the other, until `stop`."""
        kinds = _kinds(longest)
        while not stop.is_set():
            kind = dice.choice(kinds)
            node = self._take(dice, kind)
            if node:
                began = time.monotonic()
                with self._lock:
                    self.count += 1
                    self.kinds.add(kind.__name__)
                try:
                    kind(self, node, dice)
                finally:
                    self.excuses.silences.append((node, began, time.monotonic()))
                    self._busy.discard(node)
            stop.wait(dice.uniform(0, 1.5))

    def _take(self, dice: random.Random, kind: Callable[..., None]) -> str:
        """A machine that is whole; "" if there is none of those that this kind is for."""
        hosts = self.lab.clients if kind is Faults.pull_link else self.lab.nodes
        if kind in (Faults.partition, Faults.one_way, Faults.long_partition):
            hosts = hosts[1:]
        if kind is Faults.no_cron:
            hosts = hosts[:1]
        if kind is Faults.fill_disk:
            hosts = [host for host in hosts if host.traits.disk]
        with self._lock:
            free = [host.name for host in hosts if host.name not in self._busy]
            node = dice.choice(free) if free else ""
            if node:
                self._busy.add(node)
        return node

    def kill_skyq(self, node: str, dice: random.Random) -> None:
        """kill -9 of a process of skyq's that isn't a shim."""
        found = [
            (process, words)
            for process, words in commands(self.lab.host(node), of_root=False)
            if "skyq" in words and "prelude.sh" not in words and not _run_of(process)
        ]
        if found:
            process, words = dice.choice(sorted(found, key=lambda pair: pair[0].pid))
            if _is_no_shim(process):
                self.tell("%s: kill -9 %s" % (node, words.split("/")[-1]))
                _kill(process)

    def kill_shim(self, node: str, dice: random.Random) -> None:
        """What it ran is lost."""
        shims = [process for process, _ in commands(self.lab.host(node), of_root=False) if _run_of(process)]
        if shims:
            shim = dice.choice(sorted(shims, key=lambda process: process.pid))
            self.tell("%s: kill -9 the shim of %s" % (node, _run_of(shim)))
            with self._losing(node):
                _kill(shim)

    def kill_all(self, node: str, dice: random.Random) -> None:
        """As their user can, by `kill -9 -1`."""
        self.tell("%s: kill -9 -1" % node)
        with self._losing(node):
            self.lab.host(node).run(["bash", "-c", "kill -9 -1"])

    def hang_up(self, node: str, dice: random.Random) -> None:
        """All connections to a node break."""
        self.tell("%s: connections break" % node)
        self.cluster.hang_up(node)

    def restart_sshd(self, node: str, dice: random.Random) -> None:
        """Nobody listens for a while."""
        self.tell("%s: no sshd" % node)
        self.lab.stop_sshd(node)
        _a_while(dice, 6)
        self.lab.start_sshd(node)
        self.tell("%s: sshd is back" % node)

    def crowd_sshd(self, node: str, dice: random.Random) -> None:
        """It refuses most of those who are not logged in yet."""
        self.tell("%s: MaxStartups" % node)
        self.lab.host(node).sshd_options(MaxStartups="1:80:3")
        self.lab.restart_sshd(node)
        self.cluster.hang_up(node)
        _a_while(dice, 6)
        self.lab.host(node).sshd_options(MaxStartups="10:30:100")
        self.lab.restart_sshd(node)

    def partition(self, node: str, dice: random.Random, longest: float = 5.0) -> None:
        """Two machines hear nothing of each other."""
        self.tell("node0 and %s: cut" % node)
        self._route(self.lab.cut, "node0", node)
        _a_while(dice, longest)
        self._route(self.lab.heal, "node0", node)
        self.tell("node0 and %s: healed" % node)

    def one_way(self, node: str, dice: random.Random, longest: float = 5.0) -> None:
        """One doesn't hear the other."""
        pair = ["node0", node]
        dice.shuffle(pair)
        self.tell("%s is not heard by %s" % (*pair,))
        self._route(functools.partial(self.lab.cut, one_way=True), *pair)
        _a_while(dice, longest)
        self._route(self.lab.heal, *pair)
        self.tell("%s is heard by %s" % (*pair,))

    def freeze(self, node: str, dice: random.Random, longest: float = 5.0) -> None:
        """Every process of a machine stands still."""
        self.tell("%s: frozen" % node)
        self._route(self.lab.freeze, node)
        _a_while(dice, longest)
        self.lab.thaw(node)
        self.tell("%s: thawed" % node)

    def long_partition(self, node: str, dice: random.Random) -> None:
        """Longer than `lost_after`."""
        self.partition(node, dice, 45)

    def long_freeze(self, node: str, dice: random.Random) -> None:
        """Longer than `lost_after`."""
        self.freeze(node, dice, 45)

    def reboot(self, node: str, dice: random.Random) -> None:
        """Its power fails, and comes back."""
        self.tell("%s: power fails" % node)
        with self._losing(node):
            self._route(self.lab.power_off, node)
        _a_while(dice, 5)
        with self._losing(node):
            self._route(self.lab.power_on, node)
        self.tell("%s: boots" % node)

    def fill_disk(self, node: str, dice: random.Random) -> None:
        """Its home has no room, sometimes not for an empty file either."""
        files = dice.random() < 0.5
        self.tell("%s: its disk is full%s" % (node, ", of files" if files else ""))
        self.lab.host(node).fill_disk(files)
        _a_while(dice, 6)
        self.lab.host(node).free_disk()
        self.tell("%s: its disk has room" % node)

    def clock_jumps(self, node: str, dice: random.Random) -> None:
        """Its wall clock, by an hour or ten years; mostly it is set right again."""
        jump = dice.choice(JUMPS)
        self.tell("%s: its clock jumps by %d hours" % (node, jump // HOUR))
        self.lab.host(node).set_clock(jump)
        _a_while(dice, 6)
        if dice.random() < 0.75:
            self.lab.host(node).set_clock(0)
            self.tell("%s: its clock is right" % node)

    def no_cron(self, node: str, dice: random.Random) -> None:
        """Its cron stops, or somebody empties the crontab."""
        if dice.random() < 0.5:
            self.tell("%s: its crontab is wiped" % node)
            self.lab.host(node).path(CRONTAB).unlink(missing_ok=True)
            return
        self.tell("%s: cron stops" % node)
        self.lab.host(node).stop_cron()
        _a_while(dice, 10)
        self.lab.host(node).start_cron()

    def upgrade(self, node: str, dice: random.Random) -> None:
        """From now on one of the clients has a newer skyq."""
        program = ["python3", self.newer]
        if self.newer and self.people[-1].program != program:
            self.tell("%s: has a newer skyq" % self.people[-1].host.name)
            self.people[-1].program = program
        else:
            self.kill_skyq(node, dice)

    def pull_link(self, client: str, dice: random.Random) -> None:
        """Of a client that follows a log."""
        person = next(person for person in self.people if person.host.name == client)
        before = [job for job, _ in person.followed]
        known = [job for job in person.jobs if job.job_id and job not in before]
        if known:
            job = dice.choice(known[-3:])
            self.tell("%s: follows %s" % (client, job.token))
            person.follow(job)
            _a_while(dice, 3)
        self.tell("%s: its link is pulled" % client)
        self.lab.cut(client)
        _a_while(dice, 8)
        self.lab.heal(client)
        self.tell("%s: its link is back" % client)

    def _route(self, do: Callable[..., None], *hosts: str) -> None:
        with self._power:
            do(*hosts)

    def _losing(self, node: str) -> _Losing:
        return _Losing(self.excuses.losses, node)


class _Losing:
    """What runs on a node during this, and a moment around it, may be lost."""

    def __init__(self, losses: list[Span], node: str) -> None:
        self.losses = losses
        self.node = node

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.losses.append((self.node, self.began - 1, time.monotonic() + 1))


def _kinds(longest: float) -> list[Callable[..., None]]:
    """As often as they shall be drawn. `longest`: seconds; what lasts longer is left out."""
    quick = [
        *[Faults.kill_skyq] * 5,
        *[Faults.kill_shim, Faults.hang_up, Faults.upgrade, Faults.no_cron, Faults.pull_link] * 2,
        *[Faults.partition, Faults.one_way, Faults.freeze, Faults.reboot, Faults.fill_disk] * 2,
        *[Faults.kill_all, Faults.restart_sshd, Faults.crowd_sshd],
    ]
    clocks = [] if clock.why_not() else [Faults.clock_jumps] * 2
    slow = [Faults.long_partition, Faults.long_freeze]
    return [*quick, *clocks, *(slow if longest > 45 else [])]


def _a_while(dice: random.Random, longest: float) -> None:
    time.sleep(dice.uniform(0.2, longest))


def _run_of(process: psutil.Process) -> str:
    """The run directory whose lock a shim holds; "" for what is none."""
    folder = "/proc/%d/fd" % process.pid
    try:
        links = [os.readlink(os.path.join(folder, name)) for name in os.listdir(folder)]
    except OSError:
        return ""
    return next((link.split("/")[-2] for link in links if link.endswith("/alive")), "")


def _is_no_shim(process: psutil.Process) -> bool:
    """Whether it has not become one since it was looked at. If so it stands still, and can't any more."""
    try:
        process.suspend()
        wait_until(lambda: process.status() in ("stopped", "zombie"), "it stands still")
        if not _run_of(process):
            return True
        process.resume()
    except psutil.NoSuchProcess:
        pass
    return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
        wait_until(lambda: not process.is_running() or process.status() == "zombie", "it is dead")
    except psutil.NoSuchProcess:
        pass
