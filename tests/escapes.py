"""Each way to get away from a job, at each end that a job can have, on each rung of containment: who is left?

`python3 -m tests.escapes` prints the table that ARCHITECTURE.md shows. The witness is outside skyq: whatever
escapes holds a kernel lock as long as it lives; what closes all its files is known by pid and start.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from skyq.node import proc
from skyq.transport import cgroup
from tests.node.agent import Agent, Node
from tests.waiting import wait_until

STAY = """\
import ctypes, fcntl, os, signal, sys, threading, time
path, words = sys.argv[1], sys.argv[2:]
if "own reaper" in words:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    if os.fork():
        while not os.path.getsize(path):
            time.sleep(0.01)
        time.sleep(0.05)
        os._exit(0)
if "fork twice" in words:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
if "ignore TERM" in words:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
lock = open(path, "a")
os.set_inheritable(lock.fileno(), True)  # free when the last one who has it is dead
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    pass  # whom it comes from holds it with us
start = open("/proc/self/stat").read().rpartition(")")[2].split()[19]
print(os.getpid(), start, file=lock, flush=True)
if "rename" in words:
    os.execv("/bin/sleep", ["[kworker/0:0]", "600"])
if "close files" in words:
    os.chdir("/")
    os.closerange(0, 1024)
if "stop" in words:
    os.kill(os.getpid(), signal.SIGSTOP)
if "end first thread" in words:
    threading.Thread(target=lambda: ctypes.CDLL(None).pause()).start()
    ctypes.CDLL(None).pthread_exit(None)
until = time.monotonic() + 60  # not for ever, if skyq lets it go
while "fork on" in words and time.monotonic() < until:
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.002)
while "exec on" in words and time.monotonic() < until:
    time.sleep(0.005)
    line = ["sh", "-c", 'exec env -i setsid "$@" &', "sh", sys.executable, "-I", "-S", __file__, path, *words]
    os.posix_spawn("/bin/sh", line, {})
    os._exit(0)
while True:
    time.sleep(600)
"""
NOWHERE = "</dev/null >/dev/null 2>&1"
HIDDEN = "(cd / && env -i setsid {stay} 'fork twice' 'ignore TERM' 'close files' %s " + NOWHERE + ")"
ESCAPES = {
    "in the background": "{stay} &",
    "nohup": "nohup {stay} >/dev/null 2>&1 &",
    "a session of its own": "setsid {stay} &",
    "two forks, a session": "{stay} 'fork twice' " + NOWHERE,
    "the same, no environment, no file": "(cd / && env -i {stay} 'fork twice' 'close files' %s)" % NOWHERE,
    "ignores TERM, HUP and INT": "{stay} 'ignore TERM' &",
    "stopped": "{stay} stop &",
    "under another name": "{stay} rename &",
    "forks on and on": "{stay} 'fork on' 'ignore TERM' &",
    "spawns and execs on and on": "{stay} 'exec on' 'ignore TERM' " + NOWHERE + " &",
    "its first thread has ended": "{stay} 'end first thread' &",
    "a reaper of its own, which ends": "env -i {stay} 'own reaper' 'fork twice' " + NOWHERE + " &",
    "a pid namespace of its own": "env -i unshare --user --map-root-user --pid --fork {stay} "
    + NOWHERE
    + " &",
    "a user namespace of its own": "env -i unshare --user setsid {stay} " + NOWHERE + " &",
    "all of it, stopped": HIDDEN % "stop",
    "all of it, forks on and on": HIDDEN.replace(" 'close files'", "") % "'fork on'",
}
ENDS = ("script ends", "cancelled", "shim killed", "shim and node agent killed")
RUNGS = ("cgroup v2", "marks")
HIDE_CGROUPS = ("unshare", "--mount", "sh", "-c", 'umount -a -t cgroup2 && exec "$@"', "sh")
"""In front of a command: on a machine without cgroup v2 it would run just so."""


@functools.cache
def why_not(rung: str) -> str:
    """Why that rung can't be tried here; "": it can."""
    if rung == RUNGS[0]:
        return cgroup.why_not(cgroup.base())
    tried = subprocess.run(
        [*HIDE_CGROUPS, "grep", "cgroup2", "/proc/mounts"], capture_output=True, check=False
    )
    return "" if tried.returncode == 1 and not tried.stderr else "cgroup v2 can't be hidden here"


def survivors(folder: Path, rung: str, end: str) -> set[str]:
    """The escapes that live when the node says that nothing of their step does. They are killed then."""
    node = Node(folder)
    node.prefix = () if rung == RUNGS[0] else HIDE_CGROUPS
    trial = _Trial(node)
    try:
        return trial.left(end)
    finally:
        trial.kill_rest()
        node.close()


