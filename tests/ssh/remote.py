"""The test language for clusters over SSH: a lab's machines, and somebody who types on a client of it.

    cluster = Remote(lab)
    cluster.run("queue", "lab")                  -> Result(code, out, err)
    cluster.submit(*ON["node1"], "sleep 600")    -> job id; it runs on node1, which is a worker
    cluster.wait(1, "RUNNING")                   -> the job's record; fails early on another final state

The first node is the head. Whatever fails shows the queue, the dispatcher's log and those of all sshd.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import psutil

from tests.cluster import COMMAND_LIMIT, FINAL, GRACE, LocalQueue, Record, Result
from tests.lab import Host, Lab, Program, Terminal
from tests.waiting import wait_until

T = TypeVar("T")

PATIENCE = 90.0  # seconds; a lab is several machines on a busy one
PAUSE = 0.5  # seconds between two looks in the end: each is a process
SILENCE = 20.0  # seconds without a word from a node, after which its connection is dead
LAUNCHER = "/home/ada/.skyq/bin/skyq"
EVIDENCE = 6000  # characters of each log that a failing test shows
KINDS = {"node0": "V100", "node1": "A100", "node2": "L4", "node3": "T4"}
"""Devices that a pool can declare, of another kind on each node, so that a job can ask for one node."""
OWN = 4
ON = {node: ("--gpus", "%s:1" % kind) for node, kind in KINDS.items()}
_numbers = itertools.count(1)


class Gate:
    """What jobs wait for, on whichever node, so that they end when the test says so and not after a time."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.file = "gate%d" % next(_numbers)
        self.wait = "echo up >>~/%s.up; until [ -e ~/%s ]; do sleep 0.1; done" % (self.file, self.file)
        """A shell line."""

    def waiting(self, node: str) -> int:
        """How many have come to it there."""
        path = self._lab.host(node).home / (self.file + ".up")
        return path.read_text().count("\n") if path.exists() else 0

    def open(self) -> None:
        """Let them go on."""
        for node in self._lab.nodes:
            node.write("/home/ada/" + self.file, "")


class Tale:
    """A job's log whose gaps, twins and end can be seen, and that it started once; its exit code is 7."""

    CODE = 7

    def __init__(self, gate: Gate) -> None:
        self._own = "tale%d" % next(_numbers)
        self.script = (
            "echo started >>~/%s; until [ -e ~/%s ]; do i=$((i + 1)); printf '%%d %%0999d\\n' $i $i; "
            "sleep 0.05; done; echo end $i; exit %d" % (self._own, gate.file, self.CODE)
        )

    def starts(self, host: Host) -> int:
        """How often it was started there."""
        path = host.home / self._own
        return path.read_text().count("started\n") if path.exists() else 0

    @staticmethod
    def whole(text: bytes) -> bool:
        """Whether this is all of it, from its first line to its last one."""
        last = re.search(rb"(?:^|\n)end (\d+)\n\Z", text)
        if last is None:
            return False
        lines = [b"%d %0999d\n" % (number, number) for number in range(1, int(last[1]) + 1)]
        return text == b"".join(lines) + b"end " + last[1] + b"\n"


