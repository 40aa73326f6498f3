"""The end of a cluster on its head: what jobs wrote stays unless that is wanted otherwise, all else goes.

The order keeps every moment safe: submits are refused first; then all processes end; then, under tick.lock,
everything goes but the queue's database, and that last. Whoever dies in between leaves a cluster that is closed
to submits, and `skyq down` goes on from there.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import List, NamedTuple

from skyq.core.paths import ClusterDir
from skyq.head import workdirs
from skyq.head.clean import disk_use
from skyq.store.lock import tick_lock

LOCK_WAIT = 20.0  # seconds for the dispatcher to leave once there is no work: it lingers one
KEPT_LOGS = "logs-"  # begins the names of logs that former ends of the cluster left


class Written(NamedTuple):
    """A folder of what jobs wrote."""

    path: str
    what: str
    size: int
    """Bytes on disk."""


class Busy(Exception):
    """A dispatcher doesn't leave."""


def written(where: ClusterDir) -> List[Written]:
    """What jobs wrote: their logs, also of former times, and the folders that they ran in."""
    found = []
    for name in sorted(os.listdir(where.root)):
        path = os.path.join(where.root, name)
        if path == where.logs or name.startswith(KEPT_LOGS):
            count = sum(os.path.isdir(os.path.join(path, entry, "tasks")) for entry in os.listdir(path))
            found.append(Written(path, "logs of %s" % _counted(count, "job"), disk_use(path)))
        elif path == where.workdirs:
            count = sum(os.path.isdir(os.path.join(path, entry)) for entry in os.listdir(path))
            found.append(Written(path, _counted(count, "copy", "copies") + " of workdirs", disk_use(path)))
    return [one for one in found if one.size or not one.what.startswith(("0 ", "logs of 0 "))]


def remove(where: ClusterDir, purge: bool) -> None:
    """Remove everything, or all but what jobs wrote. Nothing may be unfinished. Raises Busy, OSError."""
    with tick_lock(where.tick_lock, wait=LOCK_WAIT) as held:
        if not held:
            raise Busy
        if purge:
            _purge(where)
        elif os.path.isdir(where.logs) and not _is_empty(where.logs):
            # Not under the old name: the next cluster counts its jobs from 1 again.
            os.rename(where.logs, os.path.join(where.root, KEPT_LOGS + time.strftime("%Y-%m-%d-%H-%M-%S")))
        for name in os.listdir(where.root):
            path = os.path.join(where.root, name)
            kept = path == where.workdirs or name.startswith(KEPT_LOGS)
            if not kept and not path.startswith((where.database, where.tick_lock)):
                _remove(path)
        # The lock's file before the database: as long as that is there, and without work, nobody wants the lock.
        _remove(where.tick_lock)
        for suffix in ("-shm", "-wal", ""):
            _remove(where.database + suffix)
        for folder in (where.workdirs, where.root):
            if os.path.isdir(folder) and _is_empty(folder):
                os.rmdir(folder)


def _purge(where: ClusterDir) -> None:
    """What jobs wrote, and the links that showed it. A `~/sky_workdir` of the user's own comes back."""
    for one in written(where):
        if one.path == where.workdirs:
            _unlink_mounts(where)
            workdirs.release(where)
        _remove(one.path)


def _unlink_mounts(where: ClusterDir) -> None:
    for name in os.listdir(where.workdirs):
        target = workdirs.read_manifest(os.path.join(where.workdirs, name))["shown_at"]
        if target and os.path.islink(target) and os.readlink(target).startswith(where.workdirs + os.sep):
            os.unlink(target)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _is_empty(folder: str) -> bool:
    return not os.listdir(folder)


def _counted(number: int, what: str, plural: str = "") -> str:
    return "%d %s" % (number, what if number == 1 else plural or what + "s")
