"""Who types: at each client somebody who submits, cancels, drains, and asks, and notes all that skyq said."""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import GRACE, LocalQueue, Result
from tests.lab import Host, Program
from tests.nemesis.jobs import PART, PARTS, Job, files_hash

LIMIT = 180.0  # seconds within which each command must have answered, whatever is broken
ENDED = (0, 100, 103)
"""What `logs` ends with that has shown a job to its end."""
ALL = 0


@dataclass(frozen=True)
class Said:
    """One command, and what it did."""

    where: str
    words: str
    code: int | None
    """None: it was killed, or did not end."""
    text: str
    """All that it printed."""
    late: bool = False
    """Whether it did not answer within its limit."""


@dataclass(frozen=True)
class Shown:
    """What `skyq logs` of a job's attempt printed."""

    how: str
    token: str
    attempt: int
    """Or ALL of them, one after the other."""
    text: str
    whole: bool
    """Whether it said that this was all."""


def _first_id(said: Said) -> int:
    """Of the jobs that were submitted."""
    found = re.search(r"IDs: (\d+)-", said.text)
    return int(found[1]) if found else LocalQueue.job_id(Result((), 0, said.text, ""))


class Person:
    """At one client, with a folder of their own."""

    def __init__(self, host: Host, folder: str, dice: random.Random, tell: Callable[[str], None]) -> None:
        self.host = host
        self.folder = folder
        self.dice = dice
        self.tell = tell
        self.program = ["skyq"]
        self.jobs: list[Job] = []
        self.said: list[Said] = []
        self.followed: list[tuple[Job, Program]] = []
        self._parts = [os.urandom(PART) for _ in range(PARTS)]
        for number in range(PARTS):
            self._write_part(number)

    def work(self, tokens: Sequence[str], stop: threading.Event, nodes: int) -> None:
        """Submit as many jobs, and do this and that in between."""
        for token in tokens:
            if stop.is_set():
                return
            self.submit(Job.any(self.dice, token))
            victims = [job for job in self.jobs if job.job_id][-10:]
            if victims and self.dice.random() < 0.15:
                victim = self.dice.choice(victims)
                victim.cancelled = True
                self.type("cancel", "lab", "-y", str(victim.job_id))
            if victims and self.dice.random() < 0.3:
                self.ask(str(self.dice.choice(victims).job_id))
            if self.dice.random() < 0.04:
                self.drain("node%d" % self.dice.randrange(nodes))
            time.sleep(self.dice.choice([0, 0, 0, 0.5, 2]))

    def submit(self, job: Job) -> None:
        """It may be refused, or its client may be killed: then nobody knows whether it is in the queue."""
        words, patience = job.words, LIMIT
        if self.dice.random() < 0.25:
            self._change_files()
            job.files = files_hash(self._parts)
            words = [*words, "--workdir", self.folder]
        if self.dice.random() < (0.25 if job.files else 0.05):
            patience = self.dice.uniform(0.2, 4.0)
        self.host.write("/home/ada/%s.yaml" % job.token, job.task)
        jobs = job.each
        self.jobs += jobs
        said = self.type(*words, patience=patience)
        if said.code == 0:
            for job_id, each in enumerate(jobs, _first_id(said)):
                each.job_id = job_id
        else:
            self.tell("%s: %s" % (job.token, said.text.strip()[-300:] or "its client was killed"))

    def ask(self, job: str) -> None:
        """Something that must be answered at any time."""
        questions = [
            ["queue", "lab", "-u"],
            ["queue", "lab", "-s", "-o", "json"],
            ["status", "lab"],
            ["why", "lab", job],
            ["logs", "lab", job, "--no-follow"],
            ["logs", "lab", job, "--status"],
        ]
        self.type(*self.dice.choice(questions))

    def drain(self, node: str) -> None:
        """For a moment."""
        self.tell("%s: drained" % node)
        self.type("drain", "lab", node, "--reason", "tests")
        time.sleep(self.dice.uniform(0, 3))
        self.type("resume", "lab", node)

    def type(self, *words: str, patience: float = LIMIT) -> Said:
        """One command; it is killed if it takes longer."""
        try:
            done = self.host.run([*self.program, *words], env={"SKYQ_GRACE_S": GRACE}, timeout=patience)
            said = Said(self.host.name, " ".join(words), done.returncode, done.stdout + done.stderr)
        except subprocess.TimeoutExpired:
            said = Said(self.host.name, " ".join(words), None, "", late=patience == LIMIT)
        self.said.append(said)
        return said

    def follow(self, job: Job) -> None:
        """Its log, to its end; what came is read by shown()."""
        words = [*self.program, "logs", "lab", str(job.job_id), "--tail", "0"]
        with open(self._output(job), "wb") as output:
            program = self.host.start(words, stdout=output, stderr=output, text=False)
        self.followed.append((job, program))

    def shown(self, patience: float) -> list[Shown]:
        """What was seen of the logs that were followed, once these commands have ended."""
        found = []
        deadline = time.monotonic() + patience
        for job, program in self.followed:
            try:
                program.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.kill_all()
                program.wait()
                words = "logs lab %d" % job.job_id
                self.said.append(Said(self.host.name, words + " (followed)", None, "", late=True))
                continue
            text = self._output(job).read_text(errors="replace")
            self.said.append(Said(self.host.name, "logs (followed)", program.returncode, text))
            whole = program.returncode in ENDED and "is still on its node" not in text
            found.append(Shown("while it was followed", job.token, ALL, text, whole))
        return found

    def look(self, job: Job, attempt: int) -> Shown:
        """The log of one attempt, after all."""
        words = ("logs", "lab", str(job.job_id), "--no-follow", "--tail", "0", "--attempt", str(attempt))
        text = self.type(*words).text
        return Shown("afterwards", job.token, attempt, text, True)

    def _output(self, job: Job) -> Path:
        return self.host.disk / ("followed.%s" % job.token)

    def _change_files(self) -> None:
        for number in self.dice.sample(range(PARTS), self.dice.choice([0, 1, 1, PARTS])):
            self._parts[number] = os.urandom(PART)
            self._write_part(number)

    def _write_part(self, number: int) -> None:
        path = self.host.write("/home/ada/%s/part%d" % (self.folder, number), "")
        path.write_bytes(self._parts[number])
