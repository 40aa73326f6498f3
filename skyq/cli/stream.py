"""Following a job: its log as it is written, from raw files by offset, until the job has ended."""

from __future__ import annotations

import os
import re
import sys
import time

from skyq.cli import place
from skyq.cli.merged import Merged, tail_of
from skyq.cli.parser import muted
from skyq.cli.render import Style
from skyq.core import states
from skyq.core.logtext import Prefixer, Sanitiser, prefix
from skyq.core.model import Job, Node
from skyq.core.paths import host_word, run_index
from skyq.head import specs
from skyq.head.head import Head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Callable, Mapping, Sequence

EAGER = 2.0  # seconds after the last news in which the files are looked at often
QUICK, SLOW = 0.01, 0.1  # seconds between two looks
PID_WAIT = 2.0  # seconds that the first text waits for the pid in its prefix, which comes with a commit
CARE = 2.0  # seconds between two looks whether the dispatcher, which may be killed, still works
OWED = 10.0  # seconds without a byte of what a worker still owes of an ended job's log, until one leaves


_STARTED = "Job started. Streaming logs... (Ctrl-C to exit log streaming; job will not be killed)"


class View:
    """Several logs as one on one output."""

    def __init__(
        self, logs: Merged, prefix: Callable[[str], bytes], out: BinaryIO, screen: bool, unfinished: str = ""
    ) -> None:
        """`prefix`: of a step. `screen`: harmless, for a terminal. `unfinished`: whose line is open there."""
        self.logs = logs
        self.prefix = prefix
        self._out = out
        self._screen = screen
        self._prefixer = Prefixer(redraw=screen, unfinished=prefix(unfinished) if unfinished else None)
        self._sanitisers: dict[str, Sanitiser] = {}

    def pump(self, ready: Callable[[str], bool] = lambda step: True) -> bool:
        """Write what is new, a chunk at most; whether there was any."""
        found = [(step, text) for step, text in self.logs.read(ready) if text]
        out = []
        for step, text in found:
            if self._screen:
                text = self._sanitisers.setdefault(step, Sanitiser()).feed(text)
            out.append(self._prefixer.feed(self.prefix(step), text))
        self._write(b"".join(out))
        return bool(found)

    def finish(self) -> None:
        """End an open line."""
        rests = [(step, sanitiser.finish()) for step, sanitiser in self._sanitisers.items()]
        out = [self._prefixer.feed(self.prefix(step), rest) for step, rest in rests]
        self._write(b"".join([*out, self._prefixer.finish()]))

    def shown(self) -> dict[str, int]:
        """Step → how much of its log another View need not show again."""
        found = {}
        for step, offset in self.logs.offsets.items():
            held = self._prefixer.held_back(self.prefix(step))
            if step in self._sanitisers:
                held += self._sanitisers[step].held_back
            found[step] = offset - held
        return found

    def unfinished(self) -> str:
        """The step whose line is open; "" if none is."""
        mark = self._prefixer.unfinished
        steps = [step for step in self.logs.logs if mark is not None and self.prefix(step) == mark]
        return steps[0] if steps else ""

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._out.write(view) :]
        self._out.flush()


class Labels:
    """What stands before the lines of a job's steps."""

    def __init__(self, job: Job, nodes: Mapping[str, Node], colour: bool, bare: bool = False) -> None:
        self._job = job
        self._nodes = nodes
        self._colour = colour
        self._bare = bare
        self._made: dict[str, bytes] = {}

    def __call__(self, step: str) -> bytes:
        """The prefix of one step."""
        if step not in self._made:
            self._made[step] = b"" if self._bare else self._make(step)
        return self._made[step]

    def _make(self, step: str) -> bytes:
        host, ip = "", ""
        node = self._nodes.get(specs.node_of(self._job, step, dict(self._nodes)))
        if node is not None and len(self._nodes) > 1:
            host, ip = host_word(node.index), node.ip
        return prefix(self._job.name, step, self._job.pids.get(step), host, ip, self._colour)


