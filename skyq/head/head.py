"""What the head of a cluster answers: one method per call, whoever asks.

For `local` the command line calls it in its own process; over SSH an agent does, for one call.
"""

from __future__ import annotations

import json
import os
import time
from typing import Dict, List, Optional, Sequence

from skyq import __version__
from skyq.core import schedule, states
from skyq.core.accelerators import resources_text
from skyq.core.errors import Misfit, SkyqError
from skyq.core.model import Grant, Holding, Job, Node, Snapshot, Task, Waiting
from skyq.core.paths import ClusterDir, host_word, step_log
from skyq.core.rankenv import task_id
from skyq.core.versions import order
from skyq.head import specs, wake, workdirs
from skyq.head.links import CONNECTING, UNREACHABLE
from skyq.store.place import make_private, private_folders
from skyq.store.store import NewJob, Store

CLOSING = "closing"
"""The setting that refuses submits while the cluster is being removed."""
NEWEST = "version"
"""The setting that has the newest skyq which was here: an older dispatcher makes room for it."""
ALONE_UNTIL = "alone_until"
"""The setting that has the id of the last job from before a cluster of one node grew."""
NO_END = 1 << 62
_CLOSED = (
    "Cluster '%s' is being removed by `skyq down`: it takes no jobs. Submit again when that has ended.\n"
    "If it was interrupted, type it again: `skyq down %s` goes on, or takes it back if you answer no."
)


