"""A queue of its own for each measurement: own home, declared devices, jobs put in by the thousand."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, str(ROOT / "skyq.pyz")]
LOOK = 0.5  # seconds between two looks at CPU times


class Queue:
    """`local` with `devices` H100 and as many CPUs, in a temporary home with an empty ~/.bashrc."""

    def __init__(self, devices: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="skyq-bench-"))
        home = self.folder / "home"
        home.mkdir()
        (home / ".bashrc").touch()
        self.environ = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "SKYQ_HOME": str(home / ".skyq"),
            "SKYQ_CLAIM_DIR": str(self.folder),
            "SKYQ_CRON": "off",
        }
        (home / ".skyq").mkdir(mode=0o700)
        inventory = "local: {hosts: [{ip: localhost, accelerators: {H100: %d}, cpus: %d, memory: 64}]}\n"
        (home / ".skyq" / "pools.yaml").write_text(inventory % (devices, devices))
        self.skyq("queue", "local")
        self.cpu: dict[str, float] = {}
        """Who used how many ms of CPU time for a job, at the last look of a drain."""

    @property
    def state(self) -> Path:
        """The cluster's folder."""
        return Path(self.environ["SKYQ_HOME"]) / "clusters" / "local"

    def skyq(self, *words: str) -> str:
        """Run one command; its output."""
        done = subprocess.run(
            [*PROGRAM, *words], env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit("skyq %s: %s%s" % (" ".join(words), done.stdout, done.stderr))
        return done.stdout

    def fill(self, count: int, run: str, amount: int = 0, cpus: int = 1000) -> None:
        """Put in `count` jobs in one transaction, without waking anybody."""
        from skyq.core.model import Request, Task
        from skyq.head import specs
        from skyq.store.store import NewJob, Store

        task = Task(run=run)
        request = Request("H100", amount, cpus) if amount else Request(cpus=cpus)
        store = Store.open(str(self.state / "queue.db"))
        with store.transaction():
            for _ in range(count):
                uuid = os.urandom(16).hex()
                store.submit(
                    NewJob(uuid, None, "bench", time.time(), 1, (request,), 0, False, "", specs.stored(task))
                )
        store.close()

    def logs(self) -> list[str]:
        """The text of each job's log, in the order of the ids."""
        folders = sorted((self.state / "logs").iterdir(), key=lambda path: int(path.name.split("-")[0]))
        return [(folder / "tasks" / "run.log").read_text() for folder in folders]

    def drain(self, patience: float = 300.0) -> float:
        """Wait until nothing waits or runs; seconds from the first start to the last end."""
        from skyq.store.store import Store

        store = Store.open(str(self.state / "queue.db"))
        deadline = time.monotonic() + patience
        look_at = time.monotonic() + LOOK
        while store.has_unfinished():
            if time.monotonic() > deadline:
                raise SystemExit("The queue doesn't drain:\n" + self.skyq("queue", "local", "-s", "-u"))
            if time.monotonic() > look_at:  # at the end the processes are gone at once
                ended = sum(job.ended_at is not None for job in store.jobs())
                self.cpu = {who: ms / max(ended, 1) for who, ms in self._cpu().items()}
                look_at = time.monotonic() + LOOK
            time.sleep(0.05)
        jobs = store.jobs()
        store.close()
        bad = [job for job in jobs if job.state != "SUCCEEDED"]
        if bad:
            raise SystemExit("Job %d: %s (%s)" % (bad[0].id, bad[0].state, bad[0].reason))
        return max(job.ended_at or 0 for job in jobs) - min(job.started_at or 0 for job in jobs)

    def _cpu(self) -> dict[str, float]:
        """Who used how many ms of CPU time until now."""
        own = {
            verb: [pid for pid, argv in self.processes() if verb in argv]
            for verb in (" _dispatcher ", " _node ")
        }
        if not all(own.values()):
            return {}
        dispatcher, agent = (_times(min(pids, key=_begin)) for pids in own.values())
        return {
            "the dispatcher": sum(dispatcher[:2]),
            "the node agent": sum(agent[:2]),
            "shims and bash": sum(agent[2:]),
        }

    def processes(self) -> list[tuple[int, str]]:
        """(pid, argv) of this queue's own processes."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environ = (entry / "environ").read_bytes()
                    argv = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue
                if ("SKYQ_HOME=" + self.environ["SKYQ_HOME"]).encode() in environ.split(b"\0"):
                    found.append((int(entry.name), argv))
        return found

    def close(self, remove: bool = True) -> None:
        """End all of it; `remove` what it has on disk."""
        self.skyq("cancel", "local", "-u", "-y")
        deadline = time.monotonic() + 30
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        if remove:
            shutil.rmtree(self.folder)


def stat(pid: int) -> list[str]:
    """What /proc/PID/stat has after the name: state, parent ... OSError where it is gone."""
    return Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()


def _begin(pid: int) -> float:
    try:
        return int(stat(pid)[19])
    except OSError:
        return math.inf  # it was a shim, and has ended


def _times(pid: int) -> list[float]:
    """Of the process: user, system; and of its children that have ended. In ms."""
    return [int(ticks) * 1000 / os.sysconf("SC_CLK_TCK") for ticks in stat(pid)[11:15]]
