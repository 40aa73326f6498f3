"""The operations of a queue on this machine, each with what a user does after its crash."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from tests.cluster import LocalQueue, kill
from tests.crash.check import Expected, Seen, strangers
from tests.crash.trace import Point, Trace
from tests.crash.world import Operation, World
from tests.faults.truth import Truth
from tests.waiting import wait_until

CODE = 7
"""The exit code of the job that an operation is about."""
LOG = "said\n"
DONE = "echo said; echo $id >>~/truth/ends; exit %d" % CODE
REAL = {"FAILED": [CODE]}
LOST = {"FAILED_DRIVER": None, "FAILED": None}
"""Where the job's own shim or script is what was broken."""
FILES = {"a": "one\n", "sub/b": "x" * 200_000, "sub/deeper/c": "three\n"}
SUM = hashlib.sha256("".join(FILES.values()).encode()).hexdigest()
WHOLE = (
    "[ $(cat a sub/b sub/deeper/c | sha256sum | cut -c1-64) = %s ] || echo torn files >>~/truth/violations; "
    % SUM
)
SECRET = '[ "$TOKEN" = t0ken ] || echo no secret >>~/truth/violations; '
KNOWN = (
    r"skyq/(app|pools\.yaml|bin|clusters|clusters/local)(/skyq)?",
    r"skyq/app/.*",  # unpack.py removes what was left an hour ago
    r"skyq/clusters/local/(queue\.db(-wal|-shm)?|journal|tick\.lock|dispatcher\.(log|sock)|ticked)",
    r"skyq/clusters/local/(secrets|run|work|logs|wrappers)",
    r"skyq/clusters/local/wrappers/(wrapper\.py|\w+(/\w+)?)",
    r"skyq/clusters/local/logs/\d+-\w+(/tasks(/(run|setup)\.log)?)?",
    r"claims/skyq-host\.shims",
    r"me/(gate|sky_workdir|truth(/[^/]+)?|project(/.*)?)",
)
"""What may be there when all jobs have ended and `clean` was typed."""