class JobView:
    """The log of one job as it grows."""

    def __init__(self, head: Head, job: Job, out: BinaryIO, style: Style, bare: bool = False) -> None:
        """`bare`: lines come without a prefix."""
        screen = sys.stdout.isatty() and out is sys.stdout.buffer
        self.head = head
        self.place = place.current()
        self._colour, self._bare = style.colour, bare
        self._nodes = {node.name: node for node in head.all_nodes()}
        self._nameless: dict[str, float] = {}
        """Step → since when its text waits for its pid; monotonic."""
        self.logs = Merged(head.step_logs(job), run_index(head.attempt_folder(job)))
        self.logs.offsets = dict(self.place.offsets)
        self._job = job
        self._view = View(self.logs, self._labels(job), out, screen, self.place.open)

    @property
    def job(self) -> Job:
        """The job as it was when it was last looked at."""
        return self._job

    def see(self, job: Job) -> None:
        """The job may have changed."""
        if job.rev != self._job.rev:
            self._job = job
            self.logs.logs = self.head.step_logs(job)
            self._view.prefix = self._labels(job)

    def pump(self, patient: bool = False) -> bool:
        """Write what is new, a chunk at most; whether there was any."""
        found = self._view.pump(self._has_pid) if patient else self._view.pump()
        if found:
            self._keep()
        return found

    def finish(self) -> None:
        """End an open line."""
        self._view.finish()
        self._keep()

    def skip_to_tail(self, lines: int) -> None:
        """Leave out all but the last lines."""
        self.logs.skip_to_tail(lines)
        self.place.offsets = dict(self.logs.offsets)

    def all(self) -> None:
        """Write all there is."""
        while self.pump():
            pass
        self.finish()

    def _keep(self) -> None:
        if self.place.tell is not None:
            self.place.offsets, self.place.open = self._view.shown(), self._view.unfinished()
            self.place.keep()

    def _labels(self, job: Job) -> Labels:
        return Labels(job, self._nodes, self._colour, self._bare)

    def _has_pid(self, step: str) -> bool:
        """Whether what it wrote may be shown; the pid of its prefix is awaited for a moment."""
        if step in self._job.pids or self._job.state in states.FINAL:
            return True
        if not self._is_there(step):
            return False  # also to what is written from now on: it would come without the pid
        now = time.monotonic()
        return now - self._nameless.setdefault(step, now) >= PID_WAIT

    def _is_there(self, step: str) -> bool:
        """Whether it has written anything."""
        try:
            return os.stat(self.logs.logs[step]).st_size > 0
        except OSError:
            return False


def follow(head: Head, job_id: int, tail: int = 0, quiet: bool = False) -> int:
    """Stream until the job has ended; returns its exit code. `quiet`: what it wrote and nothing else."""
    style = Style.of(sys.stdout.isatty(), os.environ)
    at = place.current()
    job = head.job(job_id)
    assert job is not None
    at.attempt = at.attempt or job.number
    sys.stdout.flush()
    out = sys.stdout.buffer
    with muted(quiet):
        while True:
            its = _follow_attempt(head, job, tail, out, bare=quiet)
            job = head.job(job_id) or its
            if job.number == its.number:
                break
            print(style.yellow(_next_attempt(its, job)))
            at.next_attempt()
            at.keep()
        if at.reach(place.ENDED):
            print_end(job, head.all_nodes(), style)
            at.keep()
    return states.EXIT_CODE[job.state]


def _follow_attempt(head: Head, job: Job, tail: int, out: BinaryIO, bare: bool) -> Job:
    """The job as the attempt ended that is being shown."""
    at, style = place.current(), Style.of(sys.stdout.isatty(), os.environ)
    its = _wait_for_start(head, head.attempt(job, at.attempt), style)
    if not its.grants:
        return its
    view = JobView(head, its, out, style, bare)
    if at.reach(place.STARTED):
        print(style.last(_STARTED))
        if tail > 0:
            view.skip_to_tail(tail)
        at.keep()
    return _stream(head, view)


def _next_attempt(ended: Job, job: Job) -> str:
    """What follows an attempt that was not the last one."""
    text = "Attempt %d ended: %s. Attempt %d follows." % (ended.number, ended.reason, ended.number + 1)
    if job.failures > ended.failures:
        text += " That is retry %d of %d." % (ended.failures + 1, job.recovery.retries)
    return text


def _wait_for_start(head: Head, job: Job, style: Style) -> Job:
    at = place.current()
    if at.reach(place.WAITING):
        nodes = "%d node%s" % (job.num_nodes, "s" if job.num_nodes > 1 else "")
        print(style.branch("Waiting for task resources on %s." % nodes))
        at.keep()
    began, pause = time.monotonic(), QUICK
    cared_at = began
    while job.state in states.WAITING:
        time.sleep(pause)
        job = _again(head, job, at.attempt)
        if job.state in states.WAITING and time.monotonic() - began > 1.0:
            pause = SLOW
            why = head.reasons([job]).get(job.id, "")
            if why != at.said:
                print(style.dim("│   " + why))
                at.said = why
                at.keep()
        if time.monotonic() - cared_at > CARE:
            head.look()
            cared_at = time.monotonic()
    return job


