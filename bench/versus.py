"""skyq beside what its users would pick instead, on the same work in the same run, one after the other:
`.venv/bin/python bench versus [skyq slurm slurm-tuned tsp hq] [-r ROW...]`. As root; bench/install_rivals.sh
first.

Every job is a line of bash. What was done when is told by the jobs, in files; no contender is asked about it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from contenders import ALL, Contender, Lacks
from queue_under_test import ROOT, stat

JOBS = 1000
PATIENCE = 12.0
"""Seconds that a drain may take; of what takes longer, the jobs that are done by then are counted."""
WINDOW = 3.0
"""Seconds over which CPU time is measured."""


class Bench:
    """One contender with a folder for what its jobs tell."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.folder = Path(tempfile.mkdtemp(prefix="versus-"))
        self.cells: dict[str, float | str] = {}
        self.listed = 0
        """How many jobs are in the queue now for it to be listed."""
        self._files = 0

    def file(self) -> Path:
        """A new name."""
        self._files += 1
        return self.folder / str(self._files)

    def seconds(self, argv: list[str]) -> float:
        """How long a command takes."""
        began = time.perf_counter()
        self.contender.run(argv)
        return time.perf_counter() - began

    def until(self, seen: Callable[[], bool], patience: float = PATIENCE, pause: float = 0.002) -> bool:
        """Wait until something is seen; whether it was."""
        deadline = time.monotonic() + patience
        while not seen():
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
        return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _has(path: Path, words: int) -> bool:
    return path.exists() and path.read_text().endswith("\n") and len(path.read_text().split()) == words


def _gone(pids: list[str]) -> bool:
    return not any(map(_lives, pids))


# --- rows -------------------------------------------------------------------------------------------------


def submit(bench: Bench) -> float:
    """Milliseconds of the command that queues one job."""
    bench.contender.shut()
    argv = bench.contender.submit("true")
    bench.contender.run(argv)
    taken = [bench.seconds(argv) for _ in range(15)]
    bench.contender.release()
    return statistics.median(taken) * 1e3


def _first_line(bench: Bench, attached: bool, rest: float, runs: int = 5) -> float:
    taken = []
    for _ in range(runs):
        path = bench.file()
        # Its own start is told by the shell that becomes the command.
        line = "echo $EPOCHREALTIME" + ("" if attached else " >> %s" % path)
        argv = (bench.contender.attached if attached else bench.contender.submit)(line)
        began = time.time()
        said = bench.contender.run(argv)
        if not attached and not bench.until(partial(_has, path, 1)):
            raise Lacks("not in %d s" % PATIENCE)
        taken.append((time.time() if attached else float(path.read_text())) - began)
        assert not attached or float(said.split()[-1]) > began
        time.sleep(rest)
    return statistics.median(taken) * 1e3


def first_line_idle(bench: Bench) -> float:
    """Milliseconds from a submit to the job's first line, where nothing ran for 2 s."""
    time.sleep(2)
    return _first_line(bench, False, 2.0)


def first_line_busy(bench: Bench) -> float:
    """The same while another job runs."""
    gate = bench.file()
    bench.contender.run(bench.contender.submit("until [ -e %s ]; do sleep 0.1; done" % gate))
    time.sleep(0.5)
    try:
        return _first_line(bench, False, 0.3)
    finally:
        gate.touch()
        time.sleep(0.3)


def terminal(bench: Bench) -> float:
    """Milliseconds of a whole command that shows one line of its job."""
    return _first_line(bench, True, 0.3)


def _rate(bench: Bench, count: int, go: Callable[[str], object]) -> float:
    """Jobs a second from `go` to the end of the last one that was done in time."""
    path = bench.file()
    began = time.time()
    go("printf . >> %s" % path)
    if bench.until(lambda: _size(path) >= count, PATIENCE - (time.time() - began), 0.02):
        return count / (path.stat().st_mtime - began)
    return _size(path) / (time.time() - began)


def loop(bench: Bench) -> float:
    """100 jobs, submitted one by one; jobs/s."""
    return _rate(bench, 100, lambda line: bench.contender.run(bench.contender.many(line, 100)))


def drain(bench: Bench) -> float:
    """1,000 separate jobs that wait; jobs/s."""
    path, jobs = bench.file(), min(JOBS, bench.contender.most)
    bench.contender.shut()
    bench.contender.fill("printf . >> %s" % path, jobs)
    time.sleep(1)
    assert not _size(path)
    began = time.time()
    bench.contender.release()
    done = bench.until(lambda: _size(path) >= jobs, PATIENCE, 0.02)
    ended = path.stat().st_mtime if done else time.time()
    return _size(path) / (ended - began)


def array(bench: Bench) -> float:
    """1,000 jobs by one command; jobs/s."""

    def go(line: str) -> None:
        try:
            bench.contender.run(bench.contender.array(line, JOBS))
        except SystemExit as error:
            raise Lacks(str(error).strip().splitlines()[-1]) from None

    return _rate(bench, JOBS, go)


