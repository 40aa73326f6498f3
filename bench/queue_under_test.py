"""A queue of its own for each measurement: own home, declared devices, jobs put in by the thousand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, str(ROOT / "skyq.pyz")]


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
        while store.has_unfinished():
            if time.monotonic() > deadline:
                raise SystemExit("The queue doesn't drain:\n" + self.skyq("queue", "local", "-s", "-u"))
            time.sleep(0.05)
        jobs = store.jobs()
        store.close()
        bad = [job for job in jobs if job.state != "SUCCEEDED"]
        if bad:
            raise SystemExit("Job %d: %s (%s)" % (bad[0].id, bad[0].state, bad[0].reason))
        return max(job.ended_at or 0 for job in jobs) - min(job.started_at or 0 for job in jobs)

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
