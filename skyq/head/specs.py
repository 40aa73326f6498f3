"""What is stored of a task to run it later, and what a node is told to run one step of it.

Secret values never reach the database: they wait in a file of their own (0600, in a 0700 folder)
until the job has ended.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import contextmanager

from skyq.core import rankenv, states
from skyq.core.errors import StoreError, UsageError
from skyq.core.model import Device, Job, Node, Task
from skyq.core.paths import ClusterDir, attempt_logs, host_word, step_log
from skyq.core.protocol import Message
from skyq.core.typed import NamedTuple
from skyq.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, List, Mapping, Optional, Sequence

GRACE = 30.0  # seconds between TERM and KILL at a cancel; SkyPilot's
LONGEST_GRACE = 86400  # seconds
SHORTAGE = errno.EMFILE, errno.ENFILE, errno.ENOMEM
VISIT = 60.0  # seconds until somebody has to be at the terminal of a job that has one
HOLD = 60.0  # seconds that a prepared step waits for the word to go; the dispatcher gives up before that


def stored(task: Task, cwd: str = "", facts: Optional[Dict[str, str]] = None) -> str:
    """The spec as the database keeps it. `cwd`: where it runs; "": in ~/sky_workdir, as that is then.
    `facts`: variables of its own, as one of many.
    """
    return json.dumps(
        {
            "setup": task.setup,
            "run": task.run,
            "envs": task.envs,
            "secrets": sorted(task.secrets),
            "cwd": cwd,
            "grace": grace(),
            "facts": facts or {},
            **({"terminal": True} if task.terminal else {}),
        }
    )


def grace() -> float:
    """Seconds between TERM and KILL for what is submitted by this process."""
    text = os.environ.get("SKYQ_GRACE_S", "")
    try:
        seconds = float(text or GRACE)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_GRACE:
        raise UsageError(
            "SKYQ_GRACE_S should be a number of seconds from 0 to %d. Found: %r" % (LONGEST_GRACE, text)
        )
    return seconds


@contextmanager
def saved_secrets(where: ClusterDir, uuids: Sequence[str], secrets: Dict[str, str]) -> Iterator[None]:
    """Around a submit, within its transaction: they are on disk, for this account only, before the jobs are.
    One file, with a name for each job: it is gone when the last one has ended.
    """
    try:
        if secrets:
            _save(where, uuids[0], secrets)
            for uuid in uuids[1:]:
                drop_secrets(where, uuid)  # of the same submit, if that was killed
                os.link(where.secret_file(uuids[0]), where.secret_file(uuid))
        yield
    except BaseException:
        for uuid in uuids if secrets else ():
            drop_secrets(where, uuid)
        raise


def _save(where: ClusterDir, uuid: str, secrets: Dict[str, str]) -> None:
    os.makedirs(where.secrets, mode=0o700, exist_ok=True)
    fd = os.open(where.secret_file(uuid), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(secrets, file)
        file.flush()
        os.fsync(fd)


def drop_secrets(where: ClusterDir, uuid: str) -> None:
    """The job has ended, or was never submitted."""
    try:
        os.unlink(where.secret_file(uuid))
    except OSError:
        pass  # it isn't there, or the next dispatcher tries again


def sweep_secrets(where: ClusterDir, store: Store) -> None:
    """Drop what was left when a submit was killed before its commit, or a dispatcher after a job's end.

    Within a transaction: then no submit is between its secrets and its commit.
    """
    for name in os.listdir(where.secrets) if os.path.isdir(where.secrets) else []:
        uuid = name.partition(".")[0]
        job = store.job_of(uuid)
        if job is None or job.state in states.FINAL:
            drop_secrets(where, uuid)


def _secrets(where: ClusterDir, uuid: str) -> Dict[str, str]:
    """Raises StoreError where they are lost, OSError where that may pass."""
    try:
        with open(where.secret_file(uuid), encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno in SHORTAGE:
            raise
        raise StoreError("The job's secrets can't be read: %s. Submit it again." % error) from error


def step_names(job: Job, spec: Message, nodes: Dict[str, Node]) -> tuple[List[str], List[str]]:
    """(setups, runs) of a job, in cluster and in rank order. A setup is named by its node's index."""
    setups = ["setup-%d" % nodes[name].index for name in setup_nodes(job) if name in nodes]
    return setups, [] if spec["run"] is None else ["run-%d" % g.rank for g in job.grants]