def handover(bench: Bench, jobs: int = 60) -> float:
    """Median milliseconds from a job's end to the next one's first line, on one slot."""
    path = bench.file()
    bench.contender.shut()
    tell = "echo $EPOCHREALTIME >> %s" % path
    bench.contender.fill("%s\n%s" % (tell, tell), jobs)
    bench.contender.release()
    bench.until(lambda: path.exists() and len(path.read_text().splitlines()) == 2 * jobs, PATIENCE, 0.05)
    times = list(map(float, path.read_text().splitlines()))
    gaps = [start - end for end, start in zip(times[1::2], times[2::2], strict=False)]
    return statistics.median(gaps) * 1e3


def listing(bench: Bench, jobs: int) -> float:
    """Milliseconds of the command that lists so many jobs. They wait."""
    argv = bench.contender.listing()
    if jobs > 1.1 * bench.contender.most:
        raise Lacks("holds %d" % bench.contender.most)
    jobs = min(jobs, bench.contender.most)
    if not bench.listed:
        bench.contender.shut()
    bench.contender.fill("true", jobs - bench.listed)
    bench.listed = jobs
    taken = [bench.seconds(argv) for _ in range(7)]
    assert len(bench.contender.run(argv).splitlines()) >= jobs, "not all are listed"
    return statistics.median(taken) * 1e3


def cancel(bench: Bench) -> float:
    """Milliseconds from the command's start to the end of the job's three processes."""
    taken = []
    bench.contender.cancel("1")  # whether there is a way
    for _ in range(5):
        path = bench.file()
        line = "sleep 600 & sleep 601 & echo $$ $(jobs -p) > %s; wait" % path
        job = bench.contender.run(bench.contender.submit(line))
        argv = bench.contender.cancel(job)
        assert bench.until(partial(_has, path, 3))
        pids = path.read_text().split()
        time.sleep(0.3)
        began = time.perf_counter()
        command = subprocess.Popen(
            argv, env=bench.contender.environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        gone = bench.until(partial(_gone, pids), 10)
        taken.append(time.perf_counter() - began)
        command.wait()
        if not gone:
            raise Lacks("not in 10 s")
    return statistics.median(taken) * 1e3


def _lives(pid: str) -> bool:
    try:
        return stat(int(pid))[0] not in "ZX"
    except OSError:
        return False


def escapes(bench: Bench) -> float:
    """How many of the ways to get away from a job (tests/escapes.py) outlive its cancel by 8 s."""
    from tests import escapes as known

    bench.contender.cancel("1")  # whether there is a way
    (program := bench.folder / "stay.py").write_text(known.STAY)
    witnesses = {name: bench.folder / ("escape%d" % at) for at, name in enumerate(known.ESCAPES)}
    lines = []
    for name, witness in witnesses.items():
        stay = shlex.join(map(str, (sys.executable, "-I", "-S", program, witness)))
        lines.append(known.ESCAPES[name].replace("{stay}", stay))
    job = bench.contender.run(bench.contender.submit("\n".join([*lines, "sleep 600"])))
    argv = bench.contender.cancel(job)
    assert bench.until(lambda: all(map(_size, witnesses.values()))), "not all have started"
    time.sleep(0.5)
    bench.contender.run(argv)
    lives = known._lives
    bench.until(lambda: not any(map(lives, witnesses.values())), 8, 0.1)
    left = [name for name, witness in witnesses.items() if lives(witness)]
    _kill_rest(str(bench.folder))
    for witness in witnesses.values():
        for pid, start in known._recorded(witness):
            if known._start(pid) == start:
                os.kill(pid, 9)
    return len(left)


def _kill_rest(word: str) -> None:
    """Those that fork on have other pids than they told, but the same words."""
    for _ in range(5):
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), 9)
            except OSError:
                continue


def gang(bench: Bench) -> float:
    """Milliseconds from a command to the first line of the last of two ranks."""
    return bench.contender.gang() * 1e3


def memory(bench: Bench) -> float:
    """MB (PSS) of all its processes."""
    return sum(_pss(pid) for pid in bench.contender.processes()) / 1024


def cpu(bench: Bench) -> float:
    """Percent of one core."""
    before = {pid: _ticks(pid) for pid in bench.contender.processes()}
    time.sleep(WINDOW)
    used = sum(_ticks(pid) - ticks for pid, ticks in before.items())
    return 100 * used / os.sysconf("SC_CLK_TCK") / WINDOW


