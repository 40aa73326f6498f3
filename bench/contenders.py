"""skyq, and what its users would pick instead, behind one face: open it, submit a shell line, list, cancel.

Each runs jobs of one device (or one slot, where it knows none), `slots` at a time, with an output file each.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from queue_under_test import PROGRAM, ROOT, Queue
from slurm import SlurmCluster

HQ_PYTHON = ROOT / "bench" / ".rivals" / "bin" / "python"


class Lacks(Exception):
    """What a contender can't do; the text is the cell of the table."""


class Contender:
    """The words of one system. Those that it lacks raise Lacks."""

    name = ""
    most = 1_000_000
    """Jobs that it can hold."""
    environ: dict[str, str]

    def __init__(self) -> None:
        self.left: list[Path] = []
        """Folders of former queues. ext4 is slow to make files for a minute after many were removed, so they
        stay until the run is over."""

    def open(self, slots: int) -> None:
        """An empty queue that runs `slots` jobs at a time."""
        raise NotImplementedError

    def close(self) -> None:
        """End all of its processes."""
        raise NotImplementedError

    def submit(self, line: str) -> list[str]:
        """The command that queues one job and returns."""
        raise NotImplementedError

    def many(self, line: str, count: int) -> list[str]:
        """What a user would do for `count` separate jobs: a loop."""
        return [
            "bash",
            "-c",
            "for i in {1..%d}; do %s || exit; done" % (count, shlex.join(self.submit(line))),
        ]

    def attached(self, line: str) -> list[str]:
        """The command that shows the job's output as it comes."""
        raise Lacks("shows no output")

    def array(self, line: str, count: int) -> list[str]:
        """The command that queues `count` jobs at once."""
        raise Lacks("no arrays")

    def listing(self) -> list[str]:
        """The command that lists the queue."""
        raise Lacks("no listing")

    def cancel(self, job: str) -> list[str]:
        """The command that ends a job. `job`: what submit printed."""
        raise Lacks("no cancel")

    def shut(self) -> None:
        """Start nothing until release()."""
        raise NotImplementedError

    def fill(self, line: str, count: int) -> None:
        """Put in separate jobs while shut."""
        self.run(self.many(line, count))

    def release(self) -> None:
        """Start what waits."""
        raise NotImplementedError

    def gang(self) -> float:
        """Seconds from a command to the first line of the last of two ranks on two nodes."""
        raise Lacks("one machine only")

    def processes(self) -> list[int]:
        """Its own processes, without those of the jobs."""
        raise NotImplementedError

    def run(self, argv: list[str]) -> str:
        """What a command prints. Raises SystemExit when it fails."""
        done = subprocess.run(
            argv, env=self.environ, cwd="/tmp", stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit("%s: %s%s" % (" ".join(argv), done.stdout, done.stderr))
        return done.stdout.strip()


class Skyq(Contender):
    """This working tree's skyq.pyz."""

    name = "skyq"

    def open(self, slots: int) -> None:
        self._queue = Queue(devices=slots)
        self.environ = {**self._queue.environ, "SKYQ_GRACE_S": "2"}

    def close(self) -> None:
        self._queue.close(remove=False)
        self.left.append(self._queue.folder)

    def submit(self, line: str) -> list[str]:
        return [*PROGRAM, "exec", "local", "-d", "-q", "--gpus", "H100:1", "--", line]

    def attached(self, line: str) -> list[str]:
        return [*PROGRAM, "exec", "local", "-q", "--gpus", "H100:1", "--", line]

    def array(self, line: str, count: int) -> list[str]:
        argv = self.submit(line)
        return [*argv[:4], "--array", "0-%d" % (count - 1), *argv[4:]]

    def listing(self) -> list[str]:
        return [*PROGRAM, "queue", "local", "-u"]

    def cancel(self, job: str) -> list[str]:
        return [*PROGRAM, "cancel", "local", job.split()[-1], "-y"]

    def shut(self) -> None:
        self.run([*PROGRAM, "pause", "local"])

    def fill(self, line: str, count: int) -> None:
        self._queue.fill(count, line, amount=10_000)

    def release(self) -> None:
        self.run([*PROGRAM, "resume", "local"])

    def gang(self) -> float:
        from over_ssh import lab, skyq

        words = "exec lab -q --num-nodes 2 --gpus H100:4"
        line = "echo $EPOCHREALTIME; ~/.skyq/bin/skyq %s 'echo $EPOCHREALTIME'" % words
        with lab(2) as found:
            skyq(found.client, "exec", "lab", "-q", "--num-nodes", "2", "true")
            return _gang(lambda: str(found.node(0).run(["bash", "-c", line]).stdout))

    def processes(self) -> list[int]:
        return [pid for pid, argv in self._queue.processes() if "_node" in argv or "_dispatcher" in argv]


class Slurm(Contender):
    """Debian's, with its scheduler's defaults."""

    name = "Slurm"
    tuned = False

    def open(self, slots: int) -> None:
        self._cluster = SlurmCluster(devices=slots, cpus=slots, tuned=self.tuned)
        self.environ = self._cluster.environ

    def close(self) -> None:
        self._cluster.close()
        self.left.append(self._cluster.folder)

    def _script(self, line: str) -> str:
        path = self._cluster.folder / ("job%08x.sh" % (hash(line) & 0xFFFFFFFF))
        path.write_text("#!/bin/bash\n%s\n" % line)
        return str(path)

    def submit(self, line: str) -> list[str]:
        output = "--output=%s/out/%%j" % self._cluster.folder
        return ["sbatch", "--parsable", output, "--gres=gpu:1", self._script(line)]

    def attached(self, line: str) -> list[str]:
        return ["srun", "--quiet", "--gres=gpu:1", "bash", "-c", line]

    def array(self, line: str, count: int) -> list[str]:
        output = "--output=%s/out/%%A-%%a" % self._cluster.folder
        return [
            "sbatch",
            "--parsable",
            output,
            "--gres=gpu:1",
            "--array=0-%d" % (count - 1),
            self._script(line),
        ]

    def listing(self) -> list[str]:
        return ["squeue", "--array"]

    def fill(self, line: str, count: int) -> None:
        """Thousands as arrays, whose elements are listed as jobs: 10,000 times `sbatch` takes minutes."""
        arrays, rest = divmod(count, 1000) if count > 1000 else (0, count)
        for _ in range(arrays):
            self.run(self.array(line, 1000))
        if rest:
            self.run(self.many(line, rest))

    def cancel(self, job: str) -> list[str]:
        return ["scancel", job]

    def shut(self) -> None:
        self.run(["scontrol", "update", "partition=all", "state=down"])

    def release(self) -> None:
        self.run(["scontrol", "update", "partition=all", "state=up"])

    def gang(self) -> float:
        cluster = SlurmCluster(devices=8, cpus=8, nodes=2, tuned=self.tuned)
        line = "echo $EPOCHREALTIME; srun -N2 --gres=gpu:4 bash -c 'echo $EPOCHREALTIME'"
        try:
            return _gang(lambda: cluster.run("bash", "-c", line))
        finally:
            cluster.close()
            self.left.append(cluster.folder)

    def processes(self) -> list[int]:
        return _named("munged", "slurmctld", "slurmd", "slurmstepd")


class TunedSlurm(Slurm):
    """The same, told to look at its queue as soon and as often as it can."""

    name = "Slurm, tuned"
    tuned = True


class TaskSpooler(Contender):
    """Debian's `tsp`: one machine, slots, no devices."""

    name = "task-spooler"
    most = 990  # a client each, until select() has no more room

    def open(self, slots: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tsp-bench-"))
        self._slots = slots
        self.environ = {**os.environ, "TMPDIR": str(self._folder), "TS_SOCKET": str(self._folder / "socket")}
        self.run(["tsp", "-S", str(slots)])

    def close(self) -> None:
        self.run(["tsp", "-K"])
        _kill_with(b"TS_SOCKET=" + self.environ["TS_SOCKET"].encode())  # -K lets live what runs
        self.left.append(self._folder)

    def submit(self, line: str) -> list[str]:
        return ["tsp", "bash", "-c", line]

    def attached(self, line: str) -> list[str]:
        return ["tsp", "-nf", "bash", "-c", line]

    def listing(self) -> list[str]:
        return ["tsp", "-l"]

    def cancel(self, job: str) -> list[str]:
        return ["tsp", "-k", job]

    def shut(self) -> None:
        self.run(["tsp", "-S", "1"])
        self._plug = self.run(["tsp", "sleep", "3600"])

    def release(self) -> None:
        self.run(["tsp", "-S", str(self._slots)])
        self.run(["tsp", "-k", self._plug])

    def processes(self) -> list[int]:
        return _named("tsp")


class HyperQueue(Contender):
    """PyPI's package: a Python API, without the `hq` command."""

    name = "HyperQueue"

    def open(self, slots: int) -> None:
        if not HQ_PYTHON.exists():
            raise SystemExit("Install it first: bench/install_rivals.sh")
        self._folder = Path(tempfile.mkdtemp(prefix="hq-bench-"))
        self._slots = slots
        self.environ = dict(os.environ)
        self._serve()
        self._worker(slots)

    def _serve(self) -> None:
        self._server = subprocess.Popen(
            [*self._side("serve")], cwd=self._folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._heard("serves")

    def _heard(self, word: str) -> None:
        assert self._server.stdout is not None
        while not self._server.stdout.readline().startswith(word):
            if self._server.poll() is not None:
                raise SystemExit("HyperQueue's server has ended")

    def _worker(self, cores: int) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write("%d\n" % cores)
        self._server.stdin.flush()
        self._heard("has a worker")

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self.left.append(self._folder)

    def _side(self, mode: str, *words: str) -> list[str]:
        return [str(HQ_PYTHON), str(ROOT / "bench" / "hq_side.py"), mode, str(self._folder), *words]

    def submit(self, line: str) -> list[str]:
        return self._side("submit", line)

    def many(self, line: str, count: int) -> list[str]:
        return self._side("submit", line, str(count))

    def array(self, line: str, count: int) -> list[str]:
        return self._side("array", line, str(count))

    def shut(self) -> None:
        """A server without a worker."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(10)
        self._serve()

    def release(self) -> None:
        self._worker(self._slots)

    def gang(self) -> float:
        raise Lacks("starts one process")

    def processes(self) -> list[int]:
        return [self._server.pid]


def _gang(line: Callable[[], str], runs: int = 7) -> float:
    """Median; what a line prints is its own start and the first lines of the ranks."""
    taken = []
    for _ in range(runs):
        time.sleep(0.3)
        times = [float(word) for word in line().split()]
        assert len(times) == 3, times
        taken.append(max(times[1:]) - times[0])
    return sorted(taken)[runs // 2]


def _kill_with(word: bytes) -> None:
    """Who has a word in its environment."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), 9)
        except OSError:
            continue


def _named(*names: str) -> list[int]:
    """Processes by the name of their program."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found += [int(entry.name)] if (entry / "comm").read_text().strip() in names else []
            except OSError:
                continue
    return found


ALL: dict[str, type[Contender]] = {
    "skyq": Skyq,
    "slurm": Slurm,
    "slurm-tuned": TunedSlurm,
    "tsp": TaskSpooler,
    "hq": HyperQueue,
}
