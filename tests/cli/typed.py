"""The command line on a laptop whose clusters' heads are processes of this machine: python -m tests.cli.typed

All but SSH is real: skyq's own agent at the other end of two pipes, with the head's home. TYPED_HEADS says
where: a JSON file, cluster → {argv, env}. While the file TYPED_CUT exists there is no way to any of them.
TYPED_SILENCE: seconds that a side may be silent, instead of 20.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from skyq.cli import cluster, main
from skyq.client import remote
from skyq.client.client import Unknown
from skyq.client.freeing import Freed
from skyq.core.errors import Unreachable

LOOK = 0.02  # seconds


class LocalStream:
    """A Stream to a process of this machine; cut off like one over SSH."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self._said = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            bufsize=0,
            cwd="/",
            start_new_session=True,  # as sshd would: the keys of this terminal are not for it
        )
        assert self._process.stdin and self._process.stdout
        self._into, self._out = self._process.stdin, self._process.stdout

    def read(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            _check_way()
            if select.select([self._out], [], [], LOOK)[0]:
                return os.read(self._out.fileno(), 256 * 1024)
        raise TimeoutError

    def write(self, data: bytes) -> None:
        _check_way()
        try:
            self._into.write(data)
        except OSError:
            raise Unreachable("The agent is gone.", "lost") from None

    def close(self) -> None:
        for pipe in (self._into, self._out):
            try:
                pipe.close()
            except OSError:
                pass

    def stderr(self) -> str:
        self._said.seek(0)
        return self._said.read().decode()

    def exit_code(self) -> int | None:
        return self._process.poll()


def _check_way() -> None:
    if os.path.exists(os.environ["TYPED_CUT"]):
        raise Unreachable("The connection to the head was cut.", "lost")


def agent_stream(
    name: str, create: bool, accept_new: bool = False, quiet: bool = False, wanted: object = None
) -> LocalStream:
    with open(os.environ["TYPED_HEADS"]) as file:
        known = json.load(file)
    if name not in known:
        raise Unknown("Cluster '%s' does not exist." % name)
    if "unreachable" in known[name]:
        raise Unreachable(known[name]["unreachable"], "refused")
    _check_way()
    return LocalStream([*known[name]["argv"], "_agent"], known[name]["env"])


def names() -> list[str]:
    with open(os.environ["TYPED_HEADS"]) as file:
        return ["local", *json.load(file)]


def end_remote(name: str, nodes: Sequence[str], purge: bool) -> Freed:
    with open(os.environ["TYPED_HEADS"]) as file:
        known = json.load(file)
    del known[name]
    with open(os.environ["TYPED_HEADS"], "w") as file:
        json.dump(known, file)
    return Freed((), ())


if __name__ == "__main__":
    cluster.agent_stream = agent_stream  # type: ignore[assignment]
    cluster.end_remote = end_remote
    cluster.known = names
    remote.SILENCE = float(os.environ.get("TYPED_SILENCE", remote.SILENCE))
    sys.exit(main.main())