def setup_nodes(job: Job) -> Sequence[str]:
    """The nodes that a job's setup runs on. (Jobs of older versions have it on their only node.)"""
    if not job.has_setup:
        return ()
    return job.setup_on or [grant.node for grant in job.grants[:1]]


def node_of(job: Job, step: str, nodes: Dict[str, Node]) -> str:
    """The node that runs a step; "" where it is no longer one of the cluster."""
    kind, _, number = step.partition("-")
    if kind == "setup":
        return next((node.name for node in nodes.values() if node.index == int(number)), "")
    return next((grant.node for grant in job.grants if grant.rank == int(number)), "")


def in_two_stages(job: Job, nodes: Dict[str, Node]) -> bool:
    """Whether all of its nodes must be ready before any starts.

    One on the head itself needs no such care: what it was asked to start is known when it is asked again.
    """
    names = {*setup_nodes(job), *(grant.node for grant in job.grants)}
    return len(names) > 1 or any(name in nodes and nodes[name].reach for name in names)


class Cluster(NamedTuple):
    """What every step of every job shares."""

    name: str
    where: ClusterDir
    nodes: Dict[str, Node]
    """In cluster order."""
    alone_until: int
    """The last job that was submitted while the cluster had only one node: see single()."""


def single(job: Job, alone_until: int, nodes: Mapping[str, Node]) -> bool:
    """Whether its logs have the names that they have on a cluster of one node."""
    its = {*setup_nodes(job), *(grant.node for grant in job.grants)}
    return job.id <= alone_until and all(name in nodes and nodes[name].index == 0 for name in its)


def step_spec(cluster: Cluster, job: Job, step: str, spec: Message) -> Message:
    """All that a node needs to run one step. Raises StoreError where the job's secrets are lost."""
    from skyq.head import workdirs  # only the dispatcher comes here: no command waits for this

    where, nodes = cluster.where, cluster.nodes
    kind, _, number = step.partition("-")
    grants = sorted(job.grants, key=lambda grant: grant.rank)
    request = job.alternatives[job.alternative or 0]
    facts = rankenv.JobFacts(
        cluster.name,
        job.id,
        job.task_id,
        job.user,
        tuple(nodes[grant.node].ip for grant in grants),
        rankenv.whole_devices(request.amount),
        job.number,
    )
    user_env = dict(spec["envs"])
    if spec["secrets"]:
        user_env.update(_secrets(where, job.uuid))
    user_env.update(spec.get("facts", {}))
    if kind == "setup":
        env = rankenv.setup_env(facts, int(number), [node.ip for node in nodes.values()], user_env)
    else:
        grant = grants[int(number)]
        known = {device.index: device for device in nodes[grant.node].devices}
        devices = [known.get(index, Device(index, "")) for index, _ in grant.devices]
        env = rankenv.run_env(facts, int(number), devices, user_env)
    node = nodes[node_of(job, step, nodes)]
    return {
        "script": spec[kind],
        "env": env,
        "cwd": "" if node.reach else spec.get("cwd", ""),
        "copy": (workdirs.copies_of(where, spec.get("cwd", "")) or [""])[0] if node.reach else "",
        "log": "" if node.reach else log_path(cluster, job, step),
        "grace": spec["grace"],
        "linger": kind == "setup" or len(grants) > 1,
        "hold": HOLD if in_two_stages(job, nodes) else 0.0,
        "limit": job.time_limit.seconds,
        "signal": job.time_limit.signal if kind == "run" else "",
        "before": job.time_limit.before,
        **({"terminal": VISIT} if spec.get("terminal") else {}),
    }


def known_step(why: str) -> Message:
    """To ask a node for a step that it may have, and shall not start: then it says why.

    A node whose skyq is older starts nothing either, as there is no such copy.
    """
    return {"never": why, "copy": "none"}


def log_path(cluster: Cluster, job: Job, step: str) -> str:
    """Where the raw log of a step is, or comes to, on the head. Makes the folder for it."""
    node = cluster.nodes[node_of(job, step, cluster.nodes)]
    folder = attempt_logs(cluster.where.job_logs(job.id, job.name or ""), job.number)
    path = step_log(folder, step, single(job, cluster.alone_until, cluster.nodes), host_word(node.index))
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return path
