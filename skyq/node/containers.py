"""The containers of a step: the wrappers by which they are made, and how they end with it.

A container is a child of its engine, not of the job: no signal to the job's processes reaches it. wrapper.py
labels each, and notes the engine in the run directory; a step without that note pays nothing here.

No engine is waited for without end: what hangs or fails a few times in a row is given up, and the job's log
says so. Its containers, if there are any, may then outlive the job.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time

from skyq.core.paths import RunDir, Wrappers
from skyq.node.wrapper import LABEL, MARK, is_podman
from skyq.transport.aside import sweep, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Set, Tuple

PROGRAMS = ("docker", "podman")
LIMIT = 10.0  # seconds that one command of an engine may take
FAILURES = 3  # in a row, after which an engine is given up
STUBBORN = 30.0  # seconds that containers may survive their first KILL, before they are given up
AGAIN = 0.25  # seconds between two looks at what lives
LAUNCHER = """\
#!/bin/sh
%s: a job's containers get the job's devices, and end with it.
exec %s -I -S %s %s "$0" "$@"
"""


def install(runs: str) -> str:
    """Have the wrappers beside the run directories, as this version has them; the folder.

    Not in the folder of skyq's code: a job may outlive that, and unpacking keeps no executable files.
    """
    where = Wrappers.beside(runs)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "wrapper.py"), "rb") as file:
        program = file.read()
    words = map(shlex.quote, (sys.executable, where.program, os.path.abspath(runs)))
    launcher = (LAUNCHER % (MARK, *words)).encode()
    wanted = {where.program: program, **{where.launcher(name): launcher for name in PROGRAMS}}
    for path, content in wanted.items():
        if _content(path) == content:
            sweep(path)
        else:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            write_whole(path, content, 0o700)
    return where.root


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def used(run: RunDir) -> bool:
    """Whether the step has made containers."""
    return os.path.exists(run.containers)


def bury(run: RunDir, log: str) -> None:
    """End those of a step whose shim was killed."""
    them = Containers(run, log)
    while not them.tell(signal.SIGKILL):
        time.sleep(AGAIN)
    them.close()


class Containers:
    """Those of one step, on their way to their end."""

    def __init__(self, run: RunDir, log: str) -> None:
        self.run = run
        self.log = log
        self.engines: Dict[str, _Engine] = {}
        self.killing_since: Optional[float] = None

    def tell(self, number: int) -> bool:
        """TERM (once), and from the first KILL on KILL, all that live; True when none does.

        The engines are asked each time: a `docker run` may be under way while the job ends.
        """
        now = time.monotonic()
        if number == signal.SIGKILL and self.killing_since is None:
            self.killing_since = now
        if self.killing_since is not None:
            number = signal.SIGKILL
        if self.killing_since is not None and now > self.killing_since + STUBBORN:
            for engine in self.engines.values():
                engine.give_up("they don't die")
        self._read_notes()
        left = False
        for engine in self.engines.values():
            left |= engine.tell(number)
        return not left

    def close(self) -> None:
        """None lives: forget the notes, and say what could not be seen to."""
        for engine in self.engines.values():
            engine.remove()
        try:
            for name in self.engines:
                os.unlink(os.path.join(self.run.containers, name))
            os.rmdir(self.run.containers)
        except OSError:
            pass  # another was noted a moment ago
        for engine in self.engines.values():
            if engine.trouble:
                self._note(engine)
        self.engines = {}

    def _read_notes(self) -> None:
        label = "%s=%s" % (LABEL, os.path.basename(self.run.root))
        try:
            names = [name for name in os.listdir(self.run.containers) if "." not in name]
        except OSError:
            return
        for name in names:
            if name not in self.engines:
                self.engines[name] = _Engine(_content(os.path.join(self.run.containers, name)), label)

    def _note(self, engine: _Engine) -> None:
        words = (os.path.basename(engine.program), engine.trouble)
        try:
            with open(self.log, "a", encoding="utf-8", errors="replace") as file:
                file.write("skyq: containers of this job may be left: %s: %s\n" % words)
        except OSError:
            pass  # a full disk


class _Engine:
    """One engine that the step used, as the wrapper noted it."""

    def __init__(self, note: bytes, label: str) -> None:
        fields: Dict[str, List[str]] = {"program": [], "option": [], "env": []}
        for line in os.fsdecode(note).split("\0"):
            kind, _, value = line.partition("=")
            fields.setdefault(kind, []).append(value)
        self.program = (fields["program"] or ["docker"])[0]
        self.podman = is_podman(self.program)
        self.options = fields["option"]
        self.env = dict((pair.partition("=")[0], pair.partition("=")[2]) for pair in fields["env"])
        self.label = label
        self.failures = 0
        self.trouble = ""
        """Why it was given up."""
        self.termed: Set[str] = set()

    def give_up(self, why: str) -> None:
        self.trouble = self.trouble or why

    def tell(self, number: int) -> bool:
        """Whether any lived, or it couldn't be told."""
        if self.trouble:
            return False
        living = self._living()
        if living is None:
            return not self.trouble
        targets = [one for one in living if number == signal.SIGKILL or one not in self.termed]
        self.termed.update(targets)
        if targets:
            self._ask(["kill", "--signal", signal.Signals(number).name[3:], *targets])
        return bool(living)

    def remove(self) -> None:
        """What `podman run --rm` removes by a process of its own, which may have been killed at it."""
        if self.podman and not self.trouble:
            found = self._list(["-a"], " {{.AutoRemove}}") or []
            wanted = [one for one, removed in found if removed == "true"]
            if wanted:
                self._ask(["rm", "--force", *wanted])

    def _living(self) -> Optional[List[str]]:
        """Their ids; None where the engine doesn't answer."""
        found = self._list([], " {{.Pid}}" if self.podman else "")
        return None if found is None else [one for one, pid in found if _lives(pid)]

    def _list(self, options: List[str], more: str) -> Optional[List[Tuple[str, str]]]:
        """(id, what else was asked for) of each; None where the engine doesn't answer."""
        words = ["--no-trunc", "--filter", "label=" + self.label, "--format", "{{.ID}}" + more]
        said = self._ask(["ps", *options, *words])
        if said is None:
            return None
        lines = [line.partition(" ") for line in said.splitlines()]
        return [(one, rest.strip()) for one, _, rest in lines if _is_id(one)]

    def _ask(self, words: List[str]) -> Optional[str]:
        """What the engine says; None when it fails, for good after some times."""
        status, said = _output([self.program, *self.options, *words], self.env)
        if status == 0:
            self.failures = 0
            return said
        if words[0] != "ps":
            return None  # it ended meanwhile, or the next look tells
        self.failures += 1
        if self.failures >= FAILURES:
            reasons = said.strip().splitlines()
            self.give_up(reasons[-1][:300] if reasons else "no answer")
        return None


