"""A real node agent over pipes, as the dispatcher has it, and scripts that it is asked to run."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from skyq.core import protocol
from skyq.core.paths import RunDir
from tests.cluster import dead
from tests.program import ROOT
from tests.waiting import PATIENCE, wait_until

Message = dict[str, Any]
JOB = os.urandom(16).hex()
"""Jobs are known by their ids all over the machine, to the tests of another worker too."""
CLAIM = {"cluster": "local", "id": "ours", "head": "here", "state_dir": "/"}


class Node:
    """One machine's run directories and claim, and the agents that come and go there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = root / "run"
        self.claims = root / "claims"
        self.home = root / "home"
        for folder in (self.claims, self.home):
            folder.mkdir(parents=True)
        self.agents: list[Agent] = []
        self.files = 0
        self.prefix: tuple[str, ...] = ()
        """In front of the command that starts an agent."""

    def agent(self, claimed: bool = True) -> Agent:
        """A new agent, ready to be asked for steps."""
        found = Agent(self)
        self.agents.append(found)
        if claimed:
            found.say({"do": "claim", **CLAIM})
            found.hear("claimed")
        return found

    def run(self, step: str = "run-0", job: str = JOB, attempt: int = 1) -> RunDir:
        """The run directory of a step."""
        return RunDir.of(str(self.runs), job, attempt, step)

    def log(self, step: str = "run-0", job: str = JOB, attempt: int = 1) -> str:
        """What a step wrote."""
        path = Path(self.run(step, job, attempt).out)
        return path.read_text() if path.exists() else ""

    def file(self) -> Path:
        """A name that scripts can write to."""
        self.files += 1
        return self.root / ("file%d" % self.files)

    def processes(self) -> list[psutil.Process]:
        """Every living process that has to do with this node: by environment, command line or files."""
        mark, found = str(self.root), []
        for process in psutil.process_iter():
            try:
                told = [*process.environ().values(), *process.cmdline(), process.cwd()]
                if process.pid != os.getpid() and not dead(process) and any(mark in text for text in told):
                    found.append(process)
            except (psutil.Error, FileNotFoundError):
                continue
        return found

    def close(self) -> None:
        """Nothing of it outlives the test."""
        for agent in self.agents:
            agent.kill()
        while found := self.processes():
            for process in found:
                with gone_is_fine():
                    process.kill()


class Agent:
    """The head's end of a conversation with one node agent process."""

    def __init__(self, node: Node) -> None:
        env = {"PATH": os.environ["PATH"], "HOME": str(node.home), "SKYQ_CLAIM_DIR": str(node.claims)}
        self.process = subprocess.Popen(
            [*node.prefix, sys.executable, "-m", "skyq", "_node", str(node.runs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**env, "PYTHONPATH": str(ROOT)},
            bufsize=0,
        )
        assert self.process.stdin and self.process.stdout
        self.into, self.out = self.process.stdin, self.process.stdout
        self.decoder = protocol.Decoder()
        self.heard: list[Message] = []
        self.into.write(protocol.greeting())
        self.boot = self.hear("hello")["boot"]

    def say(self, *messages: Message) -> None:
        """In one write, so that they are read together."""
        self.into.write(b"".join(map(protocol.encode, messages)))

    def start(self, script: str, step: str = "run-0", job: str = JOB, attempt: int = 1, **spec: Any) -> None:
        """Ask for a step."""
        self.say(start(script, step, job, attempt, **spec))

    def stop(self, step: str = "run-0", job: str = JOB, attempt: int = 1) -> None:
        """Ask for the end of a step."""
        self.say({"do": "stop", "job": job, "attempt": attempt, "step": step})

    def over(self, job: str = JOB, attempt: int = 1) -> None:
        """Say that the job has ended."""
        self.say({"do": "over", "job": job, "attempt": attempt})

    def hear(self, *kinds: str, step: str = "", within: float = PATIENCE) -> Message:
        """The next message of one of these kinds (and about that step); what comes before it is dropped, but
        for the same of other steps.
        """
        deadline = time.monotonic() + within
        dropped, others = [], []
        while True:
            while self.heard:
                message = self.heard.pop(0)
                if message["is"] in kinds and step in ("", message.get("step")):
                    self.heard = others + self.heard
                    return message
                (others if message["is"] in kinds else dropped).append(message)
            left = deadline - time.monotonic()
            assert left > 0, "no %s within %g s, only %s" % ("/".join(kinds), within, dropped + others)
            self.listen(left)

    def quiet(self) -> list[Message]:
        """All that was said until the agent answered a ping."""
        self.say({"do": "ping"})
        said: list[Message] = []
        while True:
            self.listen(PATIENCE)
            said += self.heard
            self.heard = []
            if {"is": "pong"} in said:
                return said

    def listen(self, seconds: float) -> None:
        """Read what there is, once there is anything."""
        if not select.select([self.out], [], [], seconds)[0]:
            return
        data = os.read(self.out.fileno(), 65536)
        assert data, "the node agent ended with %s" % self.process.wait()
        self.heard += self.decoder.feed(data)

    def shim(self, step: str = "run-0") -> psutil.Process:
        """The shim of a step that this agent tells about as running."""
        message = self.hear("running", step=step)
        found = psutil.Process(message["pid"]).parent()
        assert found is not None
        return found

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stopped, as on a machine that swaps."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.end()

    def leave(self) -> int:
        """Hang up, and see it leave; returns its exit code."""
        self.into.close()
        code = self.process.wait(PATIENCE)
        self.out.close()
        return code

    def end(self) -> None:
        """After it was killed."""
        self.process.wait()
        self.into.close()
        self.out.close()


def start(script: str, step: str = "run-0", job: str = JOB, attempt: int = 1, **spec: Any) -> Message:
    """The message that asks for a step; `spec`: what differs from a plain one-rank job."""
    whole = {"script": script, "env": {}, "cwd": "/", "log": "", "grace": 2.0, "linger": False, **spec}
    return {"do": "start", "job": job, "attempt": attempt, "step": step, "spec": whole}


def gone(process: psutil.Process) -> None:
    """Wait for a process to end."""
    wait_until(lambda: dead(process), "process %d ends" % process.pid)


def killed(process: psutil.Process) -> None:
    """kill -9, and see it dead."""
    with gone_is_fine():
        process.kill()
    gone(process)


@contextmanager
def gone_is_fine() -> Iterator[None]:
    """What is signalled may have ended just now."""
    try:
        yield
    except (psutil.NoSuchProcess, ProcessLookupError):
        pass


def written(path: Path, lines: int = 1) -> list[str]:
    """The lines that scripts wrote to a file, once there are so many."""

    def text() -> str:
        found = path.read_text() if path.exists() else ""
        return found if found.count("\n") >= lines and found.endswith("\n") else ""

    return wait_until(text, "%s is written" % path).splitlines()


def living(pids: Callable[[], list[int]] | list[int]) -> list[psutil.Process]:
    """Those of these processes that live."""
    found = []
    for pid in pids() if callable(pids) else pids:
        with gone_is_fine():
            process = psutil.Process(pid)
            if not dead(process):
                found.append(process)
    return found


def is_locked(path: str) -> bool:
    """As the kernel says: who tries the lock disturbs others that do."""
    with open("/proc/locks") as file:
        return os.path.exists(path) and any(":%d " % os.stat(path).st_ino in line for line in file)
