"""Slurm as Debian packages it, on this machine alone: munged, slurmctld and a slurmd per node, in a folder.

As its documentation has it: backfill, cons_tres, GRES with a file per device, and `proctrack/cgroup`.
Accounting is off, which is quicker.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

TUNED = "batch_sched_delay=0,sched_interval=1,bf_interval=1"
SBIN = "/usr/sbin/"

CONF = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
KillWait=2
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ProctrackType={proctrack}
TaskPlugin=task/none
GresTypes=gpu
MaxJobCount=20000
MaxArraySize=10001
{scheduling}
NodeName=node[0-{last}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_slurmd}-{last_slurmd}] \
CPUs={cpus} RealMemory=64000 Gres=gpu:h100:{devices}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """A cluster of its own; `close()` ends all of it."""

    def __init__(
        self,
        devices: int,
        cpus: int,
        nodes: int = 1,
        tuned: bool = False,
        proctrack: str = "proctrack/cgroup",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-bench-"))
        os.chmod(self.folder, 0o755)  # munge's clients look into it
        self.environ = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._processes: list[subprocess.Popen[bytes]] = []
        (self.folder / "state").mkdir()
        (self.folder / "out").mkdir()
        ports = _free_ports(nodes + 1)
        conf = CONF.format(
            folder=self.folder,
            host=socket.gethostname(),
            port=ports[0],
            first_slurmd=ports[1],
            last_slurmd=ports[-1],
            last=nodes - 1,
            cpus=cpus,
            devices=devices,
            proctrack=proctrack,
            scheduling="SchedulerParameters=" + TUNED if tuned else "",
        )
        (self.folder / "slurm.conf").write_text(conf)
        for number in range(devices):
            (self.folder / ("gpu%d" % number)).touch()
        files = "%s/gpu[0-%d]" % (self.folder, devices - 1)
        (self.folder / "gres.conf").write_text("Name=gpu Type=h100 File=%s Flags=nvidia_gpu_env\n" % files)
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._start(
            *(SBIN + "munged", "--foreground", "--force", "--key-file=%s" % key),
            *("--socket=%s/munge.sock" % self.folder, "--pid-file=%s/munge.pid" % self.folder),
            *("--seed-file=%s/munge.seed" % self.folder, "--log-file=%s/munge.log" % self.folder),
        )
        self._until(lambda: (self.folder / "munge.sock").exists(), "munged doesn't start")
        self._start(SBIN + "slurmctld", "-D")
        for number in range(nodes):
            self._start(SBIN + "slurmd", "-D", "-N", "node%d" % number)
        self._until(lambda: self.run("sinfo", "-h", "-o", "%T %D") == "idle %d" % nodes, "no idle nodes")

    def _start(self, *argv: str) -> None:
        with (self.folder / "daemons.out").open("ab") as out:
            self._processes.append(
                subprocess.Popen(argv, env=self.environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            )

    def _until(self, seen, failure: str, patience: float = 60.0) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + patience
        while not seen():
            if time.monotonic() > deadline:
                raise SystemExit("%s: see %s" % (failure, self.folder))
            time.sleep(0.05)

    def run(self, *argv: str) -> str:
        """What a command prints, whether or not it succeeds."""
        done = subprocess.run(
            argv, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        return done.stdout.strip()

    def close(self) -> None:
        """End what was started, jobs first. Its folder stays."""
        self.run("scancel", "--user=root")
        deadline = time.monotonic() + 30
        while self.run("squeue", "-h") and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_ports(count: int) -> list[int]:
    """A row of ports that nobody listens on."""
    for first in range(17000, 60000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, each in enumerate(sockets):
                each.bind(("0.0.0.0", first + offset))
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
        return list(range(first, first + count))
    raise SystemExit("no free ports")
