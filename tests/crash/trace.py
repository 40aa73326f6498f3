"""One use of the tracer: at which point what breaks, and what became of it."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.tracer import likeness
from tests.waiting import wait_until

TRACER = Path(__file__).resolve().parent / "tracer.py"
KINDS = ("kill", "enospc", "full", "eio")


def why_not() -> str:
    """Why processes can't be traced here; empty: they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "system calls are broken on Linux on x86-64 only"
    log = os.devnull
    words = [sys.executable, "-I", "-S", str(TRACER), "--log", log, "--", "true"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    return "ptrace isn't allowed: " + tried.stderr.strip()[-200:] if tried.returncode else ""


class Point(NamedTuple):
    """One system call of an operation."""

    role: str
    n: int
    """The n-th of that role's, from 1."""
    call: str
    what: str
    nth: int = 0
    """The n-th of that role's that is like it, from 1: that of another run is found by it."""

    def __str__(self) -> str:
        return "%s %d %s %s" % self[:4]


class Trace:
    """Of one command and what comes of it; `point` None: all are told, none breaks."""

    def __init__(self, folder: Path, point: Point | None, kind: str = "kill", wait: bool = False) -> None:
        self.log = folder / "points"
        self.out = folder / "out"
        self.err = folder / "err"
        self.point, self.kind, self.wait = point, kind, wait
        self.log.touch()
        self._process: subprocess.Popen[bytes] | None = None

    def _prefix(self) -> list[str]:
        words = [sys.executable, "-I", "-S", str(TRACER), "--log", str(self.log)]
        if self.point is not None:
            like = likeness(self.point.call, self.point.what)
            words += [
                "--role",
                self.point.role,
                "--at",
                str(self.point.nth),
                "--like",
                like,
                "--kind",
                self.kind,
            ]
        return words + ["--wait"] * self.wait

    def start(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """Run it; its streams go to files."""
        self._begin([*self._prefix(), "--", *argv], env, cwd)

    def attach(self, pid: int) -> None:
        """Trace what comes of a process that runs."""
        self._begin([*self._prefix(), "--attach", str(pid)], None, None)
        self._until(lambda: "ready" in self.log.read_text(), "the tracer is there")

    def _begin(self, words: list[str], env: Mapping[str, str] | None, cwd: Path | None) -> None:
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self._process = subprocess.Popen(
                words,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def until_ended(self) -> int:
        """The exit code of the command, once it has ended; negative: the signal that ended it."""
        self._until(lambda: self._told("ended") is not None or self._gone(), "the command ends")
        code = self._told("ended")
        assert code is not None, self.err.read_text()
        return int(code)

    def until_over(self) -> None:
        """Until the point was met, or nothing lives any more that could meet it."""
        self._until(lambda: self.hit or self._gone(), "the point is met, or all has ended")

    def count(self) -> None:
        """Where it `wait`s: the calls from now on are the operation's."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    def stop(self) -> None:
        """Let all go on unseen."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()

    @property
    def hit(self) -> Point | None:
        """Where it broke."""
        found = self._told("hit")
        return None if found is None else Point(**found)

    def points(self) -> list[Point]:
        """All that there were."""
        alike: Counter[tuple[str, str]] = Counter()
        found = []
        for point in [Point(**line) for line in self._lines() if "role" in line]:
            key = (point.role, likeness(point.call, point.what))
            alike[key] += 1
            found.append(point._replace(nth=alike[key]))
        return found

    def said(self) -> str:
        """What the command said."""
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def _lines(self) -> list[dict[str, Any]]:
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def _told(self, key: str) -> Any:
        return next((line[key] for line in self._lines() if key in line), None)

    def _gone(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _until(self, condition: Any, what: str) -> None:
        wait_until(condition, what, evidence=lambda: self.log.read_text()[-2000:] + self.said())