def _pss(pid: int) -> float:
    try:
        lines = Path("/proc/%d/smaps_rollup" % pid).read_text().splitlines()
    except OSError:
        return 0.0
    return next(float(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _ticks(pid: int) -> int:
    try:
        fields = stat(pid)
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def run_100(bench: Bench) -> None:
    """100 jobs that sleep."""
    path = bench.file()
    bench.contender.shut()
    bench.contender.fill("printf . >> %s; exec sleep 600" % path, 100)
    bench.contender.release()
    if not bench.until(lambda: _size(path) >= 100, 40, 0.1):
        raise SystemExit("only %d of 100 jobs run" % _size(path))
    time.sleep(3)


class Row(NamedTuple):
    """One line of the table."""

    key: str
    title: str
    unit: str
    measure: Callable[[Bench], float]
    more_is_better: bool = False


STAGES: list[tuple[int, list[Row]]] = [
    (
        8,
        [
            Row("submit", "submit: the command", "ms", submit),
            Row("idle", "submit → the job's first line, nothing ran before", "ms", first_line_idle),
            Row("busy", "the same, others run", "ms", first_line_busy),
            Row("terminal", "a job of one line, shown on the terminal", "ms", terminal),
            Row("cancel", "cancel → its processes gone", "ms", cancel),
            Row("escapes", "ways out of 16 that outlive a cancel", "", escapes),
        ],
    ),
    (8, [Row("loop", "100 jobs, submitted in a loop", "jobs/s", loop, True)]),
    (8, [Row("array", "1,000 jobs by one command", "jobs/s", array, True)]),
    (8, [Row("drain", "1,000 separate jobs that wait", "jobs/s", drain, True)]),
    (1, [Row("handover", "a job's end → the next one's first line", "ms", handover)]),
    (
        1,
        [
            Row("list-10", "list 10 jobs", "ms", lambda bench: listing(bench, 10)),
            Row("list-1000", "list 1,000", "ms", lambda bench: listing(bench, 1_000)),
            Row("list-10000", "list 10,000", "ms", lambda bench: listing(bench, 10_000)),
        ],
    ),
    (0, [Row("gang", "2-node gang: command → the last rank's first line", "ms", gang)]),
    (
        100,
        [
            Row("rest-memory", "at rest: memory (PSS)", "MB", memory),
            Row("rest-cpu", "at rest: CPU", "% of a core", cpu),
        ],
    ),
    (
        100,
        [
            Row("full-memory", "100 jobs run: memory (PSS)", "MB", memory),
            Row("full-cpu", "100 jobs run: CPU", "% of a core", cpu),
        ],
    ),
]


def measure(bench: Bench, wanted: set[str]) -> None:
    """All rows of one contender."""
    for slots, rows in STAGES:
        rows = [row for row in rows if not wanted or row.key in wanted]
        if not rows:
            continue
        if slots:
            bench.contender.open(slots)
            bench.listed = 0
        try:
            if rows[0].key.startswith("rest-"):
                time.sleep(4)
            if rows[0].key.startswith("full-"):
                run_100(bench)
            for row in rows:
                bench.cells[row.key] = _measured(bench, row)
        except SystemExit as error:
            bench.cells.update((row.key, "failed: %s" % error) for row in rows)
        finally:
            if slots:
                bench.contender.close()


def _measured(bench: Bench, row: Row) -> float | str:
    began = time.monotonic()
    try:
        found: float | str = row.measure(bench)
    except Lacks as lack:
        found = str(lack)
    except (AssertionError, SystemExit) as error:
        found = "failed: %s" % (str(error).strip().splitlines() or [""])[-1][:80]
    took = time.monotonic() - began
    print("%s, %s: %s (%.1f s)" % (bench.contender.name, row.key, found, took), file=sys.stderr, flush=True)
    return found


# --- the table --------------------------------------------------------------------------------------------


def _cell(row: Row, found: float | str | None, ours: float | str | None) -> str:
    if found is None:
        return ""
    if isinstance(found, str):
        return found
    text = ("%.0f" if found >= 10 or not row.unit or found == int(found) else "%.1f") % found
    if found is ours or not isinstance(ours, float) or not row.unit or not found or not ours:
        return text
    ratio = ours / found if row.more_is_better else found / ours
    return "%s (%s)" % (text, ("%.0fx" if ratio >= 10 else "%.1fx" if ratio >= 0.1 else "%.2fx") % ratio)


def table(benches: list[Bench], wanted: set[str]) -> str:
    """In Markdown. In brackets: how many times better skyq is."""
    ours = next((bench.cells for bench in benches if bench.contender.name == "skyq"), {})
    lines = ["| | %s |" % " | ".join(bench.contender.name for bench in benches)]
    lines.append("|---|" + "---|" * len(benches))
    for _, rows in STAGES:
        for row in rows:
            if wanted and row.key not in wanted:
                continue
            cells = [_cell(row, bench.cells.get(row.key), ours.get(row.key)) for bench in benches]
            title = row.title + (", " + row.unit if row.unit else "")
            lines.append("| %s | %s |" % (title, " | ".join(cells)))
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """Measure who is named, or all, in the rows after -r, or in all."""
    sys.path.insert(0, str(ROOT))
    at = words.index("-r") if "-r" in words else len(words)
    names, wanted = words[:at] or list(ALL), set(words[at + 1 :])
    began = time.monotonic()
    benches = [Bench(ALL[name]()) for name in names]
    try:
        for bench in benches:
            measure(bench, wanted)
            _kill_rest(str(bench.folder))
    finally:
        for bench in benches:
            _kill_rest(str(bench.folder))
            for folder in (bench.folder, *bench.contender.left):
                shutil.rmtree(folder, ignore_errors=True)
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3
    print("%d CPUs, %.0f GB, %.0f s\n" % (os.cpu_count() or 0, memory_gb, time.monotonic() - began))
    print(table(benches, wanted))