class LocalWorld(World):
    """A queue on this machine."""

    def __init__(
        self, folder: Path, program: list[str], app: Path | None, newer: Callable[[], Path] = lambda: Path()
    ) -> None:
        """`newer`: makes a newer skyq.pyz, or has it."""
        super().__init__()
        self.queue = LocalQueue(folder / "q", program)
        (self.queue.home / "app").mkdir(mode=0o700)
        for found in app.iterdir() if app else ():  # what this trial unpacks is its own
            if not found.name.startswith("."):
                (self.queue.home / "app" / found.name).symlink_to(found)
        self.truth = Truth(self.queue)
        self.folder = folder
        self.newer = newer
        self.database = self.queue.state_dir / "queue.db"

    def trace(self, trace: Trace, *words: str, program: list[str] | None = None) -> None:
        """Run a command under the tracer."""
        trace.start([*(program or self.queue.program), *words], self.queue.env, self.queue.user_home)

    def type(self, *words: str) -> str:
        """A command of the user's that must succeed."""
        result = self.queue.ok(*words)
        self.said[" ".join(words)[:80]] = result.err
        return result.out

    def tick(self) -> None:
        result = self.queue.run("tick")
        assert result.code == 0, result
        self.said["tick"] = result.err

    def go_on(self) -> None:
        """Another job, which needs all devices, runs; the queue gets idle; what is left is cleaned up."""
        state = [self.queue.claims, self.queue.state_dir]
        if any(path for root in state for path in root.rglob("*.new")):  # the next node agent removes them
            self.queue.until(lambda: not self.queue.own_processes(), "dispatcher and node agent leave")
        self._age()
        script = self.truth.script("echo $id >>~/truth/ends")
        files = ["--workdir", "project"] if (self.queue.user_home / "project").exists() else []
        words = ["exec", "local", "-n", "next", "--gpus", "H100:4", *files, script]
        self.acknowledge("next", self.type(*words))
        self.queue.until(lambda: not self.queue.own_processes(), "dispatcher and node agent leave")
        self.type("clean", "local", "--older", "0d", "-y")

    def _age(self) -> None:
        """Two days pass for what nobody will come back to."""
        old = time.time() - 2 * 86400
        places = [self.queue.state_dir / "work", self.queue.state_dir / "wrappers", self.queue.home / "bin"]
        for root in (*places, self.queue.claims):
            for folder, names, files in os.walk(root):
                for name in (*names, *files):
                    os.utime(Path(folder, name), (old, old), follow_symlinks=False)
        for path in self.queue.user_home.glob("sky_workdir.*"):
            os.utime(path, (old, old), follow_symlinks=False)

    def see(self) -> Seen:
        """All that the check needs."""
        rows = self.rows()
        in_use, integrity = self.database_says()
        ended = self.truth.folder / "ends"
        return Seen(
            rows,
            self.truth.starts(),
            [int(line) for line in ended.read_text().splitlines()] if ended.exists() else [],
            self.truth.violations(),
            [" ".join(process.cmdline()) for process in self.queue.job_processes()]
            + ["job %d" % row.id for row in rows if self.truth.lives(row.id)],
            {row.id: self.log_of(row, "run.log") for row in rows},
            in_use,
            integrity,
            strangers(self._names(), [*KNOWN, *self._shown()]),
            self.notes(),
        )

    def _names(self) -> Iterable[str]:
        for root in (self.queue.home, self.queue.claims, self.queue.user_home):
            for folder, names, files in os.walk(root):
                for name in (*names, *files):
                    yield os.path.relpath(os.path.join(folder, name), self.queue.root)

    def _shown(self) -> list[str]:
        """The copy that `~/sky_workdir` shows stays, and so do those that it shows parts of."""
        link = self.queue.user_home / "sky_workdir"
        todo = [link.resolve()] if link.is_symlink() and link.exists() else []
        found: list[str] = []
        for copy in todo:
            found.append(r"%s(\.json|/.*)?" % re.escape(os.path.relpath(copy, self.queue.root.resolve())))
            todo += map(Path, json.loads(Path(str(copy) + ".json").read_text())["shows"])
        return found

    def evidence(self) -> str:
        """For who reads of a violation."""
        listing = "\n".join(sorted(self._names() if self.queue.home.exists() else []))
        shown = "\n".join(line for line in listing.splitlines() if not line.startswith("skyq/app/"))
        ledger = {path.name: path.read_text() for path in self.truth.folder.iterdir()}
        return "ledger: %s\nsaid: %s\nfiles:\n%s\n%s" % (ledger, self.said, shown, self.queue.evidence())

    def close(self) -> None:
        """Nothing of it is left."""
        for process in self.queue.processes():
            kill(process)


class Locally(Operation):
    """Submit a job, and have it run; subclasses say which part of that is walked."""

    then: ClassVar[str] = DONE
    """What the job does when it has begun."""

    def words(self) -> list[str]:
        """The operation's submit."""
        script = SECRET + Truth.script(self.then)
        return ["exec", "local", "-d", "-n", "victim", "--gpus", "H100:1", "--secret", "TOKEN=t0ken", script]

    def act(self, world: LocalWorld, trace: Trace) -> None:
        """The operation, traced; returns when its point was met, or all of it is over."""
        self.submit(world, trace)

    def submit(self, world: LocalWorld, trace: Trace, program: list[str] | None = None) -> None:
        """The traced command, to its end, and what it said."""
        world.trace(trace, *self.words(), program=program)
        code = trace.until_ended()
        self.heard(world, trace, code, trace.said())

    def expected(self, world: LocalWorld, hit: Point | None) -> dict[str, Expected]:
        """Of each job."""
        states = {**REAL, **(LOST if hit and hit.role in ("shim", "script") else {})}
        required = hit is None or hit.role != "command"
        return {
            "victim": Expected(world.ids["victim"], required, {} if self.refused else states, LOG),
            "next": Expected(world.ids["next"], True, {"SUCCEEDED": [0]}),
        }


class Submit(Locally):
    """The first one of all: it makes the queue, too."""

    name, roles = "submit", ("command",)


class First(Submit):
    """Where skyq was never started before: it unpacks itself, and its libraries only for the dispatcher."""

    name, unpacked = "first", False

    def prepare(self, world: LocalWorld) -> None:
        (world.queue.home / "pools.yaml").unlink()

    def words(self) -> list[str]:
        return ["exec", "local", "-d", "-n", "victim", Truth.script(DONE)]

    def retry(self, world: LocalWorld) -> None:
        world.queue.declare(H100=4)