class Remote:
    """The cluster of one pool, as one of the lab's clients sees it. It is made by the first `exec`."""

    def __init__(self, lab: Lab, client: str = "client", name: str = "lab") -> None:
        self.lab = lab
        self.client = lab.host(client)
        self.name = name
        self.program = ["skyq"]
        """What run() starts on clients."""

    @property
    def head(self) -> Host:
        return self.lab.node(0)

    def pool(self, own_kinds: bool = False, nodes: Iterable[str] = ()) -> Remote:
        """Declares these hosts (none: all of the lab) as the pool, with CPUs enough for many jobs.

        `own_kinds`: each node with 8 H100 and OWN devices of a kind of its own, instead of what it finds.
        """
        hosts = []
        for node in list(nodes) or [host.name for host in self.lab.nodes]:
            more = {"accelerators": {"H100": 8, KINDS[node]: OWN}} if own_kinds else {}
            hosts.append({"ip": node, "cpus": 64, **more})
        self.file(".skyq/pools.yaml", json.dumps({self.name: {"hosts": hosts}}))  # JSON is YAML
        return self

    def file(self, name: str, text: str) -> str:
        """A file in the folder that commands are typed in."""
        self.client.write("/home/ada/" + name, text, 0o600)
        return name

    # Commands.

    def run(
        self,
        *words: str,
        at: Host | None = None,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float = COMMAND_LIMIT,
    ) -> Result:
        """One command to its end, on the client, or on another host."""
        host = at or self.client
        program = self.program if host in self.lab.clients else [LAUNCHER]
        given = {"SKYQ_GRACE_S": GRACE, **(env or {})}
        try:
            done = host.run([*program, *words], env=given, input=input, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            text = "skyq %s: not within %g s\n%s\n%s" % (" ".join(words), timeout, error.output, error.stderr)
            raise AssertionError("%s\n%s" % (text, self.evidence())) from None
        return Result(words, done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str, at: Host | None = None, env: Mapping[str, str] | None = None) -> Result:
        """A command that must succeed."""
        result = self.run(*words, at=at, env=env)
        assert result.code == 0, "%s\n%s" % (result, self.evidence())
        return result

    def start(self, *words: str) -> Program:
        """One command on the client, not waited for; its output is bytes."""
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.client.start(["skyq", *words], env={"SKYQ_GRACE_S": GRACE}, text=False, **streams)

    def terminal(self, *words: str) -> Terminal:
        """One command at a terminal."""
        return self.client.terminal(["skyq", *words])

    def submit(self, *words: str, at: Host | None = None) -> int:
        """`exec -d` of these words; the job's id."""
        return LocalQueue.job_id(self.ok("exec", self.name, "-d", *words, at=at))

    def gate(self) -> Gate:
        """A closed one."""
        return Gate(self.lab)

    # What is the case.

    def jobs(self, at: Host | None = None) -> dict[int, Record]:
        """Every job's record, by id."""
        found = self.ok("queue", self.name, "-u", "-o", "json", at=at).json()
        return {record["job_id"]: record for record in found[self.name]}

    def job(self, job_id: int) -> Record:
        """One job's record."""
        return self.jobs()[job_id]

    def nodes(self, at: Host | None = None) -> dict[str, Record]:
        """What `status` says of each node."""
        found = self.ok("status", self.name, "-o", "json", at=at).json()
        return {record["node"]: record for record in found[self.name]}

    def wait(self, job_id: int, *wanted: str, within: float = PATIENCE) -> Record:
        """The job's record once it is in one of these states (none: any final one)."""
        return self.wait_all([job_id], *wanted, within=within)[job_id]

    def wait_all(self, ids: Iterable[int], *wanted: str, within: float = PATIENCE) -> dict[int, Record]:
        """The records once all these jobs are in one of these states; fails early on another final one.

        Asked on the head itself, where a look is cheap; `queue` there is the same as on the client.
        """
        ids, wanted = list(ids), wanted or FINAL

        def there() -> dict[int, Record]:
            jobs = self.jobs(at=self.head)
            for job_id in ids:
                state = jobs[job_id]["status"]
                assert state in wanted or state not in FINAL, "job %d is %s, not %s: %s\n%s" % (
                    *(job_id, state, " or ".join(wanted), jobs[job_id]["reason"]),
                    self.evidence(),
                )
            return jobs if all(jobs[job_id]["status"] in wanted for job_id in ids) else {}

        what = "jobs %s become %s" % (", ".join(map(str, ids)), " or ".join(wanted))
        return self.until(there, what, within)

    def until(self, condition: Callable[[], T], what: str, within: float = PATIENCE) -> T:
        """wait_until(), with this cluster's evidence."""
        return wait_until(condition, what, within, self.evidence, PAUSE)

    def until_waiting(self, gate: Gate, *nodes: str, count: int = 1) -> None:
        """Waits until so many jobs run on each of these nodes and are at the gate.

        A job is RUNNING before its script is: who cuts the power in between finds that it waits again.
        """
        for node in nodes:
            self.until(lambda node=node: gate.waiting(node) >= count, "%d wait on %s" % (count, node))

    def raw(self, job: Record, rank: int) -> bytes:
        """What the head has of the log of a rank."""
        number = int(job["nodes"][rank]["node"][len("node") :])
        name = "%d-%s.log" % (rank, "worker%d" % number if number else "head")
        path = self.head.path(job["log_path"]) / "tasks" / name
        return path.read_bytes() if path.exists() else b""

    def until_raw(self, job: Record, rank: int, text: bytes) -> None:
        """Waits until the head has exactly this: the rest of a log may come after the end of the job."""
        what = "the log of rank %d of job %d is whole" % (rank, job["job_id"])
        try:
            self.until(lambda: self.raw(job, rank) == text, what)
        except AssertionError as error:
            found = self.raw(job, rank)
            pairs = enumerate(zip(found, text))
            same = next((at for at, (a, b) in pairs if a != b), min(len(found), len(text)))
            told = "%d of %d bytes, the first %d right, then %r instead of %r" % (
                *(len(found), len(text), same),
                *(found[same : same + 80], text[same : same + 80]),
            )
            raise AssertionError("%s\n%s" % (told, error)) from None

    def until_told(self, job: Record, tale: Tale) -> None:
        """Waits until the head has a whole tale, and sees that it was told once."""
        self.until(lambda: tale.whole(self.raw(job, 0)), "the log of job %d is whole" % job["job_id"])
        starts = {node.name: tale.starts(node) for node in self.lab.nodes}
        assert starts == {**dict.fromkeys(starts, 0), job["nodes"][0]["node"]: 1}, self.evidence()

    def until_unreachable(self, node: str) -> None:
        """Waits until the head knows that it can't reach a node."""

        def seen() -> bool:
            return "unreachable since" in str(self.nodes(at=self.head)[node]["reason"])

        self.until(seen, "%s is unreachable" % node)

    def set(self, key: str, value: str) -> None:
        """A setting of the cluster, for the next dispatcher."""
        path = self.head.home / ".skyq" / "clusters" / self.name / "queue.db"
        database = sqlite3.connect(path, timeout=30)
        with database:
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        database.close()

    def kill_dispatcher(self) -> None:
        """kill -9; the next command, or cron, starts another one."""
        for process, words in commands(self.head):
            if "_dispatcher" in words:
                process.kill()

    def hang_up(self, node: str) -> None:
        """All connections to a node's sshd break, and no new one is refused."""
        for process, words in commands(self.lab.host(node)):
            if words.startswith("sshd: ada"):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def alive(self, node: str) -> list[str]:
        """The command lines of the processes of jobs there: all of ada's but sshd's, skyq's own, and the
        nvidia-smi that it asks.
        """
        found = [words for _, words in commands(self.lab.host(node), of_root=False)]
        others = "skyq", "nvidia-smi", " query="
        return [w for w in found if not (w.startswith("sshd") or any(other in w for other in others))]

    # Evidence.

    def evidence(self) -> str:
        """What a failing test needs."""
        parts = []
        if self.head.on and self.head.path("/home/ada/.skyq/bin/skyq").exists():
            for verb in ("queue", "status"):
                words = [self.name, "-u"] if verb == "queue" else [self.name]
                done = self.head.run([LAUNCHER, verb, *words], timeout=30)
                parts.append(done.stdout + done.stderr)
        parts.append(self.lab.evidence())
        return "\n".join(parts)

    def settle(self) -> None:
        """After a test: nothing of its jobs is left, and all nodes can be used. AssertionError if not."""
        unfinished = [i for i, job in self.jobs(at=self.head).items() if job["status"] not in FINAL]
        if unfinished:
            self.ok("cancel", self.name, "-y", *map(str, unfinished), at=self.head)
            self.wait_all(unfinished)
        self.until(lambda: all(node["usable"] for node in self.nodes(self.head).values()), "all can be used")
        self.until(
            lambda: not any(self.alive(node.name) for node in self.lab.nodes), "nothing of a job lives"
        )


def commands(host: Host, of_root: bool = True) -> list[tuple[psutil.Process, str]]:
    """The processes there that live, with their command lines."""
    found = []
    for process in host.processes():
        try:
            words = " ".join(process.cmdline())
            if words and (of_root or process.uids().real != 0):
                found.append((process, words))
        except psutil.NoSuchProcess:
            continue  # it has just ended
    return found
