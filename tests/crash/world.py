"""What every trial has: the queue's database seen from outside, what was said, and the order of things."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import defaultdict
from contextlib import closing, suppress
from typing import Any, ClassVar

from tests.cluster import FINAL
from tests.crash.check import Row, violations
from tests.crash.trace import Trace
from tests.waiting import wait_until

SETTLE = 60.0  # seconds
TICK_EVERY = 2.0  # seconds: cron's minute


class World:
    """A queue, and what happened to it. Subclasses say where."""

    database: Any

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        """By who said it."""
        self.ids: dict[str, list[int]] = defaultdict(list)
        """Job's name → the ids that its submits printed."""

    def acknowledge(self, name: str, said: str) -> None:
        """The ids that a submit printed."""
        self.ids[name] += map(int, re.findall(r"Job submitted, ID: (\d+)\n", said))

    def rows(self) -> list[Row]:
        """The jobs; none where there is no queue."""
        sql = "SELECT id, name, state, reason, exit_codes FROM jobs ORDER BY id"
        where = "file:%s?mode=ro" % self.database
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(where, uri=True)) as db:
            return [Row(*row[:4], json.loads(row[4] or "[]")) for row in db.execute(sql).fetchall()]
        return []

    def database_says(self) -> tuple[list[object], str]:
        """(devices that are given, whether it is whole)"""
        with closing(sqlite3.connect(self.database)) as db:
            integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
            return db.execute("SELECT * FROM device_use").fetchall(), str(integrity)

    def log_of(self, row: Row, name: str) -> str:
        """What the job wrote."""
        path = self.database.parent / "logs" / ("%d-%s" % (row.id, row.name)) / "tasks" / name
        return path.read_text(errors="replace") if path.exists() else ""

    def notes(self) -> dict[str, str]:
        """All that was said, the dispatcher's log too."""
        path = self.database.parent / "dispatcher.log"
        return {**self.said, "dispatcher.log": path.read_text() if path.exists() else ""}

    def settle(self) -> None:
        """What cron does, until nothing is unfinished."""
        ticks_at = 0.0

        def settled() -> bool:
            nonlocal ticks_at
            if time.monotonic() > ticks_at:
                ticks_at = time.monotonic() + TICK_EVERY
                self.tick()
            return all(row.state in FINAL for row in self.rows())

        wait_until(settled, "all jobs end", SETTLE, self.evidence)

    def tick(self) -> None:
        """What cron does once."""
        raise NotImplementedError

    def evidence(self) -> str:
        """For who reads of a violation."""
        raise NotImplementedError


class Operation:
    """What is walked."""

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    wait: ClassVar[bool] = False
    """Whether the calls count only from the middle of it on."""
    unpacked: ClassVar[bool] = True
    """Whether skyq was started here before."""

    def __init__(self) -> None:
        self.refused = False
        """Whether the submit said that it failed."""

    def prepare(self, world: Any) -> None:
        """What is there before."""

    def retry(self, world: Any) -> None:
        """What the user does after the crash, before cron comes."""

    def heard(self, world: World, trace: Trace, code: int, said: str) -> None:
        """What the submit said, and its exit code, must agree."""
        world.acknowledge("victim", said)
        world.said["the command"] = said
        acknowledged = bool(world.ids["victim"])
        self.refused = code > 0 and not acknowledged
        deaf = trace.hit is not None and trace.hit.what.endswith("/out")
        if code >= 0 and (code == 0) != acknowledged and not deaf:
            told = "\nTraceback: exit code %d, acknowledged: %s" % (code, acknowledged)
            world.said["the command"] += told


def trial(operation: Any, world: Any, trace: Trace) -> list[str]:
    """Do it, break it, recover, look; what is wrong."""
    try:
        operation.prepare(world)
        operation.act(world, trace)
        trace.stop()
        operation.retry(world)
        world.settle()
        world.go_on()
        return violations(world.see(), operation.expected(world, trace.hit))
    finally:
        trace.stop()
