"""What skyq costs over SSH, on several machines within this one: `.venv/bin/python bench ssh` (as root).

Against a cold `ssh host true` from the same client to the same head, in the same run. The client and the
nodes share this machine's CPUs, and its clock.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from queue_under_test import ROOT

TASK = "name: bench\nresources: {accelerators: H100:1}\nrun: 'true'\n"
PYTHON = "/usr/bin/python3"


@contextmanager
def lab(nodes: int, **special: Any) -> Iterator[Any]:
    """A lab whose client knows the pool `lab`, made a cluster by its first job."""
    from tests.lab import Lab, Traits

    folder = Path(tempfile.mkdtemp(prefix="skyq-bench-"))
    program = folder / "skyq.pyz"
    shutil.copy(ROOT / "skyq.pyz", program)
    traits = {name: Traits(**more) for name, more in special.items()}
    found = Lab(folder, nodes, program=program, traits=traits)
    found.up()
    try:
        names = ", ".join("node%d" % number for number in range(nodes))
        found.client.write("/home/ada/.skyq/pools.yaml", "lab: {hosts: [%s]}\n" % names)
        found.client.write("/home/ada/task.yaml", TASK)
        for host in (found.client, *found.nodes):
            host.write("/home/ada/.bashrc", "")
        yield found
    finally:
        found.down()
        shutil.rmtree(folder, ignore_errors=True)


def skyq(client: Any, *words: str) -> str:
    """One command on the client; its output."""
    done = client.run(["skyq", *words])
    if done.returncode:
        raise SystemExit("skyq %s: %s%s" % (" ".join(words), done.stdout, done.stderr))
    return str(done.stdout)


def seconds(client: Any, words: list[str]) -> float:
    """How long one command takes there."""
    began = time.perf_counter()
    done = client.run(words)
    if done.returncode:
        raise SystemExit("%s: %s%s" % (" ".join(words), done.stdout, done.stderr))
    return time.perf_counter() - began


def commands(runs: int = 15) -> None:
    """Whole commands against a cold ssh; first contact; first lines."""
    with lab(4) as found:
        client = found.client
        at = time.time()
        words = ["exec", "lab", "-q", "--num-nodes", "2", "--gpus", "H100:4", "echo $EPOCHREALTIME"]
        first = [float(line) for line in skyq(client, *words).split()]
        print("four bare hosts to the first line of a 2-node job: %.1f s (aim 30)" % (min(first) - at))
        rows = {
            "`ssh node0 true`": (["ssh", "node0", "true"], ""),
            "`queue`": (["skyq", "queue", "lab"], "2x"),
            "`exec -d YAML`": (["skyq", "exec", "lab", "task.yaml", "-d"], "2.5x"),
        }
        taken: dict[str, list[float]] = {name: [] for name in rows}
        lines: list[float] = []
        for _ in range(runs):
            for name, (argv, _) in rows.items():
                taken[name].append(seconds(client, argv))
            at = time.time()
            lines.append(max(float(line) for line in skyq(client, *words).split()) - at)
        unit = statistics.median(taken["`ssh node0 true`"])
        print("\n| over SSH | ms | ratio | aim |\n|---|---|---|---|")
        for name, (_, aim) in rows.items():
            median = statistics.median(taken[name])
            print("| %s | %.0f | %.1fx | %s |" % (name, median * 1e3, median / unit, aim))
        median = statistics.median(lines)
        print(
            "| submit to the last first line of a 2-node job | %.0f | %.1fx | 3x |"
            % (median * 1e3, median / unit)
        )
        _parts(client, found)


def _parts(client: Any, found: Any) -> None:
    """Where the time of `queue` goes, each part by itself."""
    node = found.node(0)
    places = client.run(["sh", "-c", "ls -d ~/.skyq/app/*-cpython-*"]).stdout.split()
    imports = "import sys; sys.path.append(%r); import fabric" % places[0]
    rows = {
        "python": (client, [PYTHON, "-I", "-S", "-c", "pass"]),
        "python and fabric": (client, [PYTHON, "-I", "-c", imports]),
        "ssh -G": (client, ["ssh", "-G", "node0"]),
        "`queue` typed on the head": (node, ["sh", "-c", "exec ~/.skyq/bin/skyq queue lab"]),
    }
    bare = statistics.median(seconds(client, ["true"]) for _ in range(7))
    parts = []
    for name, (host, argv) in rows.items():
        parts.append(
            "%s %.0f" % (name, (statistics.median(seconds(host, argv) for _ in range(7)) - bare) * 1e3)
        )
    print("\nparts, ms: %s" % ", ".join(parts))


def lines(count: int = 40) -> None:
    """From a print to the client's screen; from a job's end to the next one's first line on a worker."""
    with lab(2, node0={"gpus": 0}, node1={"gpus": 1}) as found:
        client = found.client
        skyq(client, "exec", "lab", "-q", "--gpus", "H100:1", "true")
        words = [
            "skyq",
            "exec",
            "lab",
            "-q",
            "--gpus",
            "H100:1",
            "for i in {1..%d}; do sleep 0.2; echo $EPOCHREALTIME; done" % count,
        ]
        process = client.start(words, stdout=subprocess.PIPE)
        late = []
        for line in process.stdout:
            late.append(time.time() - float(line))
        process.wait()
        late = sorted(late[1:])
        print(
            "a printed line reaches the client in: median %.0f ms, max %.0f ms (aim 300)"
            % (statistics.median(late) * 1e3, late[-1] * 1e3)
        )
        skyq(client, "exec", "lab", "-d", "--gpus", "H100:1", "until [ -e ~/go ]; do sleep 0.05; done")
        script = (
            "for i in {1..%d}; do skyq exec lab -d -q --gpus H100:1 "
            "'echo $EPOCHREALTIME; echo $EPOCHREALTIME'; done" % count
        )
        client.run(["bash", "-c", script], timeout=300)
        found.node(1).write("/home/ada/go", "")
        while "RUNNING" in (text := skyq(client, "queue", "lab", "-s")) or "PENDING" in text:
            time.sleep(0.2)
        logs = sorted(
            Path(found.node(0).path("/home/ada/.skyq/clusters/lab/logs")).glob("*/tasks/*.log"),
            key=lambda path: int(path.parent.parent.name.split("-")[0]),
        )
        times = [[float(line) for line in path.read_text().split()] for path in logs[-count:]]
        gaps = sorted((after[0] - before[1]) * 1e3 for before, after in zip(times, times[1:], strict=False))
        print(
            "on a worker, job end to next first line, %d jobs: median %.1f ms (aim 25), max %.1f ms"
            % (count, statistics.median(gaps), gaps[-1])
        )


