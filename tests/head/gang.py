"""A cluster of several nodes on this machine: the real dispatcher, and real node agents at the other ends of
pipes instead of SSH connections. For what SSH has no part in; tests/acceptance has the rest.

    cluster = Cluster(tmp_path, nodes=3); cluster.start()
    cluster.submit("echo hi", nodes=2, gpus=4)       -> uuid
    cluster.cut(2); cluster.heal(2)                  -> its connection breaks, and none can be made
    cluster.make_hostile(2)                          -> from its next connection on it is tests.head.hostile

Run as a module it is the dispatcher of such a cluster.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from skyq.core import states
from skyq.core.errors import Unreachable
from skyq.core.model import UNIT, Device, Job, Node, Reach, Recovery, Request, Task, TimeLimit
from skyq.core.paths import ClusterDir, RunDir
from skyq.head import dispatcher, links, specs
from skyq.head.head import Head
from skyq.head.nodestate import CONNECTING
from skyq.store.store import NewJob, Store
from skyq.transport.local import LocalChannel
from tests.cluster import dead
from tests.program import ROOT
from tests.waiting import PATIENCE, wait_until

GIVE_UP = 2.0  # seconds, instead of 45
ONCE = Recovery()
FOR_EVER = TimeLimit()
RETRY_LAST = 0.2  # seconds, instead of 5


class Cluster:
    """Its nodes are folders: run directories, claim, home."""

    def __init__(self, root: Path, nodes: int, gpus: int = 8, lost_after: float = 600.0) -> None:
        self.root = root
        self.where = ClusterDir(str(root / "cluster"))
        Path(self.where.root).mkdir(parents=True, mode=0o700)
        for index in range(nodes):
            (root / ("node%d" % index)).mkdir()
        self.store = Store.open(self.where.database)
        devices = tuple(Device(index, "H100") for index in range(gpus))
        with self.store.transaction():
            self.store.set("cluster_id", "test")
            self.store.set("lost_after", str(lost_after))
            self.store.set_nodes(
                Node(
                    *("node%d" % index, index, devices, 8000, 16000, "", "10.0.0.%d" % index),
                    Reach("nowhere", 22, "nobody") if index else None,
                )
                for index in range(nodes)
            )
        self.dispatcher: subprocess.Popen[bytes] | None = None
        self.submitted = 0

    def start(self) -> None:
        """A dispatcher that stays until the end."""
        log = open(self.where.dispatcher_log, "ab")
        self.dispatcher = subprocess.Popen(
            [sys.executable, "-m", "tests.head.gang", str(self.root)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        wait_until(lambda: dispatcher.wake.knock(self.where), "it answers", evidence=self.evidence)
        wait_until(lambda: CONNECTING not in self.store.get("trouble"), "its nodes are known")

    def kill_dispatcher(self) -> None:
        """kill -9."""
        assert self.dispatcher
        self.dispatcher.kill()
        self.dispatcher.wait()

    def submit(
        self,
        run: str,
        nodes: int = 1,
        gpus: int = 0,
        setup: str | None = None,
        uuid: str = "",
        recovery: Recovery = ONCE,
        limit: TimeLimit = FOR_EVER,
    ) -> str:
        """The uuid of the new job."""
        self.submitted += 1
        uuid = uuid or "job%d-%s" % (self.submitted, os.urandom(4).hex())
        request = Request("H100", gpus * UNIT) if gpus else Request()
        task = Task(num_nodes=nodes, run=run, setup=setup, alternatives=(request,))
        new = NewJob(
            *(uuid, None, "me", time.time(), nodes, task.alternatives, 0, setup is not None, ""),
            specs.stored(task),
            recovery,
            time_limit=limit._replace(grace=specs.grace()),
        )
        with self.store.transaction():
            self.store.submit(new)
        if self.dispatcher:
            wait_until(
                lambda: dispatcher.wake.knock(self.where), "the dispatcher answers", evidence=self.evidence
            )
        return uuid

    def job(self, uuid: str) -> Job:
        """As it is now."""
        found = self.store.job_of(uuid)
        assert found is not None
        return found

    def wait(self, uuid: str, *wanted: str, within: float = PATIENCE) -> Job:
        """The job once it is in one of these states (none: any final one)."""
        wanted = wanted or tuple(states.FINAL)

        def there() -> Job | None:
            job = self.job(uuid)
            assert job.state in wanted or job.state not in states.FINAL, self.evidence()
            return job if job.state in wanted else None

        return wait_until(there, "%s is %s" % (uuid, " or ".join(wanted)), within, self.evidence)

    def log(self, uuid: str, step: str, attempt: int = 99) -> bytes:
        """What the head has of a step's log; of the last attempt, or another one."""
        head = Head(self.where, "lab")
        path = Path(head.step_logs(head.attempt(self.job(uuid), attempt))[step])
        return path.read_bytes() if path.exists() else b""

    def run_dir(self, index: int, uuid: str, step: str, attempt: int = 1) -> RunDir:
        """On that node."""
        return RunDir.of(runs(self.root, index), uuid, attempt, step)

    def cut(self, index: int) -> None:
        """Its connection breaks; what runs there runs on."""
        (self.root / ("cut%d" % index)).touch()
        for agent in self.agents(index):
            agent.kill()

    def heal(self, index: int) -> None:
        """It can be connected to again."""
        (self.root / ("cut%d" % index)).unlink()

    def make_hostile(self, index: int) -> None:
        """From now on something else answers there."""
        (self.root / ("hostile%d" % index)).touch()
        for agent in self.agents(index):
            agent.kill()

    def agents(self, index: int) -> list[psutil.Process]:
        """The node's agent, if the dispatcher has one. (Shims look alike, but have other parents.)"""
        assert self.dispatcher
        children = psutil.Process(self.dispatcher.pid).children()
        return [
            child for child in children if not dead(child) and child.cmdline()[-1] == runs(self.root, index)
        ]

    def processes(self) -> list[psutil.Process]:
        """All that the jobs and nodes have living."""
        found = []
        for process in psutil.process_iter():
            try:
                told = [*process.cmdline(), *process.environ().values()]
                if process.pid != os.getpid() and any(str(self.root) in text for text in told):
                    found.append(process)
            except psutil.Error:
                continue
        return [process for process in found if not dead(process)]

    def close(self) -> None:
        """Nothing of it outlives the test."""
        if self.dispatcher and self.dispatcher.poll() is None:
            self.kill_dispatcher()
        while found := self.processes():
            for process in found:
                try:
                    process.send_signal(signal.SIGKILL)
                except psutil.Error:
                    continue
        self.store.close()

    def evidence(self) -> str:
        """What a failing test shows."""
        jobs = "\n".join(map(str, self.store.jobs()))
        return "%s\n--- dispatcher.log\n%s" % (jobs, Path(self.where.dispatcher_log).read_text()[-6000:])


def runs(root: Path, index: int) -> str:
    """A node's run directories."""
    return str(root / ("node%d" % index) / "run")


def main(root: Path) -> None:
    """Be the dispatcher."""
    dispatcher.GIVE_UP = GIVE_UP
    dispatcher.LINGER_CONNECTED = 3600.0
    dispatcher.CRON_AFTER = 3600.0
    links.RETRY_LAST = RETRY_LAST

    def connect(node: Node) -> LocalChannel:
        if (root / ("cut%d" % node.index)).exists():
            raise Unreachable("%s is cut off" % node.name, "refused")
        # One environment for all: an agent reads it as it starts.
        os.environ["HOME"] = os.environ["SKYQ_CLAIM_DIR"] = str(root / ("node%d" % node.index))
        if (root / ("hostile%d" % node.index)).exists():
            return LocalChannel([sys.executable, "-m", "tests.head.hostile", str(root)])
        return LocalChannel([sys.executable, "-m", "skyq", "_node", runs(root, node.index)])

    dispatcher.run(ClusterDir(str(root / "cluster")), "lab", connect, lambda node, names: ["false"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
