"""`python -m tests.nemesis --seed 7 --jobs 200 --minutes 5` (as root): random jobs, from two clients, and
random faults, at once; then all is healed and must be as it must be. A failure prints seed and history.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.cluster import FINAL, LocalQueue, Result
from tests.lab import Lab
from tests.nemesis.check import violations
from tests.nemesis.faults import Faults
from tests.nemesis.jobs import Job
from tests.program import built
from tests.ssh.remote import Remote

NODES = 5
SETTLE = 300.0  # seconds until all jobs have ended once nothing is broken any more
LOST_AFTER = "15"


class Nemesis:
    """One run on a new lab."""

    def __init__(self, folder: Path, seed: int, jobs: int) -> None:
        self.seed = seed
        self.wanted = jobs
        self.began = time.monotonic()
        self.history: list[str] = []
        lab = Lab(folder, NODES, 8, clients=2, program=built(folder))
        self.cluster = Remote(lab)
        self.faults = Faults(self.cluster, random.Random(seed), self.tell)
        self.jobs: list[Job] = []
        self.stop = threading.Event()

    def tell(self, text: str) -> None:
        """To the history."""
        self.history.append("%7.2f %s" % (time.monotonic() - self.began, text))

    def run(self, seconds: float) -> list[str]:
        """The violations."""
        lab = self.cluster.lab
        lab.up()
        try:
            for client in lab.clients:
                Remote(lab, client.name).pool()
            self.cluster.ok("exec", "lab", "-d", "-n", "first", "true")
            self.cluster.set("lost_after", LOST_AFTER)
            clients = [threading.Thread(target=self.submit, args=(at,)) for at in range(len(lab.clients))]
            for thread in clients:
                thread.start()
            until = time.monotonic() + seconds
            while time.monotonic() < until and any(thread.is_alive() for thread in clients):
                self.faults.one()
                time.sleep(self.faults.dice.uniform(0, 2))
            self.stop.set()
            for thread in clients:
                thread.join()
            self.tell("no more faults")
            self.settle()
            return [text for text in violations(self.cluster, self.jobs, self.faults) if "first" not in text]
        finally:
            lab.down()

    def submit(self, which: int) -> None:
        """What somebody at one of the clients does."""
        dice = random.Random(self.seed * 1000 + which)
        client = self.cluster.lab.clients[which]
        share = range(which, self.wanted, len(self.cluster.lab.clients))
        for number in share:
            if self.stop.is_set():
                return
            job = Job.any(dice, number)
            self.jobs.append(job)
            client.write("/home/ada/%s.yaml" % job.token, job.task)
            verb = ["launch", "-c", "lab"] if job.setup else ["exec", "lab"]
            patience = 0.3 if dice.random() < 0.05 else 180.0
            try:
                done = client.run(
                    ["skyq", *verb, "-d", job.token + ".yaml"], timeout=patience, env={"SKYQ_GRACE_S": "2"}
                )
                if done.returncode == 0:
                    job.job_id = LocalQueue.job_id(Result((), 0, done.stdout, done.stderr))
                else:
                    self.tell("%s: refused: %s" % (job.token, done.stderr.strip()[-200:]))
            except subprocess.TimeoutExpired:
                self.tell("%s: its client was killed" % job.token)
            victims = [job for job in self.jobs if job.job_id]
            if victims and dice.random() < 0.2:
                self.cancel(client.name, dice.choice(victims[-10:]))
            time.sleep(dice.choice([0, 0, 0, 0.5, 2]))

    def cancel(self, client: str, job: Job) -> None:
        """It may or may not come through."""
        job.cancelled = True
        try:
            words = ["skyq", "cancel", "lab", "-y", str(job.job_id)]
            self.cluster.lab.host(client).run(words, timeout=120)
        except subprocess.TimeoutExpired:
            pass

    def settle(self) -> None:
        """Wait until all jobs have ended, or it takes too long."""
        until = time.monotonic() + SETTLE
        while time.monotonic() < until:
            records = self.cluster.jobs(at=self.cluster.head).values()
            nodes = self.cluster.nodes(at=self.cluster.head).values()
            if all(record["status"] in FINAL for record in records) and all(node["usable"] for node in nodes):
                break
            time.sleep(1)
        time.sleep(3)  # the rest of logs, and of processes: what must not be there after that is a violation


def main() -> int:
    """Exit code 0 where all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=3.0)
    found = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="skyq-nemesis-"))
    try:
        nemesis = Nemesis(folder, found.seed, found.jobs)
        print("seed %d" % found.seed, flush=True)
        wrong = nemesis.run(found.minutes * 60)
        records = len(nemesis.jobs)
        print("%d jobs, %d faults: %d violations" % (records, nemesis.faults.count, len(wrong)))
        if wrong:
            print("\n".join(["", *nemesis.history, "", *wrong]))
        return 1 if wrong else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
