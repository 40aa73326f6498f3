"""`python -m tests.crash`: a process of skyq dies at each of its state-changing system calls in turn, or the
call fails; then all recovers as a user would have it, and must be as it must be.

    python -m tests.crash                            every operation on this machine, killed at every point
    python -m tests.crash --only submit,tick --every 3
    python -m tests.crash --kind enospc              each call that needs room fails once
    python -m tests.crash --kind full                that one and all after it, until the command has ended
    python -m tests.crash --kind eio                 each fsync fails
    python -m tests.crash --point submit:command:17 --keep    one point again; its folder stays
    python -m tests.crash --list                     only tell the points
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.local import OPERATIONS as LOCAL
from tests.crash.local import LocalWorld
from tests.crash.remote import REMOTE, LabWorld
from tests.crash.trace import KINDS, Point, Trace, why_not
from tests.crash.tracer import SYNC, likeness, needs_room
from tests.crash.world import trial
from tests.program import built, unpacked
from tests.ssh.test_upgrade import NEWER, build

AT_ONCE = 2
OPERATIONS: dict[str, Any] = {**LOCAL, **REMOTE}


class Outcome(NamedTuple):
    """Of one trial."""

    hit: Point | None
    wrong: list[str]
    evidence: str
    seconds: float


class Walk:
    """The operations, their points, the trials."""

    def __init__(self, folder: Path, keep: bool = False, program: Path | None = None) -> None:
        """`program`: the folder that has the skyq.pyz under test, or gets it."""
        self.folder = folder
        self.keep = keep
        self.pyz = built(program or folder)
        self.program = [sys.executable, str(self.pyz)]
        self.app = unpacked(program or folder, self.program)
        self._count = 0
        self._lock = threading.Lock()
        self._newer: Path | None = None
        self._labs: list[LabWorld] = []
        self._points: dict[str, list[Point]] = {}

    def newer(self) -> Path:
        """A skyq.pyz of the same code that calls itself newer."""
        with self._lock:
            if self._newer is None:
                self._newer = build(self.folder / "newer", NEWER)
            return self._newer

    def _world(self, name: str, folder: Path) -> Any:
        """For one trial."""
        if name in LOCAL:
            app = self.app if LOCAL[name].unpacked else None
            return LocalWorld(folder, self.program, app, self.newer)
        with self._lock:
            free = self._labs.pop() if self._labs else None
            lab = free or LabWorld(folder.with_suffix(".lab"), self.pyz, self.newer)
        return lab.reset(folder)

    def close(self) -> None:
        """No machine is left."""
        for lab in self._labs:
            lab.down()

    def points(self, name: str, anew: bool = False) -> list[Point]:
        """All points of an operation; AssertionError where it fails undisturbed. They differ a little each
        time: `anew` counts them once more.
        """
        if anew or name not in self._points:
            outcome, points = self._try(name, None, "kill")
            assert not outcome.wrong, "%s, undisturbed: %s\n%s" % (name, outcome.wrong, outcome.evidence)
            self._points[name] = [point for point in points if point.role in OPERATIONS[name].roles]
        return self._points[name]

    def run(self, name: str, point: Point, kind: str) -> Outcome:
        """One trial."""
        return self._try(name, point, kind)[0]

    def _try(self, name: str, point: Point | None, kind: str) -> tuple[Outcome, list[Point]]:
        with self._lock:
            self._count += 1
            folder = self.folder / ("trial%d" % self._count)
        folder.mkdir()
        began = time.monotonic()
        world, operation = self._world(name, folder), OPERATIONS[name]()
        trace = Trace(folder, point, kind, operation.wait)
        evidence = ""
        try:
            wrong = trial(operation, world, trace)
            evidence = world.evidence() if wrong else ""
        except AssertionError as error:
            wrong = ["it doesn't recover: %s" % str(error).split("\n")[0]]
            evidence = "%s\n%s" % (error, world.evidence())
        except Exception:
            wrong, evidence = ["the trial failed"], traceback.format_exc()
        seconds = time.monotonic() - began
        try:
            return Outcome(trace.hit, wrong, evidence, seconds), [] if point else trace.points()
        finally:
            world.close()
            if name in REMOTE:
                self._labs.append(world)
            if not self.keep:
                shutil.rmtree(folder, ignore_errors=True)


def eligible(points: list[Point], kind: str) -> list[Point]:
    """Where that can happen."""
    if kind == "kill":
        return points
    if kind == "eio":
        return [point for point in points if point.call in SYNC]
    return [point for point in points if needs_room(point.call, point.what)]


def thin(points: list[Point]) -> list[Point]:
    """Of calls in a row that are alike, such as the pages of one file, the first two and the last.

    Of a folder that is unpacked, however the calls alternate.
    """
    found: list[Point] = []
    likes = [_like(point) for point in points]
    for at, like in enumerate(likes):
        near = ".new-" in like[1]
        before = likes[:at] if near else likes[max(0, at - 2) : at]
        after = likes[at + 1 :] if near else likes[at + 1 : at + 2]
        if like not in after or before.count(like) < 2:
            found.append(points[at])
    return found


def _like(point: Point) -> tuple[str, str]:
    """What is unpacked is all alike."""
    what = re.sub(r"(/\.new-)[^/]*/.*", r"\1", point.what)
    return point.role, likeness(point.call, what)


def walk(found: Walk, name: str, points: list[Point], kind: str) -> int:
    """Try them; returns how many failed."""
    failed = 0
    lock = threading.Lock()

    def one(at: int) -> None:
        nonlocal failed
        point = points[at]
        outcome = found.run(name, point, kind)
        met = outcome.hit or point
        note = "" if outcome.hit else " (not met)"
        with lock:
            word = "FAILED" if outcome.wrong else "ok"
            print(
                "%-6s %s %s %4.1f s%s"
                % (word, kind, _title(name, met, at, len(points)), outcome.seconds, note)
            )
            if outcome.wrong:
                failed += 1
                print("".join("       - %s\n" % text for text in outcome.wrong), end="")
                report = found.folder / ("%s-%s-%s-%d.txt" % (kind, name, point.role, point.n))
                report.write_text("\n".join([*outcome.wrong, outcome.evidence]))
                print("       evidence: %s" % report)
            sys.stdout.flush()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for future in [pool.submit(one, at) for at in range(len(points))]:
                future.result()
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _title(name: str, point: Point, at: int, count: int) -> str:
    what = re.sub(r"/\S*/trial\d+/(q/)?", "", point.what)
    return "%s %d/%d %s:%d %s %s" % (name, at + 1, count, point.role, point.n, point.call, what)


def _operation(walked: Walk, name: str, found: argparse.Namespace) -> tuple[int, int]:
    """Walk one; how many points were tried, and how many of them failed."""
    every = walked.points(name)
    points = eligible(every, found.kind)
    points = points if found.all or found.point else thin(points)
    told = "%s: %d points, %d of them for %s, each %d."
    print(told % (name, len(every), len(points), found.kind, found.every))
    points = points[:: found.every]
    if found.point:
        role, number = found.point.split(":")[1:]
        points = [point for point in points if (point.role, point.n) == (role, int(number))]
    if found.list:
        print("".join("%s\n" % _title(name, p, at, len(points)) for at, p in enumerate(points)), end="")
        return 0, 0
    return len(points), walk(walked, name, points, found.kind)


def main() -> int:
    """Exit code 0 where all was well."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(LOCAL), help="operations: " + ", ".join(OPERATIONS))
    parser.add_argument("--every", type=int, default=1, help="only each N-th point")
    parser.add_argument("--kind", default="kill", choices=KINDS)
    parser.add_argument("--point", default="", help="OPERATION:ROLE:N, as a line of the output has it")
    parser.add_argument("--all", action="store_true", help="each of many calls in a row that are alike, too")
    parser.add_argument("--list", action="store_true", help="only tell the points")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the trials")
    found = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    folder = Path(tempfile.mkdtemp(prefix="skyq-crash-"))
    walked = Walk(folder, found.keep)
    names = [found.point.split(":")[0]] if found.point else found.only.split(",")
    try:
        counts = [_operation(walked, name, found) for name in names]
    finally:
        walked.close()
    count, failed = map(sum, zip(*counts))
    print("%d trials, %d failed" % (count, failed))
    if not failed and not found.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