class _Trial:
    """One step for each escape, all at once."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.program = node.root / "stay.py"
        self.program.write_text(STAY)
        self.gate = node.root / "gate"
        self.steps = {"run-%d" % number: name for number, name in enumerate(ESCAPES)}

    def left(self, end: str) -> set[str]:
        agent = self.node.agent()
        self.ask(agent)
        for step in self.steps:
            wait_until(lambda step=step: self.node.log(step).endswith("ready\n"), self.steps[step] + " lives")
        grouped = {bool(self.record(step)["group"]) for step in self.steps}
        assert grouped == {not self.node.prefix}, "not the rung that was to be tried"
        assert self.living() == set(ESCAPES)
        agent = self.bring_about(end, agent)
        found = set()
        for step in self.gone(agent):
            found |= {self.steps[step]} & self.living()
        assert not _groups(self.node), "groups are left"
        return found

    def ask(self, agent: Agent) -> None:
        """For all steps."""
        for step, name in self.steps.items():
            agent.start(self.script(step, name), step=step, grace=0.5)

    def script(self, step: str, name: str) -> str:
        words = map(shlex.quote, (sys.executable, "-I", "-S", str(self.program), str(self.witness(step))))
        line = ESCAPES[name].replace("{stay}", " ".join(words))
        ready = "until [ -s '%s' ]; do sleep 0.02; done; echo ready" % self.witness(step)
        return "\n".join([line, ready, "until [ -e '%s' ]; do sleep 0.05; done" % self.gate])

    def witness(self, step: str) -> Path:
        return self.node.root / step

    def record(self, step: str) -> dict[str, object]:
        return dict(json.loads(Path(self.node.run(step).started).read_text()))

    def bring_about(self, end: str, agent: Agent) -> Agent:
        """Returns the agent that is to tell how the steps ended."""
        if end == ENDS[0]:
            self.gate.touch()
        if end == ENDS[1]:
            for step in self.steps:
                agent.stop(step)
        if end == ENDS[3]:
            agent.kill()
        if end in ENDS[2:]:
            for step in self.steps:
                os.kill(self.record(step)["shim"][0], signal.SIGKILL)  # type: ignore[index]
        if end == ENDS[3]:
            agent = self.node.agent()
            self.ask(agent)
        return agent

    def gone(self, agent: Agent) -> list[str]:
        """The steps, as the agent says of one after the other that nothing of it lives."""
        return [str(agent.hear("gone")["step"]) for _ in self.steps]

    def living(self) -> set[str]:
        return {name for step, name in self.steps.items() if _lives(self.witness(step))}

    def kill_rest(self) -> None:
        for step in self.steps:
            for pid, start in _recorded(self.witness(step)):
                found = proc.stat(pid)  # the one whose first thread has ended looks like a zombie
                if found is not None and found.start == start:
                    os.kill(pid, signal.SIGKILL)


def _groups(node: Node) -> list[str]:
    names = os.listdir(cgroup.base()) if not node.prefix else []
    return [name for name in names if os.path.exists(os.path.join(node.runs, name[len(cgroup.PREFIX) :]))]


def _lives(witness: Path) -> bool:
    if not witness.exists():
        return False
    with open(witness) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return any(_start(pid) == start for pid, start in _recorded(witness))


def _recorded(witness: Path) -> list[tuple[int, int]]:
    lines = witness.read_text().splitlines() if witness.exists() else []
    return [(int(pid), int(start)) for pid, start in map(str.split, lines)]


def _start(pid: int) -> int:
    """Of a living process; 0 where there is none."""
    try:
        fields = Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def table(found: Callable[[str, str], set[str]]) -> str:
    """In Markdown. `found`: survivors of (rung, end)."""
    left = {(rung, end): found(rung, end) for rung in RUNGS for end in ENDS}
    lines = ["| escape | %s |" % " | ".join(ENDS), "|---|" + "---|" * len(ENDS)]
    for name in ESCAPES:
        cells = [_cell([rung for rung in RUNGS if name not in left[rung, end]]) for end in ENDS]
        lines.append("| %s | %s |" % (name, " | ".join(cells)))
    return "\n".join(lines)


def _cell(caught: list[str]) -> str:
    return {len(RUNGS): "both", 0: "neither"}.get(len(caught), " ".join(caught))


def main() -> None:
    """Try all, here and now."""
    with tempfile.TemporaryDirectory() as folder:
        lacking = {rung: why for rung in RUNGS if (why := why_not(rung))}
        if lacking:
            raise SystemExit("NOT TRIED: %s" % lacking)
        print(table(lambda rung, end: survivors(Path(folder, rung, end), rung, end)))


if __name__ == "__main__":
    main()
