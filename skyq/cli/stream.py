"""Following a job: its log as it is written, from raw files by offset, until the job has ended."""

from __future__ import annotations

import os
import sys
import time
from typing import BinaryIO

from skyq.cli.parser import muted
from skyq.cli.render import Style
from skyq.core import states
from skyq.core.logtext import Prefixer, Sanitiser, prefix, tail_offset
from skyq.core.model import Job
from skyq.head.head import Head

CHUNK = 1024 * 1024  # bytes
EAGER = 2.0  # seconds after the last news in which the files are looked at often
QUICK, SLOW = 0.01, 0.1  # seconds between two looks
PID_WAIT = 0.5  # seconds that the first text waits for the pid in its prefix, which comes with a commit
CARE = 2.0  # seconds between two looks whether the dispatcher, which may be killed, still works


_STARTED = "Job started. Streaming logs... (Ctrl-C to exit log streaming; job will not be killed)"


class View:
    """The merged log of one job on one output."""

    def __init__(self, head: Head, job: Job, out: BinaryIO, colour: bool, screen: bool) -> None:
        self.head = head
        self.job = job
        self.out = out
        self.colour = colour
        self.screen = screen
        self.bare = False
        """Whether lines come without a prefix."""
        self.prefixer = Prefixer(redraw=screen)
        self.offsets: dict[str, int] = {}
        self.sanitisers: dict[str, Sanitiser] = {}
        self.nameless: dict[str, float] = {}
        """Step → since when its text waits for its pid; monotonic."""

    def pump(self, patient: bool = False) -> bool:
        """Write what is new, at most a chunk of each step; whether there was any."""
        found = False
        for step, path in self.head.step_logs(self.job).items():
            chunk = _read(path, self.offsets.get(step, 0))
            if chunk and not (patient and self._pid_may_come(step)):
                found = True
                self.offsets[step] = self.offsets.get(step, 0) + len(chunk)
                if self.screen:
                    chunk = self.sanitisers.setdefault(step, Sanitiser()).feed(chunk)
                self._write(self.prefixer.feed(self._prefix(step), chunk))
        return found

    def finish(self) -> None:
        """End an open line."""
        for step, sanitiser in self.sanitisers.items():
            self._write(self.prefixer.feed(self._prefix(step), sanitiser.finish()))
        self._write(self.prefixer.finish())

    def skip_to_tail(self, lines: int) -> None:
        """Leave out all but the last lines, the latest step's first."""
        for step, path in reversed(list(self.head.step_logs(self.job).items())):
            try:
                with open(path, "rb", buffering=0) as file:
                    self.offsets[step], shown = _tail(file, lines)
                    lines -= shown
            except FileNotFoundError:
                continue  # it hasn't started

    def _pid_may_come(self, step: str) -> bool:
        if step in self.job.pids or self.job.state in states.FINAL:
            return False
        now = time.monotonic()
        return now - self.nameless.setdefault(step, now) < PID_WAIT

    def _prefix(self, step: str) -> bytes:
        if self.bare:
            return b""
        return prefix(self.job.name, step, self.job.pids.get(step), colour=self.colour)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.out.write(view) :]
        self.out.flush()


def follow(head: Head, job_id: int, tail: int = 0, quiet: bool = False) -> int:
    """Stream until the job has ended; returns its exit code. `quiet`: what it wrote and nothing else."""
    screen = sys.stdout.isatty()
    style = Style.of(screen, os.environ)
    job = head.job(job_id)
    assert job is not None
    sys.stdout.flush()
    out = sys.stdout.buffer
    with muted(quiet):
        job = _wait_for_start(head, job, style)
        view = View(head, job, out, style.colour, screen)
        view.bare = quiet
        if job.grants:
            print(style.last(_STARTED), flush=True)
            if tail > 0:
                view.skip_to_tail(tail)
            job = _stream(head, view)
        print_end(job, style)
    return states.EXIT_CODE[job.state]


def _wait_for_start(head: Head, job: Job, style: Style) -> Job:
    nodes = "%d node%s" % (job.num_nodes, "s" if job.num_nodes > 1 else "")
    print(style.branch("Waiting for task resources on %s." % nodes), flush=True)
    began, said, pause = time.monotonic(), "", QUICK
    cared_at = began
    while job.state in states.WAITING:
        time.sleep(pause)
        job = _again(head, job)
        if job.state in states.WAITING and time.monotonic() - began > 1.0:
            pause = SLOW
            why = head.reasons([job]).get(job.id, "")
            if why != said:
                print(style.dim("│   " + why), flush=True)
                said = why
        if time.monotonic() - cared_at > CARE:
            head.look()
            cared_at = time.monotonic()
    return job


def _stream(head: Head, view: View) -> Job:
    news_at, looked_at, cared_at = time.monotonic(), 0.0, time.monotonic()
    while True:
        final = view.job.state in states.FINAL
        found = view.pump(patient=True)
        now = time.monotonic()
        if now - cared_at > CARE:
            head.look()
            cared_at = now
        if found:
            news_at = now
        elif final:
            view.finish()
            return view.job
        if not final and now - looked_at > QUICK:
            view.job = _again(head, view.job)
            looked_at = now
        if not found and view.job.state not in states.FINAL:
            time.sleep(QUICK if now - news_at < EAGER else SLOW)


def print_end(job: Job, style: Style) -> None:
    """How the job ended, in the reference's lines, with the reason."""
    if job.state == states.FAILED:
        codes = "[%s]" % ", ".join(map(str, job.exit_codes))
        print(style.red("ERROR: Job %d failed with return code list: %s (%s)" % (job.id, codes, job.reason)))
    elif job.state == states.FAILED_SETUP:
        pid = job.pids.get("setup-0")
        code = job.reason.partition("exit code ")[2].split(" ")[0].rstrip(";")
        print(
            style.red(
                "ERROR: Job %d's setup failed. Failed workers: (pid=%s, returncode=%s). "
                "See error logs above for more details." % (job.id, pid or "?", code)
            )
        )
    elif job.state in (states.FAILED_DRIVER, states.CANCELLED):
        print(style.red("Job %d: %s" % (job.id, job.reason)))
    print(style.finished("Job finished (status: %s)." % job.state), flush=True)


def _again(head: Head, job: Job) -> Job:
    found = head.job(job.id)
    assert found is not None
    return found


def _read(path: str, offset: int) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(CHUNK) or b""
    except FileNotFoundError:
        return b""


def _tail(file: BinaryIO, lines: int) -> tuple[int, int]:
    """(offset of the last lines, how many those are)"""
    size = os.fstat(file.fileno()).st_size
    if lines <= 0:
        return size, 0
    start = tail_offset(lambda at, length: os.pread(file.fileno(), length, at), size, lines)
    file.seek(start)
    count, last = 0, b"\n"
    while chunk := file.read(CHUNK):
        count, last = count + chunk.count(b"\n"), chunk[-1:]
    return start, count + (last != b"\n")


def last_lines(path: str, lines: int) -> list[str]:
    """The end of a log, for a person; [] where there is none. Lines are cut at 500 characters."""
    try:
        with open(path, "rb", buffering=0) as file:
            start, _ = _tail(file, lines)
            text = os.pread(file.fileno(), 64 * 1024, start)
    except OSError:
        return []
    return [line[:500] for line in text.decode(errors="replace").splitlines()]