def _is_id(word: str) -> bool:
    """Warnings may stand between the ids."""
    return len(word) >= 12 and all(letter in "0123456789abcdef" for letter in word)


def _lives(pid: str) -> bool:
    """podman goes on calling a container alive whose monitor was killed with it: its process tells."""
    return not pid.isdigit() or pid == "0" or os.path.exists("/proc/" + pid)


def _output(argv: List[str], env: Dict[str, str]) -> Tuple[int, str]:
    """(exit code, what it said) of a command; not 0 when it can't be started, or takes too long."""
    out, into = os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, into, 1),
        (os.POSIX_SPAWN_DUP2, into, 2),
    ]
    plain = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    try:
        pid = os.posix_spawn(
            argv[0], argv, env, file_actions=actions, setpgroup=0, setsigmask=[], setsigdef=plain
        )
    except (OSError, ValueError) as error:
        os.close(out)
        return 127, str(error)
    finally:
        os.close(into)
    try:
        return _collect(pid, out)
    finally:
        os.close(out)


def _collect(pid: int, out: int) -> Tuple[int, str]:
    """Until the process ends, not until its output does: what an engine leaves behind may hold that."""
    os.set_blocking(out, False)
    deadline = time.monotonic() + LIMIT
    said = b""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        said += _read(out)
        if ended:
            return (os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1), said.decode(errors="replace")
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 1, "no answer within %d s" % LIMIT
        time.sleep(0.01)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""
