"""The test language for verbs whose cluster's head is elsewhere: a laptop, and heads that it reaches.

head = Far(...)                               a queue like tests/cluster.py's, of a cluster of any name
laptop.run("queue", "lab")                    typed on the laptop
head.run("queue", "lab")                      typed on the head itself
with laptop.cut_off(): ...                    no way from one to the other
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from skyq.core.model import Device, Node
from skyq.core.paths import Home
from skyq.head.head import Head
from tests.cluster import LocalQueue, Record, words_of
from tests.program import ROOT


class Far(LocalQueue):
    """A head with a cluster that isn't called `local`."""

    def __init__(self, root: Path, program: list[str], app: Path | None, cluster: str = "lab") -> None:
        super().__init__(root, program, app)
        self.cluster = cluster
        head = Head(Home(str(self.home)).cluster(cluster), cluster)
        devices = tuple(Device(index, "H100") for index in range(4))
        with head.store.transaction():
            head.store.set_nodes([Node("node0", 0, devices, cpus=8000, memory=16384, ip="10.0.0.1")])
        head.store.close()

    def jobs(self) -> dict[int, Record]:
        found = self.ok("queue", self.cluster, "-u", "-o", "json").json()
        return {record["job_id"]: record for record in found[self.cluster]}

    def submit(self, *words: str, env: dict[str, str] | None = None) -> int:  # type: ignore[override]
        return self.job_id(self.ok("exec", self.cluster, "-d", *words, env=env))

    @property
    def state_dir(self) -> Path:
        return self.home / "clusters" / self.cluster

    def evidence(self, *ids: int) -> str:
        log = self.state_dir / "dispatcher.log"
        return log.read_text(errors="replace")[-6000:] if log.exists() else "no dispatcher.log"

    def agents(self) -> list[psutil.Process]:
        """Processes that serve a verb of the laptop's."""
        return [process for process in self.processes() if "_agent" in words_of(process)]

    def close(self) -> None:
        if self.processes():
            self.run("cancel", self.cluster, "-u", "-y")
        super().close()


class Laptop(LocalQueue):
    """Where one types."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, [sys.executable, "-m", "tests.cli.typed"])
        self.cut = root / "cut"
        self.known = root / "heads.json"
        self.env.update(
            PYTHONPATH=str(ROOT), TYPED_CUT=str(self.cut), TYPED_HEADS=str(self.known), SKYQ_USER="ada"
        )
        self._heads: dict[str, object] = {}
        self._write()

    def knows(self, head: Far, program: list[str] | None = None) -> None:
        """From now on it reaches that head. `program`: what answers there instead of skyq."""
        env = {**head.env, "SKYQ_USER": "nobody"}
        self._heads[head.cluster] = {"argv": program or head.program, "env": env}
        self._write()

    def knows_unreachable(self, cluster: str, why: str) -> None:
        """There is such a cluster, but no way to its head."""
        self._heads[cluster] = {"unreachable": why}
        self._write()

    def on_terminal(self, *words: str, typed: bytes = b"") -> tuple[int, str]:
        """A command on a terminal that has colours: (exit code, what is on the screen)."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*self.program, *words],
            env={**self.env, "TERM": "xterm"},
            cwd=self.user_home,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        os.write(ours, typed)
        screen = bytearray()
        try:
            while data := os.read(ours, 65536):
                screen += data
        except OSError:
            pass  # the last one has closed the terminal
        os.close(ours)
        return process.wait(60), screen.decode().replace("\r\n", "\n")

    def _write(self) -> None:
        self.known.write_text(json.dumps(self._heads))

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Meanwhile there is no way to any head."""
        self.cut.touch()
        try:
            yield
        finally:
            self.cut.unlink()
