"""The test language for a real `local` queue: its own home, its own machine claim, the program from outside.

    queue.run("exec", "local", "echo hi")          -> Result(code, out, err)
    queue.submit("--gpus", "H100:1", "sleep 60")   -> job id
    queue.wait(1, "RUNNING")                       -> the job's record; fails early on another final state

Whatever fails shows the queue, dispatcher.log and the logs of the jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.program import ROOT
from tests.waiting import PATIENCE, wait_until

T = TypeVar("T")
Record = dict[str, Any]

FINAL = ("SUCCEEDED", "FAILED", "FAILED_SETUP", "FAILED_DRIVER", "CANCELLED")
GRACE = "2"  # seconds between TERM and KILL at a cancel, instead of 30
LOOK_EVERY = 1.0  # seconds
COMMAND_LIMIT = 120.0  # seconds after which a command hangs
EVIDENCE = 6000  # characters of each log that a failing test shows, the last ones
OWN = ("_dispatcher", "_node")
"""The verbs of skyq's own processes, which leave by themselves when there is no work."""


@dataclass(frozen=True)
class Result:
    """What one command did."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def line(self, pattern: str) -> re.Match[str]:
        """The first line of the output that matches as a whole; AssertionError where none does."""
        found = [match for line in self.lines if (match := re.fullmatch(pattern, line))]
        assert found, "no line like %r in\n%s" % (pattern, self)
        return found[0]

    def json(self) -> Any:
        """Standard output as JSON: nothing else may be on it."""
        return json.loads(self.out)

    def __str__(self) -> str:
        return "$ skyq %s\n%s%s[exit code %d]" % (" ".join(self.argv), self.out, self.err, self.code)


class LocalQueue:
    """A queue of this machine that no other one knows of."""

    def __init__(self, root: Path, program: list[str], app: Path | None = None) -> None:
        self.root = root
        self.program = program
        self.user_home = root / "me"
        self.home = root / "skyq"
        self.claims = root / "claims"
        for folder in (self.user_home, self.home, self.claims):
            folder.mkdir(parents=True)
        self.home.chmod(0o700)
        if app is not None:
            (self.home / "app").symlink_to(app)
        self.env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self.user_home),
            "SKYQ_HOME": str(self.home),
            "SKYQ_CLAIM_DIR": str(self.claims),
            "XDG_CACHE_HOME": str(root / "cache"),
            "SKYQ_GRACE_S": GRACE,
            "SKYQ_CRON": "off",  # never the crontab of whoever runs the tests
            "SKYQ_USER": "me",
        }
        if program[1:] == ["-m", "skyq"]:
            self.env["PYTHONPATH"] = str(ROOT)
        self.started: list[tuple[tuple[str, ...], subprocess.Popen[bytes]]] = []
        self._looked_at = 0.0
        self.declare(H100=4)

    def declare(self, cpus: float = 8, memory: float = 16, **devices: int) -> None:
        """What pools.yaml says that this machine has."""
        host = {"ip": "localhost", "accelerators": devices, "cpus": cpus, "memory": memory}
        (self.home / "pools.yaml").write_text(json.dumps({"local": {"hosts": [host]}}))  # JSON is YAML

    def bashrc(self, text: str) -> None:
        """The user's ~/.bashrc."""
        (self.user_home / ".bashrc").write_text(text)

    def file(self, name: str, text: str) -> Path:
        """A file in the folder that commands are typed in."""
        path = self.user_home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    # Commands.

    def run(
        self,
        *words: str,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = COMMAND_LIMIT,
    ) -> Result:
        """One command to its end. Without `input` its standard input is empty."""
        process = self.start(*words, stdin=subprocess.PIPE, env=env)
        try:
            out, err = process.communicate((input or "").encode(), timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            result = _result(words, process.returncode, out, err)
            raise AssertionError("not within %g s:\n%s\n%s" % (timeout, result, self.evidence())) from None
        return _result(words, process.returncode, out, err)

    def start(
        self, *words: str, stdin: int = subprocess.DEVNULL, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """One command, not waited for; in a session of its own, so that a signal reaches it alone."""
        process = subprocess.Popen(
            [*self.program, *words],
            env={**self.env, **(env or {})},
            cwd=self.user_home,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.started.append((words, process))
        return process

    def ok(self, *words: str, input: str | None = None, env: Mapping[str, str] | None = None) -> Result:
        """A command that must succeed."""
        result = self.run(*words, input=input, env=env)
        assert result.code == 0, "%s\n%s" % (result, self.evidence())
        return result

    def submit(self, *words: str, env: Mapping[str, str] | None = None) -> int:
        """`exec local -d` of these words; the job's id."""
        return self.job_id(self.ok("exec", "local", "-d", *words, env=env))

    @staticmethod
    def job_id(result: Result) -> int:
        """The id that a submit printed."""
        said = [line for line in result.lines if "Job submitted, ID: " in line]
        assert len(said) == 1, str(result)
        return int(said[0].rpartition(": ")[2])

    # Scripts.

    @staticmethod
    def until_open(gate: str = "gate") -> str:
        """A shell line that lasts until open_gate(): jobs end when the test says so, not after a time."""
        return "until [ -e ~/%s ]; do sleep 0.05; done" % gate

    def open_gate(self, gate: str = "gate") -> None:
        """Let the jobs that run until_open() go on."""
        (self.user_home / gate).touch()

    # What is the case.

    def jobs(self) -> dict[int, Record]:
        """Every job's record, by id."""
        found = self.ok("queue", "local", "-u", "-o", "json").json()
        return {record["job_id"]: record for record in found["local"]}

    def job(self, job_id: int) -> Record:
        """One job's record."""
        return self.jobs()[job_id]

    def states(self) -> dict[int, str]:
        """Every job's state, by id."""
        return {job_id: record["status"] for job_id, record in self.jobs().items()}

    def wait(self, job_id: int, *wanted: str, within: float = PATIENCE) -> Record:
        """The job's record once it is in one of these states (none: any final one)."""
        return self.wait_all([job_id], *wanted, within=within)[job_id]

    def wait_all(self, ids: Iterable[int], *wanted: str, within: float = PATIENCE) -> dict[int, Record]:
        """The records once all these jobs are in one of these states; fails early on another final one."""
        ids, wanted = list(ids), wanted or FINAL

        def there() -> dict[int, Record]:
            if not self._worth_a_look(ids, wanted):
                return {}
            jobs = self.jobs()
            for job_id in ids:
                state = jobs[job_id]["status"]
                assert state in wanted or state not in FINAL, "job %d is %s, not %s\n%s" % (
                    *(job_id, state, " or ".join(wanted)),
                    self.evidence(job_id),
                )
            return jobs if all(jobs[job_id]["status"] in wanted for job_id in ids) else {}

        what = "jobs %s become %s" % (", ".join(map(str, ids)), " or ".join(wanted))
        return self.until(there, what, within)

    def _worth_a_look(self, ids: list[int], wanted: Iterable[str]) -> bool:
        """Whether all are there, or one never will be, as the database says: each `queue` is a process.

        Now and then in any case, since a command also wakes who was killed.
        """
        if time.monotonic() > self._looked_at + LOOK_EVERY:
            self._looked_at = time.monotonic()
            return True
        place = (self.state_dir / "queue.db").as_uri() + "?mode=ro"
        try:
            with contextlib.closing(sqlite3.connect(place, uri=True)) as database:
                found = dict(database.execute("SELECT id, state FROM jobs"))
        except sqlite3.Error:
            return True
        states = [found.get(job_id, "") for job_id in ids]
        lost = any(state in FINAL and state not in wanted for state in states)
        return lost or "" in states or all(state in wanted for state in states)

    def until(self, condition: Callable[[], T], what: str, within: float = PATIENCE) -> T:
        """wait_until(), with this queue's evidence."""
        return wait_until(condition, what, within, self.evidence)

    def until_file(self, path: str | Path) -> str:
        """The text of a file that a job writes, once there is a whole line in it. Relative to HOME."""
        found = self.user_home / path

        def text() -> str:
            try:
                written = found.read_text()
            except FileNotFoundError:
                return ""
            return written if written.endswith("\n") else ""

        return self.until(text, "%s is written" % path)

    def log_folder(self, job_id: int) -> Path:
        """Where LOG in the queue says that the job's logs are."""
        return Path(self.job(job_id)["log_path"])

    def raw_log(self, job_id: int, name: str = "run.log") -> bytes:
        """What the job wrote, byte for byte; nothing where it hasn't started."""
        path = self.log_folder(job_id) / "tasks" / name
        return path.read_bytes() if path.exists() else b""

    def log(self, job_id: int, name: str = "run.log") -> str:
        """What the job wrote."""
        return self.raw_log(job_id, name).decode()

    @property
    def state_dir(self) -> Path:
        """The cluster's folder."""
        return self.home / "clusters" / "local"

    # Processes.

    def processes(self) -> list[psutil.Process]:
        """Every living process that this queue has to do with, skyq's own and those of jobs."""
        return [process for process in psutil.process_iter() if self._mine(process)]

    def job_processes(self) -> list[psutil.Process]:
        """Those of jobs, shims too."""
        return [process for process in self.processes() if not _own(process)]

    def own_processes(self) -> list[psutil.Process]:
        """The dispatcher and the node agent."""
        return [process for process in self.processes() if _own(process)]

    def dispatcher(self) -> psutil.Process:
        """The dispatcher, once there is one."""
        return self._own_one("_dispatcher")

    def node_agent(self) -> psutil.Process:
        """The node agent, once there is one. Its shims, forked from it, have its command line."""
        return self._own_one("_node")

    def _own_one(self, verb: str) -> psutil.Process:
        def one() -> psutil.Process | None:
            found = [process for process in self.own_processes() if verb in words_of(process)]
            return found[0] if len(found) == 1 else None

        found = self.until(one, "one %s process" % verb)
        assert found is not None
        return found

    def _mine(self, process: psutil.Process) -> bool:
        """By its environment, its folder, its command line or its open files: a job may hide from some."""
        if process.pid == os.getpid():
            return False
        mark = str(self.root)
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return (
                any(mark in value for value in process.environ().values())
                or process.cwd().startswith(mark)
                or any(mark in word for word in process.cmdline())
                or any(file.path.startswith(mark) for file in process.open_files())
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            return False

    # Evidence and end.

    def evidence(self, *ids: int) -> str:
        """What a failing test needs: the queue, commands nobody heard, dispatcher's words, the jobs' logs."""
        parts = [str(self.run("queue", "local", "-u")) if self.state_dir.exists() else "no queue yet"]
        unheard = [(words, each) for words, each in self.started if each.stdout and not each.stdout.closed]
        for words, each in unheard:
            if each.poll() is not None:
                parts.append(str(_result(words, each.returncode, *each.communicate())))
        files = [self.state_dir / "dispatcher.log"]
        for folder in sorted(self.state_dir.glob("logs/*")):
            if not ids or folder.name.partition("-")[0] in map(str, ids):
                files += sorted(folder.glob("tasks/*"))
        for path in files[:12]:
            text = path.read_text(errors="replace")[-EVIDENCE:] if path.exists() else "missing"
            parts.append("--- %s\n%s" % (path, text))
        parts.append("--- processes\n" + "\n".join(map(_told, self.processes())))
        return "\n".join(parts)

    def close(self) -> None:
        """Cancel what is left and see its processes gone; AssertionError if one survives."""
        if not self.processes():
            return
        try:
            self.run("cancel", "local", "-u", "-y")
            self.until(lambda: not self.job_processes(), "nothing of a job outlives its cancel")
        finally:
            # Without work the dispatcher would leave by itself after a second: not waited for here.
            for process in self.processes():
                kill(process)


def _result(words: tuple[str, ...], code: int, out: bytes, err: bytes) -> Result:
    """What isn't UTF-8 (a job's log may be anything) is shown as \\xff."""
    return Result(words, code, out.decode(errors="backslashreplace"), err.decode(errors="backslashreplace"))


def _own(process: psutil.Process) -> bool:
    """Whether it is the dispatcher or the node agent, not a shim: shims lead sessions of their own."""
    try:
        words = process.cmdline()
        if "_dispatcher" in words or not words:  # a process that is just dying has no words left
            return True
        # A shim leads a session. What it forks has its command line and is in that session, for a moment.
        return "_node" in words and not _is_shim(os.getsid(process.pid))
    except (psutil.NoSuchProcess, ProcessLookupError):
        return True  # gone: nobody's process


def _is_shim(leader: int) -> bool:
    try:
        return "_node" in words_of(psutil.Process(leader))
    except psutil.NoSuchProcess:
        return False


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; none once it has ended, which it may between its being listed and asked."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def kill(process: psutil.Process) -> None:
    """SIGKILL, and see it dead."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return
    wait_until(lambda: dead(process), "process %d dies" % process.pid)


def dead(process: psutil.Process) -> bool:
    """Whether it has ended; a zombie has, whenever the machine's init collects it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _told(process: psutil.Process) -> str:
    try:
        return "%d %s" % (process.pid, " ".join(process.cmdline())[:200])
    except psutil.NoSuchProcess:
        return "%d, gone" % process.pid
