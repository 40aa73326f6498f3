"""One run: a lab, people who type, hands that break things; then all is whole again and is looked at."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import FINAL
from tests.lab import Lab, Traits, clock
from tests.nemesis import world as seen
from tests.nemesis.check import violations
from tests.nemesis.faults import Faults
from tests.nemesis.kernel import Kernel
from tests.nemesis.people import Person
from tests.nemesis.world import Database, World
from tests.program import built
from tests.ssh.remote import LAUNCHER, Remote
from tests.waiting import wait_until

NODES = 5
PEOPLE = 4
HANDS = 2
SETTLE = 120.0  # seconds without any change of a job, once nothing is broken any more: then it has stalled
TELL_EVERY = 10.0  # seconds, of what has not ended yet
GRACE = 15.0  # seconds until nothing of them lives
IDLE = 60.0  # seconds until no process of skyq's does
LOST_AFTER = "15"
DISK = "2g"
SAMPLE = 12  # logs that are read through `skyq logs`
NEWER = "newer.pyz"
SET = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30)
with database:
    database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", sys.argv[2:])
"""


class Nemesis:
    """On a new lab. `newer`: a skyq with a greater version, if one shall come in the middle."""

    def __init__(self, folder: Path, seed: int, jobs: int, newer: Path | None = None) -> None:
        self.seed = seed
        self.wanted = jobs
        self.newer = newer
        self.keep: Path | None = None
        """Where to put what skyq had on its machines, if something is wrong."""
        self.began = time.monotonic()
        self.history: list[str] = []
        self.world = World()
        self.tag = "x%03x" % (int.from_bytes(os.urandom(2), "big") % 4096)
        """What the names of this run's jobs begin with: others may run on this machine at the same time."""
        traits = {"node%d" % number: Traits(clock=not clock.why_not()) for number in range(NODES)}
        for name in ("node0", "node1"):
            traits[name] = Traits(disk=DISK, clock=not clock.why_not())
        lab = Lab(folder, NODES, 8, clients=2, program=built(folder), traits=traits)
        self.cluster = Remote(lab)
        self.kernel = Kernel()
        self.stop = threading.Event()
        self.faults: Faults | None = None

    def tell(self, text: str) -> None:
        """To the history."""
        self.history.append("%7.2f %s" % (time.monotonic() - self.began, text))

    def run(self, seconds: float, longest: float, settle: float = SETTLE) -> list[str]:
        """The violations. `longest`: seconds that a fault lasts; `settle`: without any change, afterwards."""
        lab = self.cluster.lab
        self.kernel.start()
        lab.up()
        try:
            people = self._people()
            database = self._cluster()
            newer = "/home/ada/" + NEWER if self.newer else ""
            self.faults = Faults(self.cluster, people, newer, self.tell)
            self.faults.excuses = self.world.excuses
            self._disturb(people, database, seconds, longest)
            self._settle(database, settle)
            self._look(people, database)
            database.close()
            found = violations(self.world)
            if found and self.keep:
                self._keep(self.keep)
            return found
        finally:
            self.stop.set()
            lab.down()

    def summary(self, wrong: Sequence[str]) -> str:
        """In figures."""
        states = Counter(record["status"] for record in self.world.records)
        kinds = len(self.faults.kinds) if self.faults else 0
        return "%d jobs (%s; %d attempts), %d commands, %d faults of %d kinds: %d violations" % (
            len(self.world.jobs),
            ", ".join("%d %s" % (count, state) for state, count in sorted(states.items())),
            sum(record["attempt"] for record in self.world.records),
            len(self.world.said),
            self.faults.count if self.faults else 0,
            kinds,
            len(wrong),
        )

    def _keep(self, folder: Path) -> None:
        """What skyq had on its machines."""
        for node in self.cluster.lab.nodes:
            skip = shutil.ignore_patterns("work", "app", "*.sock")
            shutil.copytree(node.home / ".skyq", folder / node.name / "skyq", symlinks=True, ignore=skip)
            shutil.copytree(node.path("/var/tmp/truth"), folder / node.name / "truth")
            shutil.copytree(node.path("/var/log/"), folder / node.name / "log")

    def _people(self) -> list[Person]:
        lab = self.cluster.lab
        if self.newer:
            shutil.copy(self.newer, lab.clients[-1].home / NEWER)
        people = []
        for number in range(PEOPLE):
            client = lab.clients[number % len(lab.clients)]
            Remote(lab, client.name).pool()
            dice = random.Random(self.seed * 1000 + number)
            people.append(Person(client, "work%d" % number, dice, self.tell))
        return people

    def _cluster(self) -> Database:
        self.cluster.ok("exec", "lab", "-d", "-n", "first", "true")
        path = "/home/ada/.skyq/clusters/lab/queue.db"
        words = ["python3", "-c", SET, path, "lost_after", LOST_AFTER]
        done = self.cluster.head.run(words)
        assert done.returncode == 0, done
        self.cluster.kill_dispatcher()  # the next one has read it
        return Database(self.cluster)

    def _disturb(self, people: Sequence[Person], database: Database, seconds: float, longest: float) -> None:
        """Until as many jobs are submitted, or the time is over."""
        assert self.faults is not None
        tokens = ["%s%04d" % (self.tag, number) for number in range(self.wanted)]
        shares = [tokens[number :: len(people)] for number in range(len(people))]
        typing = [
            threading.Thread(target=self._watched, args=(person.work, share, self.stop, NODES))
            for person, share in zip(people, shares)
        ]
        hands = [
            threading.Thread(
                target=self._watched,
                args=(self.faults.hand, random.Random(self.seed * 1000 + 500 + n), self.stop, longest),
            )
            for n in range(HANDS)
        ]
        for thread in [*typing, *hands]:
            thread.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(thread.is_alive() for thread in typing):
            self._watch(database)
            time.sleep(1)
        self.stop.set()
        for thread in [*typing, *hands]:
            while thread.is_alive():
                self._watch(database)
                thread.join(1)
        self.world.jobs = [job for person in people for job in person.jobs]
        self.tell("no more faults")

    def _watched(self, do: object, *arguments: object) -> None:
        """A mistake of these tests is told, too."""
        try:
            do(*arguments)  # type: ignore[operator]
        except BaseException as error:
            import traceback

            self.world.left.append(
                "the nemesis itself failed: %s" % "".join(traceback.format_exception(error))
            )

    def _watch(self, database: Database) -> None:
        """A job that is over has no process, unless a machine was lost with it."""
        for job, name, state, reason in database.ask("SELECT id, name, state, reason FROM jobs"):
            if state in FINAL and job not in self.world.ended:
                self.kernel.catch_up()
                self.world.ended[job] = time.monotonic()
                living = self.kernel.living(name)
                if living and "has been unreachable since" not in reason:
                    self.world.left.append("job %d is %s (%s): %s" % (job, state, reason, living))

    def _settle(self, database: Database, seconds: float) -> None:
        """One command, as somebody types who wonders; what then must be done is not for others to do."""
        assert self.faults is not None
        head = self.cluster.head
        head.start_cron()
        head.run([LAUNCHER, "resume", "lab", "node*"])
        changed = told = time.monotonic()
        before: list[str] = []
        while time.monotonic() < changed + seconds:
            self._watch(database)
            rows = database.ask("SELECT id, state, attempt, reason FROM jobs")
            waited_for = ["job %d is %s (attempt %d; %s)" % (*row,) for row in rows if row[1] not in FINAL]
            waited_for += seen.owed(database)
            if rows and not waited_for:
                self.tell("all jobs have ended")
                return
            if waited_for != before:
                before, changed = waited_for, time.monotonic()
            if time.monotonic() > told + TELL_EVERY:
                told = time.monotonic()
                self.tell("not ended: " + "; ".join(waited_for))
            time.sleep(0.5)
        self.tell("nothing goes on any more")

    def _look(self, people: Sequence[Person], database: Database) -> None:
        world, cluster = self.world, self.cluster
        try:
            wait_until(lambda: not seen.left(cluster, database), "all is free", GRACE)
        except AssertionError:
            world.left += seen.left(cluster, database)
        self.kernel.catch_up()
        world.left += self.kernel.living(self.tag)
        for person in people:
            world.shown += person.shown(60.0)
        records = cluster.jobs(at=cluster.head).values()
        world.records = [record for record in records if record["job_name"] != "first"]
        by_id = {record["job_id"]: record for record in world.records}
        known = [job for job in world.jobs if job.job_id in by_id]
        for job in random.Random(self.seed).sample(known, min(SAMPLE, len(known))):
            person = random.Random(job.token).choice(list(people))
            world.shown.append(person.look(job, int(by_id[job.job_id]["attempt"])))
        world.said = [said for person in people for said in person.said]
        world.notes = seen.notes(cluster)
        world.earlier = seen.earlier(database)
        world.logs = seen.logs(cluster, world.records, world.earlier)
        world.words = seen.words(cluster)
        world.exits = dict(self.kernel.exits)
        try:
            wait_until(lambda: not seen.own(cluster), "skyq has left", IDLE)
        except AssertionError:
            world.left += seen.own(cluster)
        if self.kernel.lost:
            world.left.append("the kernel told of more than was read: it is no witness")
