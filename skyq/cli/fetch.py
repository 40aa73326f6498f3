"""`skyq logs -s`: jobs' logs as files, from wherever the head is to ~/sky_logs/CLUSTER on this machine.

Raw logs come as they are. The merged log is made here, from what came.
"""

from __future__ import annotations

import os
import stat
import sys
import time

from skyq.cli.merged import Merged
from skyq.cli.progress import Progress
from skyq.cli.render import Style
from skyq.cli.stream import Labels, View
from skyq.client.fetch import Receiver
from skyq.core.errors import SkyqError
from skyq.core.model import Job
from skyq.core.paths import run_index
from skyq.core.protocol import Message
from skyq.head.head import Head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, TypeAlias

BLOCK = 256 * 1024  # bytes
OWED = 5.0  # seconds that the rest of an ended job's log gets to come in from a worker

Say: TypeAlias = "Callable[[Message], str | None]"
"""Tells the fetching side something; its answer to the message `job`."""


def deliver(head: Head, jobs: list[Job], say: Say) -> None:
    """The head's side."""
    for job in jobs:
        _await_all(head, job)
        folder = head.log_folder(job)
        files = sorted(_files(folder))
        steps = head.step_logs(job)
        label = Labels(job, {node.name: node for node in head.nodes()}, colour=False)
        here = say(
            {
                "is": "job",
                "id": job.id,
                "folder": os.path.basename(folder),
                "mark": "%s.%d" % (job.uuid, job.attempt),
                "files": files,
                "steps": [
                    [step, os.path.relpath(steps[step], folder), label(step).decode()] for step in steps
                ],
                "index": os.path.relpath(run_index(head.attempt_folder(job)), folder),
            }
        )
        _send(folder, files, here or "{}", say)
        say({"is": "fetched"})


def _await_all(head: Head, job: Job) -> None:
    deadline = time.monotonic() + OWED
    while head.logs_owed(job):
        if time.monotonic() > deadline:
            text = "The end of the log of job %d is still on its node. Fetch it again later."
            print(text % job.id, file=sys.stderr)
            return
        time.sleep(0.05)


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """(path below the folder, bytes) of each plain file."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            try:
                seen = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(seen.st_mode):
                yield os.path.relpath(path, folder), seen.st_size


def _send(folder: str, files: list[tuple[str, int]], here: str, say: Say) -> None:
    import json

    offsets = json.loads(here)
    for path, size in files:
        try:
            file = os.open(os.path.join(folder, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # `skyq clean` was faster
        with open(file, "rb", buffering=0) as opened:
            offset = min(int(offsets.get(path, 0)), size)
            say({"is": "file", "path": path, "offset": offset, "size": size})
            while offset < size and (data := os.pread(opened.fileno(), min(BLOCK, size - offset), offset)):
                say({"offset": offset, "data": data})
                offset += len(data)


class Down:
    """The fetching side: what it says to its user."""

    def __init__(self, cluster: str) -> None:
        self._style = Style.of(sys.stdout.isatty(), os.environ)
        self._begun = False
        self._done: set[int] = set()
        """Jobs that were told of: after a lost connection all come again, though not their files."""
        self._bar = Progress(0)
        root = os.path.join(os.path.expanduser("~/sky_logs"), cluster)
        self._receiver = Receiver(root, self._fetched)
        self._receiver.begin = self._begin
        self._receiver.progress = lambda count: self._bar(count)

    def take(self, message: Message) -> str | None:
        """See Receiver.take()."""
        try:
            return self._receiver.take(message)
        except (KeyError, TypeError, ValueError, ArithmeticError):
            raise SkyqError(
                "The head of the cluster sent logs in a way that this skyq doesn't know."
            ) from None

    def close(self) -> None:
        """Nothing more comes."""
        self._receiver.close()
        self._bar.end()

    def _begin(self, size: int) -> None:
        self._bar.end()
        self._bar = Progress(size)
        if not self._begun:
            print("Syncing down logs to local...", flush=True)
        self._begun = True

    def _fetched(self, job: Message, folder: str) -> None:
        self._bar.end()
        if job["id"] in self._done:
            return
        self._done.add(job["id"])
        steps = {str(step): (str(path), str(label)) for step, path, label in job["steps"]}
        merge(folder, steps, str(job["index"]))
        print(self._style.cyan("Job %d logs: %s" % (job["id"], folder)), flush=True)


def merge(folder: str, steps: dict[str, tuple[str, str]], index: str) -> None:
    """Write run.log of what lies in the folder. `steps`: path of the raw log, beginning of its lines."""
    from skyq.client.fetch import check_path

    for path, _ in steps.values():
        check_path(path)
    check_path(index)
    logs = {step: os.path.join(folder, path) for step, (path, _) in steps.items()}
    target = os.path.join(folder, "run.log")
    file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(file, "wb") as out:
        merged = Merged(logs, os.path.join(folder, index))
        view = View(merged, lambda step: steps[step][1].encode(), out, screen=False)
        while view.pump():
            pass
        view.finish()