def many(nodes: int = 64) -> None:
    """A head with many workers."""
    with lab(nodes) as found:
        client, head = found.client, found.node(0)
        took = seconds(client, ["skyq", "exec", "lab", "-d", "-q", "true"])
        print("%d hosts: first contact %.1f s (aim 60)" % (nodes, took))
        words = ["exec", "lab", "-q", "--num-nodes", str(nodes), "echo $EPOCHREALTIME"]
        skyq(client, *words)
        at = time.time()
        last = max(float(line) for line in skyq(client, *words).split()) - at
        status = statistics.median(seconds(client, ["skyq", "status", "lab"]) for _ in range(3))
        print(
            "%d hosts, connected: a %d-node job has started %.2f s after its submit (aim 5); "
            "`status` %.2f s (aim 1)" % (nodes, nodes, last, status)
        )
        skyq(client, "exec", "lab", "-d", "--num-nodes", str(nodes), "sleep 3600")
        time.sleep(3)
        for process in head.processes():
            if "_dispatcher" in process.cmdline():
                print(
                    "dispatcher with %d workers connected: %.0f MB RSS (aim 80)"
                    % (nodes - 1, process.memory_info().rss / 1024**2)
                )
        skyq(client, "cancel", "lab", "-a", "-y")


def sync(runs: int = 15, files: int = 1000, round_trip: float = 0.04) -> None:
    """What a workdir adds to an `exec`, to a head that is far away."""
    with lab(2) as found:
        client = found.client
        client.write("/home/ada/bare.yaml", TASK)
        client.write("/home/ada/task.yaml", TASK + "workdir: ~/proj\n")
        for number in range(files):
            client.write("/home/ada/proj/d%d/f%d.py" % (number % 20, number), ("%d\n" % number) * 900)
        client.run(["skyq", "exec", "lab", "-d", "bare.yaml"])
        found.delay("client", round_trip / 2)
        unit = statistics.median(seconds(client, ["ssh", "node0", "true"]) for _ in range(5))
        rows: dict[str, list[str]] = {
            "`exec -d` without a workdir": ["skyq", "exec", "lab", "-d", "bare.yaml"],
            "with it, unchanged": ["skyq", "exec", "lab", "-d", "task.yaml"],
        }
        first = seconds(client, rows["with it, unchanged"])
        taken: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(runs):
            for name, argv in rows.items():
                taken[name].append(seconds(client, argv))
        bare, again = (statistics.median(taken[name]) for name in rows)
        more = statistics.median(b - a for a, b in zip(*taken.values(), strict=True))
        print(
            "\n| %d files, %.0f ms away | ms | more than bare | aim |\n|---|---|---|---|"
            % (files, round_trip * 1e3)
        )
        print("| `ssh node0 true`, cold | %.0f | | |" % (unit * 1e3))
        print("| `exec -d` without a workdir | %.0f | | |" % (bare * 1e3))
        print("| with one, first | %.0f | %.0f ms | 3000 ms |" % (first * 1e3, (first - bare) * 1e3))
        trips = more / round_trip
        print("| with one, unchanged | %.0f | %.1f round trips | 3 |" % (again * 1e3, trips))


def main(rows: list[str]) -> None:
    """Run the rows that are named, or all."""
    sys.path.insert(0, str(ROOT))
    known = {"commands": commands, "lines": lines, "many": many, "sync": sync}
    for name in rows or list(known):
        known[name]()
        sys.stdout.flush()