class Head:
    """One cluster's head, on this machine."""

    def __init__(self, where: ClusterDir, cluster: str) -> None:
        self.where = where
        self.cluster = cluster
        make_private(where.root)
        self.store = Store.open(where.database)
        if not self.store.get("cluster_id"):
            with self.store.transaction():
                if not self.store.get("cluster_id"):
                    self.store.set("cluster_id", os.urandom(16).hex())
        if order(self.store.get(NEWEST)) < order(__version__):
            with self.store.transaction():
                self.store.set(NEWEST, max(self.store.get(NEWEST), __version__, key=order))

    def submit(self, task: Task, user: str, uuid: str, copy: str = "") -> int:
        """The id of the job; the same one for the same uuid. `copy`: its own folder, if it has one.

        Raises Misfit when the cluster could never run it, StoreError when it can't be stored; then
        nothing of it is left.
        """
        self.check(task)
        wake.ready()  # before the job is queued: who fails after that would say that it isn't
        job_id = self._store(task, user, uuid, copy or workdirs.linked())
        try:
            self.wake()
        except OSError:
            pass  # too many processes: it is in the queue, and the next command or cron starts it
        return job_id

    def check(self, task: Task) -> None:
        """Raise Misfit when the cluster could never run the task, SkyqError when it takes none now."""
        self._refuse_if_closed()
        why = schedule.misfit(self.store.nodes(), task.num_nodes, task.alternatives, self.cluster)
        if why:
            raise Misfit(why)

    def forecast(self, task: Task) -> str:
        """Where the task would start now, or what it would wait for. Nothing is submitted."""
        newest = self.store.latest()
        waiting = Waiting(newest.id + 1 if newest else 1, task.num_nodes, task.alternatives, task.priority)
        snapshot = self._snapshot()
        snapshot = snapshot._replace(waiting=(*snapshot.waiting, waiting))
        plan = schedule.plan(snapshot, 0.0)
        for start in plan.starts:
            if start.job == waiting.id:
                return "It would start now, on " + "; ".join(map(_grant_text, start.grants)) + "."
        return "It would wait: %s." % plan.reason(waiting)

    def _store(self, task: Task, user: str, uuid: str, cwd: str) -> int:
        now = time.time()
        new = NewJob(
            uuid=uuid,
            name=task.name,
            user=user,
            submitted_at=now,
            num_nodes=task.num_nodes,
            alternatives=task.alternatives,
            priority=task.priority,
            has_setup=task.setup is not None,
            cpus_shown=task.cpus_shown,
            spec=specs.stored(task, cwd),
        )
        with self.store.transaction(), specs.saved_secrets(self.where, uuid, task.secrets):
            self._refuse_if_closed()
            job_id = self.store.submit(new)
            stamp = time.strftime("%Y-%m-%d-%H-%M-%S", time.localtime(now)) + "-%06d" % (now % 1 * 1e6)
            self.store.note(job_id, task_id=task_id(stamp, self.cluster, job_id))
        try:
            private_folders(self.where.job_logs(job_id, task.name or ""))
        except OSError:
            pass  # the job is in the queue; the dispatcher makes the folder before it starts it
        return job_id

    def wake(self) -> None:
        """See to it that somebody works on what is unfinished."""
        wake.wake(self.where, self.cluster)

    def look(self) -> None:
        """What every call does: where there is work, there must be a dispatcher."""
        if self.store.has_unfinished() or self.store.owed_logs():
            self.wake()

    def see_nodes(self, patience: float) -> None:
        """Have a dispatcher look at the workers now, and wait until it knows which can be reached."""
        if not any(node.reach for node in self.store.nodes()):
            self.look()
            return
        self.wake()
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if wake.knock(self.where) and CONNECTING not in self.trouble().values():
                return
            time.sleep(0.02)

    # Questions.

    def job(self, job_id: int) -> Optional[Job]:
        """One job, or None."""
        return self.store.job(job_id)

    def latest(self, user: Optional[str] = None, state: Optional[str] = None) -> Optional[Job]:
        """The job with the highest id."""
        return self.store.latest(user, state)

    def jobs(self, user: Optional[str], unfinished: bool) -> List[Job]:
        """Highest id first; of one user, or of all."""
        return self.store.jobs(user, unfinished)

    def nodes(self) -> Sequence[Node]:
        """In cluster order, each with what the dispatcher knows to be wrong with it."""
        trouble = self.trouble()
        found = []
        for node in self.store.nodes():
            whys = [why for why in (node.unusable, trouble.get(node.name)) if why]
            found.append(node._replace(unusable="; ".join(whys)))
        return found

    def all_nodes(self) -> Sequence[Node]:
        """Also those that were removed: old jobs ran there."""
        return self.store.nodes(former=True)

    def trouble(self) -> Dict[str, str]:
        """Node → why the dispatcher can't use it now."""
        found: Dict[str, str] = json.loads(self.store.get("trouble") or "{}")
        return found

    def holding(self) -> List[Holding]:
        """What the active jobs hold."""
        return [Holding(j.id, j.grants) for j in self.store.jobs(unfinished=True) if j.state in states.ACTIVE]

    def reasons(self, jobs: Sequence[Job]) -> Dict[int, str]:
        """Why each waiting job among these waits; of active ones, which of their nodes can't be reached."""
        reasons = self._node_troubles(jobs)
        waiting = [job for job in jobs if job.state in states.WAITING]
        if waiting:
            found = schedule.explain(self._snapshot(), 0.0)
            reasons.update({job.id: job.reason or found.get(job.id, "") for job in waiting})
        return reasons

    def _node_troubles(self, jobs: Sequence[Job]) -> Dict[int, str]:
        """Which of the active jobs' nodes can't be reached now: what is shown of those jobs may be old."""
        bad = {name: why for name, why in self.trouble().items() if why.startswith(UNREACHABLE)}
        found: Dict[int, str] = {}
        for job in jobs if bad else ():
            if job.state in states.ACTIVE:
                names = {*specs.setup_nodes(job), *(grant.node for grant in job.grants)}
                troubles = ["%s is %s" % (name, bad[name]) for name in sorted(names) if name in bad]
                if troubles:
                    found[job.id] = "; ".join(troubles)
        return found

    def _snapshot(self) -> Snapshot:
        everybody = self.store.jobs(unfinished=True)
        return Snapshot(
            tuple(self.nodes()),
            tuple(Holding(j.id, j.grants) for j in everybody if j.state in states.ACTIVE),
            tuple(
                Waiting(j.id, j.num_nodes, j.alternatives, j.priority)
                for j in everybody
                if j.state in states.WAITING
            ),
        )

    def resources(self, job: Job) -> str:
        """The RESOURCES cell: what it took, or all that it would take."""
        open_ones = job.alternatives if job.alternative is None else (job.alternatives[job.alternative],)
        return resources_text(job.num_nodes, open_ones, job.cpus_shown)

    def log_folder(self, job: Job) -> str:
        """Where the job's logs lie."""
        return self.where.job_logs(job.id, job.name or "")

    def step_logs(self, job: Job) -> Dict[str, str]:
        """Step → path of its raw log, in the order of display; the files may not be there yet."""
        nodes = {node.name: node for node in self.store.nodes(former=True)}
        found = {}
        for name in specs.setup_nodes(job):
            if name in nodes:
                found["setup-%d" % nodes[name].index] = nodes[name].index
        for grant in job.grants:
            found["run-%d" % grant.rank] = nodes[grant.node].index if grant.node in nodes else 0
        single, folder = specs.single(job, self.alone_until(), nodes), self.log_folder(job)
        return {step: step_log(folder, step, single, host_word(index)) for step, index in found.items()}

    def alone_until(self) -> int:
        """See specs.Cluster."""
        return alone_until(self.store)

    def logs_owed(self, job: Job) -> bool:
        """Whether a part of an ended job's logs is still on its way here."""
        return bool(self.store.owed_logs(job.id))

    # Orders.

    def set_closed(self, closed: bool) -> None:
        """Refuse submits from now on, or take them again. Each one is before this or after it, as a whole."""
        with self.store.transaction():
            self.store.set(CLOSING, "yes" if closed else "")

    def _refuse_if_closed(self) -> None:
        if self.is_closed():
            raise SkyqError(_CLOSED % (self.cluster, self.cluster))

    def is_closed(self) -> bool:
        """Whether submits are refused."""
        return bool(self.store.get(CLOSING))

    def note_growth(self) -> None:
        """A cluster is about to have more nodes: remember which jobs' logs are named as on one of a single
        node. Within a transaction.
        """
        if self.store.ever_alone():
            newest = self.store.latest()
            self.store.set(ALONE_UNTIL, str(newest.id if newest else 0))

    def cancel(self, ids: Sequence[int], by: str) -> List[int]:
        """Ask for the end of these jobs; returns those that it concerns, highest first.

        What waits is CANCELLED at once. What is active becomes it when its processes are dead.
        """
        concerned: List[int] = []
        with self.store.transaction():
            for job_id in sorted(set(ids), reverse=True):
                job = self.store.job(job_id)
                if job is None or job.state in states.FINAL:
                    continue
                concerned.append(job_id)
                now, reason = time.time(), "cancelled by %s" % by
                if job.state in states.WAITING:
                    self.store.move(job, states.CANCELLED, now, ended_at=now, reason=reason)
                    specs.drop_secrets(self.where, job.uuid)
                elif job.cancel_requested_at is None:
                    self.store.note(job_id, cancel_requested_at=now, reason=reason)
        if concerned:
            self.look()
        return concerned


def alone_until(store: Store) -> int:
    """See specs.Cluster."""
    return NO_END if store.ever_alone() else int(store.get(ALONE_UNTIL) or 0)


def _grant_text(grant: Grant) -> str:
    devices = ", ".join(str(index) for index, _ in grant.devices)
    if not devices:
        return grant.node + " (no device)"
    return "%s (device%s %s)" % (grant.node, "s" if len(grant.devices) > 1 else "", devices)
