"""The end of a cluster on its head: what jobs wrote stays unless that is wanted otherwise, all else goes.

The order keeps every moment safe: submits are refused first; then all processes end; then, under tick.lock,
everything goes but the queue's database, and that last. Whoever dies in between leaves a cluster that is
closed to submits, and `skyq down` goes on from there.
"""

from __future__ import annotations

import os
import time

from skyq.core.paths import ClusterDir
from skyq.core.typed import NamedTuple
from skyq.head import wake, workdirs
from skyq.store.lock import tick_lock
from skyq.transport.parcel import disk_use, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

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
        if path == where.workdirs and os.listdir(path):
            count = sum(os.path.isdir(os.path.join(path, entry)) for entry in os.listdir(path))
            found.append(Written(path, _counted(count, "copy", "copies") + " of workdirs", disk_use(path)))
        elif (path == where.logs or name.startswith(KEPT_LOGS)) and _has_text(path):
            found.append(Written(path, "logs of " + _counted(len(os.listdir(path)), "job"), disk_use(path)))
    return found


def _has_text(path: str) -> bool:
    """Whether any of the files is not empty."""
    return any(
        os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names
    )


def remove(where: ClusterDir, purge: bool) -> None:
    """Remove everything, or all but what jobs wrote. Nothing may be unfinished. Raises Busy.

    What can't be removed, since a job let another account write it, stays.
    """
    wake.knock(where)  # a dispatcher that lingers sees that the cluster ends
    with tick_lock(where.tick_lock, wait=LOCK_WAIT) as held:
        if not held:
            raise Busy
        if purge:
            _purge(where)
        elif os.path.isdir(where.logs) and _has_text(where.logs):
            os.rename(where.logs, _kept_logs(where))
        for name in os.listdir(where.root):
            path = os.path.join(where.root, name)
            kept = path == where.workdirs or name.startswith(KEPT_LOGS)
            if not kept and not path.startswith((where.database, where.tick_lock)):
                remove_tree(path)
        # The lock's file before the database: as long as that is there, and no work, nobody wants the lock.
        for path in (where.tick_lock, where.database + "-shm", where.database + "-wal", where.database):
            remove_tree(path)
        for folder in (where.workdirs, where.root, os.path.dirname(where.root)):
            if os.path.isdir(folder) and not os.listdir(folder):
                os.rmdir(folder)


def _kept_logs(where: ClusterDir) -> str:
    """A name that no other cluster will use: the next one counts its jobs from 1 again."""
    path = os.path.join(where.root, KEPT_LOGS + time.strftime("%Y-%m-%d-%H-%M-%S"))
    while os.path.exists(path):
        path += "+"
    return path


def _purge(where: ClusterDir) -> None:
    """What jobs wrote, and the links that showed it. A `~/sky_workdir` of the user's own comes back."""
    for one in written(where):
        if one.path == where.workdirs:
            _unlink_mounts(where)
            workdirs.release(where)
        remove_tree(one.path)


def _unlink_mounts(where: ClusterDir) -> None:
    for name in os.listdir(where.workdirs):
        target = workdirs.read_manifest(os.path.join(where.workdirs, name))["shown_at"]
        if target and os.path.islink(target) and os.readlink(target).startswith(where.workdirs + os.sep):
            os.unlink(target)


def _counted(number: int, what: str, plural: str = "") -> str:
    return "%d %s" % (number, what if number == 1 else plural or what + "s")
