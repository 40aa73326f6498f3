"""What a cluster leaves on a worker when it ends: no process; of jobs' folders only those that jobs wrote to,
unless these are to go, too; and nothing that leads to what is gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import time

from skyq.core.errors import SkyqError
from skyq.core.paths import Home, RunDir
from skyq.node import proc
from skyq.node.copies import shown_at, workdir
from skyq.node.records import Started, left_over
from skyq.node.setup import names, unlink
from skyq.transport import parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple, TypeAlias

PATIENCE = 120.0  # seconds for the grace time that jobs ask for, usually 30
LOOK = 0.05  # seconds

Kept: TypeAlias = "Tuple[str, int]"
"""(folder, bytes of the files in it)"""


def end_steps(state: Home, cluster: str) -> None:
    """End what still runs here of a cluster that has given this machine up. SkyqError if it doesn't end."""
    boot, deadline, told = proc.boot(), time.monotonic() + PATIENCE, False
    while shims := _shims(state, cluster, boot):
        for shim in () if told else shims:
            proc.send_signal(*shim, signal.SIGTERM)
        told = True
        if time.monotonic() > deadline:
            pids = ", ".join(str(pid) for pid, _ in shims)
            raise SkyqError("jobs of the cluster don't end there; their shims have the pids %s." % pids)
        time.sleep(LOOK)
    _end_agents(cluster)


def _end_agents(cluster: str) -> None:
    """The node agent of a head that is cut off waits for it for a minute, and holds the shims' lock."""
    wanted = [b"_node", b"@" + cluster.encode(), b""]
    for entry in proc.all_stats():
        try:
            with open("/proc/%d/cmdline" % entry.pid, "rb") as file:
                its = file.read().split(b"\0")[-3:] == wanted
        except OSError:
            continue  # it has just ended
        if its and proc.send_signal(entry.pid, entry.start, signal.SIGKILL):
            while proc.lives(entry.pid, entry.start):
                time.sleep(LOOK / 10)


def _shims(state: Home, cluster: str, boot: str) -> List[Tuple[int, int]]:
    """The (pid, start time) of those that live."""
    found = []
    for name in names(state.nodes):
        runs = os.path.join(state.nodes, name, "run")
        if name.rpartition(".")[0] == cluster and os.path.isdir(runs):
            for key in left_over(runs):
                run = RunDir.of(runs, *key)
                started = Started.read(run) or Started.ready(run)
                if started and started.boot == boot and proc.lives(*started.shim):
                    found.append(started.shim)
    return found


def remove(state: Home, cluster: str, purge: bool) -> List[Kept]:
    """Remove what this machine had for a cluster of which nothing runs any more. Returns what stays."""
    kept: List[Kept] = []
    for name in names(state.nodes):
        if name.rpartition(".")[0] == cluster:
            root = os.path.join(state.nodes, name)
            work = os.path.join(root, "work")
            links = [workdir(), *(shown_at(work) if os.path.isdir(work) else ())]
            kept += _remove_copies(work, purge)
            for entry in names(root):
                if entry != "work":
                    shutil.rmtree(os.path.join(root, entry), ignore_errors=True)
            for folder in (work, root):
                unlink(folder)
            for link in links:
                _unlink_dead(link, work)
    return kept


def _remove_copies(work: str, purge: bool) -> List[Kept]:
    written = [] if purge else [name for name in names(work) if _is_written(os.path.join(work, name))]
    if written:
        # One shows parts of another: either all stay, or none.
        return [(work, sum(_size(os.path.join(work, name)) for name in names(work)))]
    shutil.rmtree(work, ignore_errors=True)
    return []


def _is_written(copy: str) -> bool:
    """Whether jobs changed or added a file in a copy."""
    if os.path.islink(copy) or not os.path.isdir(copy) or copy.endswith(parcel.PART):
        return False
    sent = parcel.read_record(copy)
    for folder, _, files in os.walk(copy):
        for name in files:
            path = os.path.join(folder, name)
            found = os.lstat(path)
            if os.path.islink(path):
                continue  # what it leads to is looked at where it is
            if sent.get(os.path.relpath(path, copy)) != [found.st_size, found.st_mtime_ns]:
                return True
    return False


def _unlink_dead(link: str, work: str) -> None:
    if os.path.islink(link) and not os.path.exists(link) and os.readlink(link).startswith(work + os.sep):
        os.unlink(link)


def _size(path: str) -> int:
    if os.path.islink(path) or not os.path.isdir(path):
        return os.lstat(path).st_size
    return sum(_size(os.path.join(path, name)) for name in names(path))
