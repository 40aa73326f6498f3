"""Removing what ended jobs left on this machine: their copies of files, run directories, and logs if asked.

What `~/sky_workdir` or a file_mount shows, and the copies that it shows parts of, always stay. So does all of
a job that isn't done with: processes of it can't be killed, or the end of a log is still on a worker.
"""

from __future__ import annotations

import json
import os
import time

from skyq.core import states
from skyq.core.model import Job
from skyq.core.paths import ClusterDir
from skyq.core.typed import NamedTuple
from skyq.head import workdirs
from skyq.store.store import Store
from skyq.transport import parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Set


class Leftover(NamedTuple):
    """One folder that can go."""

    path: str
    size: int
    """Bytes on disk."""
    job: int
    node: str = ""
    """"": this machine."""
    name: str = ""
    """What the node calls it."""


def ended(store: Store, before: float) -> Dict[str, Job]:
    """The jobs that are done with, and ended before that time (epoch seconds), by uuid."""
    busy = {log.job_id for log in store.owed_logs()}
    busy.update(kept.job for node in store.nodes() for kept in node.quarantined)
    return {
        job.uuid: job
        for job in store.jobs()
        if job.state in states.FINAL and (job.ended_at or 0) < before and job.id not in busy
    }


def kept_copies(store: Store, where: ClusterDir) -> Set[str]:
    """The copies that stay, whosever they are: what is shown, and the folders of unfinished jobs."""
    return _shown(where) | _in_use(store)


def leftovers(where: ClusterDir, jobs: Mapping[str, Job], kept: Set[str], logs: bool) -> List[Leftover]:
    """What these jobs left here, but for the copies that are `kept`."""
    owners: Dict[str, List[str]] = {}
    for folder in (where.workdirs, where.runs):
        for name in _names(folder):
            if not name.endswith((".json", parcel.PART)):
                uuid = name.replace(".", "-").split("-")[0]
                owners.setdefault(uuid, []).append(os.path.join(folder, name))
    found = []
    for job in jobs.values():
        paths = [path for path in owners.get(job.uuid, []) if path not in kept]
        if logs:
            paths += [path for path in [_log_folder(where, job)] if os.path.isdir(path)]
        found += [Leftover(path, parcel.disk_use(path), job.id) for path in paths]
    return found


def remove(store: Store, where: ClusterDir, found: List[Leftover]) -> None:
    """Remove them, and what nobody owns: half copies, and whole ones of submits that never came through."""
    for path in [*(leftover.path for leftover in found), *_unowned(store, where)]:
        (parcel.remove_copy if os.path.dirname(path) == where.workdirs else parcel.remove_tree)(path)
        try:
            os.unlink(workdirs.manifest(path))
        except FileNotFoundError:
            pass
    if os.path.isdir(where.workdirs):
        workdirs.collect_parts(where.workdirs)


def _unowned(store: Store, where: ClusterDir) -> List[str]:
    """Copies of no job, or their manifests alone: whoever submits one may still come back within a day."""
    kept, young = _shown(where), time.time() - parcel.rests_for()
    manifests = [name for name in _names(where.workdirs) if name.endswith(".json")]
    copies = [where.workdir(name[: -len(".json")]) for name in manifests]
    return [
        path
        for path in copies
        if path not in kept
        and parcel.grew(workdirs.manifest(path)) < young
        and store.job_of(os.path.basename(path).partition("-")[0]) is None
    ]


def _shown(where: ClusterDir) -> Set[str]:
    """Copies that something outside shows now, and those that these show parts of."""
    todo = [workdirs.linked()]
    for name in _names(where.workdirs):
        path = os.path.join(where.workdirs, name)
        target = workdirs.read_manifest(path)["shown_at"]
        if target and os.path.realpath(target) == os.path.join(os.path.realpath(path), parcel.MOUNT):
            todo.append(path)
    kept: Set[str] = set()
    while todo:
        path = todo.pop()
        if path and path not in kept:
            kept.add(path)
            todo += workdirs.read_manifest(path)["shows"]
    return kept


def _in_use(store: Store) -> Set[str]:
    """The folders of unfinished jobs: a job that is run once more has that of another one."""
    return {json.loads(store.spec(job.id)).get("cwd", "") for job in store.jobs(unfinished=True)}


def _names(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _log_folder(where: ClusterDir, job: Job) -> str:
    return where.job_logs(job.id, job.name or "")
