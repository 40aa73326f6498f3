"""`python3 bench [ROW...]`: what skyq costs, as ratios measured in this run. Build skyq.pyz first.

Over SSH, as root: `.venv/bin/python bench ssh [commands|lines|many|sync]`. Beside Slurm, task-spooler and
HyperQueue: `.venv/bin/python bench versus`. The plan alone, which needs no skyq.pyz: `python3 bench plan`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from queue_under_test import PROGRAM, Queue, stat  # noqa: E402

TASK = "name: bench\nresources: {accelerators: H100:1}\nrun: 'true'\n"


def _seconds(argv: list[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def commands(runs: int = 25) -> None:
    """Whole commands against `python -c pass` of the same interpreter, interleaved, medians."""
    queue = Queue(devices=4)
    task = queue.folder / "task.yaml"
    task.write_text(TASK)
    queue.skyq("exec", "local", "-d", "--gpus", "H100:4", "--", "sleep 3600")
    queue.skyq("exec", "local", "--", "echo done")
    rows: dict[str, tuple[list[str], str]] = {
        "--help": (["--help"], "4x"),
        "queue": (["queue", "local"], "6x"),
        "logs --no-follow": (["logs", "local", "2", "--no-follow"], "6x"),
        "exec -d COMMAND": (["exec", "local", "--gpus", "H100:1", "-d", "--", "true"], "6x"),
        "cancel (waiting job)": (["cancel", "local", "", "-y"], "6x"),
        "exec -d YAML": (["exec", "local", str(task), "-d"], "14x"),
    }
    base: list[float] = []
    taken: dict[str, list[float]] = {name: [] for name in rows}
    victim = 3
    for _ in range(runs):
        base.append(_seconds([sys.executable, "-c", "pass"], queue.environ))
        for name, (words, _) in rows.items():
            taken[name].append(_seconds([*PROGRAM, *[word or str(victim) for word in words]], queue.environ))
        victim += 2
    unit = statistics.median(base)
    print("| command | ms | ratio | aim |\n|---|---|---|---|")
    print("| `python -c pass` | %.1f | 1 | |" % (unit * 1e3))
    for name, (_, aim) in rows.items():
        median = statistics.median(taken[name])
        print("| `%s` | %.1f | %.1fx | %s |" % (name, median * 1e3, median / unit, aim))
    queue.close()


def handover(jobs: int = 200) -> None:
    """A job's end → the next job's first line, on one device."""
    queue = Queue(devices=1)
    queue.fill(jobs, 'echo "$EPOCHREALTIME"\necho "$EPOCHREALTIME"', amount=10_000)
    queue.skyq("queue", "local")
    queue.drain()
    times = [[float(line) for line in text.split()] for text in queue.logs()]
    gaps = sorted((after[0] - before[1]) * 1e3 for before, after in zip(times, times[1:], strict=False))
    p99 = gaps[int(len(gaps) * 0.99) - 1]
    print(
        "job end to next first line, %d jobs: median %.1f ms (aim 10), p99 %.1f ms (aim 40), max %.1f ms"
        % (jobs, statistics.median(gaps), p99, gaps[-1])
    )
    queue.close()


def drain(jobs: int = 1000) -> None:
    """No-op jobs that wait already, 8 at a time; beside it the bare cost of their processes."""
    queue = Queue(devices=8)
    queue.fill(jobs, "true", cpus=1000)
    queue.skyq("queue", "local", "-s")
    seconds = queue.drain()
    script = queue.folder / "script"
    script.write_text("true\n")
    began = time.perf_counter()
    running: list[subprocess.Popen[bytes]] = []
    for _ in range(jobs):
        if len(running) == 8:
            running.pop(0).wait()
        running.append(subprocess.Popen(["setsid", "bash", str(script)]))
    for process in running:
        process.wait()
    bare = time.perf_counter() - began
    print(
        "%d no-op jobs, 8 at a time: %.0f jobs/s (aim 150); `setsid bash` of the same without a queue: %.0f/s"
        % (jobs, jobs / seconds, jobs / bare)
    )
    shares = ", ".join("%s %.1f" % share for share in queue.cpu.items())
    print("of its ms of CPU time a no-op job takes: %s" % shares)
    queue.close()


def scale(waiting: int = 10_000) -> None:
    """With 10,000 jobs that wait: a tick, and `queue`."""
    from skyq.head import tick
    from skyq.head.board import Board
    from skyq.head.pulls import Pulls
    from skyq.store.store import Store

    queue = Queue(devices=4)
    queue.skyq("exec", "local", "-d", "--gpus", "H100:4", "--", "sleep 3600")
    for amount in (10_000, 20_000, 40_000, 5_000):
        queue.fill(waiting // 4, "true", amount=amount)
    store = Store.open(str(queue.state / "queue.db"))
    board, nodes, pulls = Board(), store.nodes(), Pulls()
    began = time.perf_counter()
    tick.tick(store, board, nodes, set(), pulls)
    first = time.perf_counter() - began
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        acts = tick.tick(store, board, nodes, set(), pulls)
        taken.append(time.perf_counter() - began)
        assert all(job == 1 for job, _ in acts.start), "a device was given twice"
    store.close()
    shown = [_seconds([*PROGRAM, "queue", "local", "-u"], queue.environ) for _ in range(7)]
    print(
        "%d waiting: first tick %.0f ms, then %.0f ms (aim 100); `queue` %.2f s (aim 0.5)"
        % (waiting, first * 1e3, statistics.median(taken) * 1e3, statistics.median(shown))
    )
    queue.close()


def memory(jobs: int = 100) -> None:
    """Resident and proportional memory with 100 jobs running; processes at rest."""
    queue = Queue(devices=jobs)
    queue.fill(jobs, "sleep 3600", cpus=500)
    queue.skyq("queue", "local", "-s")
    deadline = time.monotonic() + 60
    while len(list((queue.state / "logs").glob("*/tasks/run.log"))) < jobs and time.monotonic() < deadline:
        time.sleep(0.1)
    agents = [pid for pid, argv in queue.processes() if " _node " in argv]
    dispatchers = [pid for pid, argv in queue.processes() if " _dispatcher " in argv]
    shims = [pid for pid in agents if _parent(pid) in agents]
    agent = [pid for pid in agents if pid not in shims]
    pss = statistics.median(_kb(pid, "smaps_rollup", "Pss:") for pid in shims) / 1024
    print(
        "with %d jobs running: dispatcher %.0f MB RSS (aim 45), node agent %.0f MB RSS, "
        "%d shims of %.1f MB PSS each (aim 3)"
        % (
            jobs,
            _kb(dispatchers[0], "status", "VmRSS:") / 1024,
            _kb(agent[0], "status", "VmRSS:") / 1024,
            len(shims),
            pss,
        )
    )
    queue.skyq("cancel", "local", "-u", "-y")
    deadline = time.monotonic() + 30
    while queue.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    print("nothing queued or running: %d processes" % len(queue.processes()))
    queue.close()


def _parent(pid: int) -> int:
    return int(stat(pid)[1])


def _kb(pid: int, file: str, field: str) -> float:
    for line in Path("/proc/%d/%s" % (pid, file)).read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1])
    raise SystemExit("%s has no %s" % (file, field))


ROWS: dict[str, Callable[[], None]] = {
    "commands": commands,
    "handover": handover,
    "drain": drain,
    "scale": scale,
    "memory": memory,
}


def main() -> None:
    """Run the rows that are named, or all."""
    if sys.argv[1:2] != ["plan"] and not os.path.exists(PROGRAM[1]):
        raise SystemExit("Build it first: python3 build_zipapp.py")
    facts = (sys.version.split()[0], os.cpu_count() or 0, os.uname().release)
    print("Python %s, %d CPUs, Linux %s" % facts, flush=True)
    if sys.argv[1:2] == ["ssh"]:
        import over_ssh

        over_ssh.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["versus"]:
        import versus

        versus.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["plan"]:
        import planning

        planning.main()
        return
    for name in sys.argv[1:] or list(ROWS):
        ROWS[name]()
        sys.stdout.flush()


main()