def _stream(head: Head, view: JobView) -> Job:
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
        elif final and not _more_to_come(head, view.job, now - news_at):
            view.finish()
            return view.job
        if not final and now - looked_at > QUICK:
            view.see(_again(head, view.job, view.job.number))
            looked_at = now
            if view.job.state in states.FINAL:
                news_at = now
                continue
        if not found:
            time.sleep(QUICK if now - news_at < EAGER else SLOW)


def _more_to_come(head: Head, job: Job, silent: float) -> bool:
    """Whether the end of its log is on its way from a worker. One that is lost isn't waited for."""
    if not head.logs_owed(job):
        return False
    if silent < OWED:
        return True
    text = "The end of the log of job %d is still on its node. Later: skyq logs %s %d"
    print(text % (job.id, head.cluster, job.id), file=sys.stderr)
    return False


# How it ended.


def print_end(job: Job, nodes: Sequence[Node], style: Style) -> None:
    """How the job ended, in the reference's lines, with the reason."""
    if job.state == states.FAILED:
        codes = "[%s]" % ", ".join(map(str, job.exit_codes))
        text = "ERROR: Job %d failed with return code list: %s (%s)" % (job.id, codes, _failure(job))
        print(style.red(text))
    elif job.state == states.FAILED_SETUP:
        text = "ERROR: Job %d's setup failed. Failed workers: (%s). See error logs above for more details."
        print(style.red(text % (job.id, _failed_setup(job, nodes))))
    elif job.state in (states.FAILED_DRIVER, states.CANCELLED):
        print(style.red("Job %d: %s" % (job.id, job.reason)))
    print(style.finished("Job finished (status: %s)." % job.state))


def _failure(job: Job) -> str:
    """The reason; of several ranks which one is to blame, on which node, and what became of the others."""
    rank = blamed_rank(job)
    if rank is None or rank >= len(job.exit_codes):
        return job.reason
    text = "A Worker failed with return code %d" % job.exit_codes[rank]
    others = sorted({code for other, code in enumerate(job.exit_codes) if other != rank and code})
    if others:
        codes = " or ".join(map(str, others))
        text += ", skyq cleaned up the processes on other nodes with return code " + codes
    node = "".join(" on " + grant.node for grant in job.grants if grant.rank == rank)
    return "%s; %s" % (text, job.reason.replace("rank %d" % rank, "rank %d%s" % (rank, node), 1))


def blamed_step(job: Job, nodes: Sequence[Node]) -> str:
    """The step that a failed job failed by."""
    if job.state == states.FAILED_SETUP:
        return _blamed_setup(job, nodes)
    return "run-%d" % (blamed_rank(job) or 0)


def blamed_rank(job: Job) -> int | None:
    """The rank that the reason names, of a job of several."""
    found = re.match(r"rank (\d+)\b", job.reason)
    return int(found[1]) if found else None


def _failed_setup(job: Job, nodes: Sequence[Node]) -> str:
    """The reference's words for who failed: pid, on other nodes ip, return code."""
    code = re.search(r"exit code (\d+)", job.reason)
    step = _blamed_setup(job, nodes)
    facts = ["pid=%s" % job.pids.get(step, "?")]
    node = next((node for node in nodes if step == "setup-%d" % node.index), None)
    if node is not None and node.index:
        facts.append("ip=" + node.ip)
    return ", ".join([*facts, "returncode=%s" % code[1] if code else job.reason.partition(": ")[2]])


def _blamed_setup(job: Job, nodes: Sequence[Node]) -> str:
    words = {"setup failed on " + host_word(node.index): node.index for node in nodes}
    return "setup-%d" % words.get(job.reason.partition(":")[0], 0)


def _again(head: Head, job: Job, number: int) -> Job:
    """The job as its attempt of that number has it now."""
    found = head.job(job.id)
    assert found is not None
    return head.attempt(found, number)


def last_lines(path: str, lines: int) -> list[str]:
    """The end of a log, for a person; [] where there is none. Lines are cut at 500 characters."""
    try:
        with open(path, "rb", buffering=0) as file:
            start, _ = tail_of(file, lines, 0, os.fstat(file.fileno()).st_size)
            text = os.pread(file.fileno(), 64 * 1024, start)
    except OSError:
        return []
    return [line[:500] for line in text.decode(errors="replace").splitlines()]