class Workdir(Locally):
    """With files, after another job that had some of them."""

    name, roles = "workdir", ("command",)

    def prepare(self, world: LocalWorld) -> None:
        for name, text in FILES.items():
            world.queue.file("project/" + name, text)
        former = WHOLE + "echo more >left; " + Truth.script("echo $id >>ends")
        world.type("exec", "local", "-d", "-n", "former", "--workdir", "project", former)
        world.queue.file("project/a", "changed\n")
        world.queue.file("project/a", FILES["a"])

    def words(self) -> list[str]:
        script = WHOLE + Truth.script(DONE)
        return ["exec", "local", "-d", "-n", "victim", "--gpus", "H100:1", "--workdir", "project", script]

    def expected(self, world: LocalWorld, hit: Point | None) -> dict[str, Expected]:
        return {**super().expected(world, hit), "former": Expected([], True, {"SUCCEEDED": [0]})}


class Tick(Locally):
    """The dispatcher comes, plans, records, and has the job started."""

    name, roles = "tick", ("dispatcher",)
    then = LocalQueue.until_open() + "; " + DONE

    def act(self, world: LocalWorld, trace: Trace) -> None:
        self.submit(world, trace)
        wait_until(
            lambda: trace.hit or world.truth.starts(), "it is broken or has begun", evidence=world.evidence
        )
        trace.stop()
        world.queue.open_gate()


class Start(Tick):
    """The node agent and the shim, up to the script."""

    name, roles = "start", ("agent", "shim", "script")


class Finish(Locally):
    """The script ends; that is recorded, settled, and the queue goes idle."""

    name, roles, wait = "finish", ("dispatcher", "agent", "shim"), True
    then = LocalQueue.until_open() + "; " + DONE

    def act(self, world: LocalWorld, trace: Trace) -> None:
        self.submit(world, trace)
        wait_until(world.truth.starts, "it has begun", evidence=world.evidence)
        trace.count()
        self.end(world)
        trace.until_over()

    def end(self, world: LocalWorld) -> None:
        """Have the script end."""
        world.queue.open_gate()


class Stop(Finish):
    """A cancel, as those who have to obey it see it."""

    name = "stop"

    def end(self, world: LocalWorld) -> None:
        world.type("cancel", "local", "-y", "1")

    def expected(self, world: LocalWorld, hit: Point | None) -> dict[str, Expected]:
        found = super().expected(world, hit)
        states = {"CANCELLED": None, **(LOST if hit and hit.role == "shim" else {})}
        return {**found, "victim": found["victim"]._replace(states=states)}


class Cancel(Stop):
    """A cancel, as who types it sees it; who isn't told that it is done types it again."""

    name, roles, wait = "cancel", ("command",), False

    def act(self, world: LocalWorld, trace: Trace) -> None:
        world.acknowledge("victim", world.type(*self.words()))
        wait_until(world.truth.starts, "it has begun", evidence=world.evidence)
        world.trace(trace, "cancel", "local", "-y", "1")
        trace.until_ended()
        world.said["the traced command"] = trace.said()

    def retry(self, world: LocalWorld) -> None:
        world.queue.run("cancel", "local", "-y", "1")


class Upgrade(Tick):
    """A newer skyq submits where an older one's job runs."""

    name, roles = "upgrade", ("command", "dispatcher")

    def prepare(self, world: LocalWorld) -> None:
        script = Truth.script(LocalQueue.until_open() + "; echo $id >>ends")
        world.type("exec", "local", "-d", "-n", "former", "--gpus", "H100:1", script)
        wait_until(world.truth.starts, "it has begun", evidence=world.evidence)

    def act(self, world: LocalWorld, trace: Trace) -> None:
        world.queue.program = [world.queue.program[0], str(world.newer())]
        self.submit(world, trace)
        wait_until(lambda: trace.hit or len(world.truth.starts()) > 1, "it is broken or has begun")
        world.queue.open_gate()
        trace.until_over()

    def expected(self, world: LocalWorld, hit: Point | None) -> dict[str, Expected]:
        return {**super().expected(world, hit), "former": Expected([], True, {"SUCCEEDED": [0]})}


EVERY: tuple[type[Locally], ...] = (First, Submit, Workdir, Tick, Start, Finish, Cancel, Stop, Upgrade)
OPERATIONS: dict[str, type[Locally]] = {each.name: each for each in EVERY}
