"""What the head of a cluster answers: one method per call, whoever asks.

For `local` the command line calls it in its own process; over SSH an agent does, for one call.
"""

from __future__ import annotations

import json
import os
import time

from skyq import __version__
from skyq.core import schedule, states
from skyq.core.accelerators import resources_text
from skyq.core.after import After
from skyq.core.errors import Misfit, SkyqError
from skyq.core.model import Array, Grant, Holding, Job, Node, Request, Snapshot, Task, Waiting
from skyq.core.paths import ClusterDir, attempt_logs, host_word, step_log
from skyq.core.rankenv import task_id
from skyq.core.request import id_range
from skyq.core.versions import order
from skyq.core.words import within
from skyq.head import limits, lookout, overtaking, specs, waits, wake
from skyq.head.nodestate import CONNECTING, ENDING, UNGROUPED, UNREACHABLE
from skyq.store.place import make_private, private_folders
from skyq.store.store import PAUSED, NewJob, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Sequence, Set, Tuple

CLOSING = "closing"
"""The setting that refuses submits while the cluster is being removed."""
NEWEST = "version"
"""The setting that has the newest skyq which was here: an older dispatcher makes room for it."""
ALONE_UNTIL = "alone_until"
"""The setting that has the id of the last job from before a cluster of one node grew."""
NO_END = 1 << 62
_BY_LIMITS = "if all that is before it lasts to its time limit and nothing comes between"
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
        self.store = Store.of(where)
        if not self.store.get("cluster_id"):
            with self.store.transaction():
                if not self.store.get("cluster_id"):
                    self.store.set("cluster_id", os.urandom(16).hex())
        if order(self.store.get(NEWEST)) < order(__version__):
            with self.store.transaction():
                self.store.set(NEWEST, max(self.store.get(NEWEST), __version__, key=order))

    def submit(self, task: Task, user: str, uuid: str, copy: str = "") -> int:
        """The id of the job, of the first one if the task is many; the same for the same uuid. `copy`: its
        own folder, if it has one.

        Raises Misfit when the cluster could never run it, StoreError when it can't be stored; then
        nothing of it is left.
        """
        from skyq.head import workdirs

        self.check(task)
        return self._store(task, user, uuid, copy or workdirs.linked())

    def check(self, task: Task) -> None:
        """Raise Misfit when the cluster could never run the task, SkyqError when it takes none now."""
        self._check(task.num_nodes, task.alternatives)

    def _check(self, num_nodes: int, alternatives: Tuple[Request, ...]) -> None:
        self._refuse_if_closed()
        why = schedule.misfit(self.store.nodes(), num_nodes, alternatives, self.cluster)
        if why:
            raise Misfit(why)

    def forecast(self, task: Task) -> str:
        """Where the task would start now, or what it would wait for. Nothing is submitted."""
        newest = self.store.latest()
        limit = task.time_limit._replace(grace=specs.grace()).most(2 if task.setup is not None else 1)
        waiting = Waiting(
            newest.id + 1 if newest else 1, task.num_nodes, task.alternatives, task.priority, limit=limit
        )
        snapshot = self._snapshot()
        snapshot = snapshot._replace(waiting=(*snapshot.waiting, waiting))
        plan = schedule.plan(snapshot, 0.0)
        for start in plan.starts:
            if start.job == waiting.id:
                return "It would start now, on " + "; ".join(map(grant_text, start.grants)) + "."
        when = self._when(snapshot, waiting.id)
        return "It would wait: %s.%s" % (plan.reason(waiting), " It would start %s." % when if when else "")

    def when(self, job: Job) -> str:
        """By when a waiting job starts, as far as time limits tell: "in 40m if ..."; "": they don't."""
        return self._when(self._snapshot(), job.id) if limits.read(self.store) else ""

    def _when(self, snapshot: Snapshot, job_id: int) -> str:
        if self.store.get(PAUSED) or all(job.id != job_id for job in snapshot.waiting):
            return ""
        from skyq.core.simulate import forecast

        return "in %s %s" % (within(seconds), _BY_LIMITS) if (seconds := forecast(snapshot, job_id)) else ""

    def ends_in(self, job: Job) -> Optional[float]:
        """Seconds until an active job reaches its time limit; None: it has none, or that isn't known now."""
        found = limits.read(self.store).get(job.id)
        return None if found is None else limits.until_limit(job, found)

    def _store(self, task: Task, user: str, uuid: str, cwd: str) -> int:
        new = NewJob(
            uuid=uuid,
            name=task.name,
            user=user,
            submitted_at=time.time(),
            num_nodes=task.num_nodes,
            alternatives=task.alternatives,
            priority=task.priority,
            has_setup=task.setup is not None,
            cpus_shown=task.cpus_shown,
            recovery=task.recovery,
            after=self.after_of(task, user),
            time_limit=task.time_limit._replace(grace=specs.grace()),
            spec=specs.stored(task, cwd),
        )
        return self._insert(_each_of(task, new, cwd) if task.batch else [new], task.secrets)

    def _insert(self, new: Sequence[NewJob], secrets: Dict[str, str]) -> int:
        """The id of the first of these jobs; they are all queued, or none is."""
        wake.ready()  # before they are queued: who fails after that would say that they aren't
        now = new[0].submitted_at
        stamp = time.strftime("%Y-%m-%d-%H-%M-%S", time.localtime(now)) + "-%06d" % (now % 1 * 1e6)
        with self.store.transaction(), specs.saved_secrets(self.where, [n.uuid for n in new], secrets):
            self._refuse_if_closed()
            known = self.store.job_of(new[0].uuid)
            first = known.id if known else self.store.next_id()
            for job_id, each in enumerate(() if known else new, first):
                array = each.array and each.array._replace(first=first)
                own = task_id(stamp, self.cluster, job_id)
                self.store.submit(each._replace(id=job_id, task_id=own, array=array))
        if len(new) == 1:
            self._make_log_folder(first, new[0].name)
        try:
            self.wake()
        except OSError:
            pass  # too many processes: it is in the queue, and the next command or cron starts it
        return first

    def _make_log_folder(self, job_id: int, name: Optional[str]) -> None:
        try:
            private_folders(self.where.job_logs(job_id, name or ""))
        except OSError:
            pass  # the job is in the queue; the dispatcher makes the folder before it starts it

    def check_rerun(self, job: Job) -> None:
        """Raise SkyqError where a job can't be run once more."""
        self._check(job.num_nodes, job.alternatives)
        spec = json.loads(self.store.spec(job.id))
        if spec.get("terminal"):
            text = "Job %d had a terminal, at which somebody has to be. Type `skyq run %s` for another one."
            raise SkyqError(text % (job.id, self.cluster))
        if spec["secrets"]:
            text = "Job %d had secrets (%s), which are gone. Submit it again with `skyq exec`."
            raise SkyqError(text % (job.id, ", ".join(spec["secrets"])))
        if spec.get("cwd") and not os.path.isdir(spec["cwd"]):
            text = "The folder that job %d ran in is gone: %s. Submit it again with `skyq exec`."
            raise SkyqError(text % (job.id, spec["cwd"]))

    def rerun(self, job: Job, user: str, uuid: str) -> int:
        """The id of a new job that does what that one did, in the same folder. See check_rerun()."""
        new = NewJob(
            *(uuid, job.name, user, time.time(), job.num_nodes, job.alternatives, job.priority),
            *(job.has_setup, job.cpus_shown, self.store.spec(job.id), job.recovery),
            time_limit=job.time_limit,
        )
        return self._insert([new], {})

    def after_of(self, task: Task, user: str) -> Tuple[After, ...]:
        """The ids of the jobs that it waits for: of a name the user's newest one. Raises SkyqError."""
        found: Dict[After, None] = {}
        for word, kind in task.after:
            ids = id_range(word)
            if ids is None:
                named = next((job.id for job in self.store.jobs(user) if job.name == word), None)
                there = [] if named is None else [named]
            else:
                there = self.store.ids_between(ids)
            if not there:
                text = "There is no job %s to wait for. Nothing was submitted. See: skyq queue %s -u"
                raise SkyqError(text % (word, self.cluster))
            found.update(((job_id, kind), None) for job_id in there)
        return tuple(found)

    def wake(self) -> None:
        """See to it that somebody works on what is unfinished."""
        wake.wake(self.where, self.cluster)

    def look(self) -> None:
        """What every call does: where there is work, there must be a dispatcher."""
        if self.store.has_unfinished() or self.store.owed_logs():
            self.wake()

    def see_nodes(self, patience: float) -> None:
        """Have a dispatcher look at the workers now, and wait until it knows which can be reached."""
        if not any(node.reach or node.quarantined or self._is_looked_at(node) for node in self.store.nodes()):
            self.look()
            return
        self.wake()
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if wake.knock(self.where) and not self._are_awaited():
                return
            time.sleep(0.02)

    def _are_awaited(self) -> bool:
        """Whether the dispatcher doesn't know of some node yet."""
        nodes = lookout.told(self.store, self.store.nodes())
        unknown = any(not each.who for node in nodes for each in node.strangers)
        return unknown or CONNECTING in self.trouble().values()

    def _is_looked_at(self, node: Node) -> bool:
        """Whether its devices are real ones, of which strangers are told."""
        return any(device.uuid for device in node.devices) and self.store.get(lookout.RULE) != lookout.IGNORE

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
        for node in lookout.told(self.store, self.store.nodes()):
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

    def ungrouped(self) -> Dict[str, str]:
        """Worker → why it has no cgroup for a job, "" where it has one; without those that haven't said."""
        found: Dict[str, str] = json.loads(self.store.get(UNGROUPED) or "{}")
        return found

    def holding(self) -> List[Holding]:
        """What the active jobs hold."""
        return [Holding.of(j) for j in self.store.jobs(unfinished=True) if j.state in states.ACTIVE]

    def reasons(self, jobs: Sequence[Job], complete: bool = False) -> Dict[int, str]:
        """Why each waiting job among these waits; of active ones, which of their nodes can't be reached.

        `complete`: no unfinished job lacks among them, so the store isn't read once more.
        """
        reasons = self._node_troubles(jobs)
        waiting = [job for job in jobs if job.state in states.WAITING]
        if waiting:
            everybody = [j for j in jobs if j.state not in states.FINAL] if complete else None
            found, away = schedule.explain(self._snapshot(everybody), 0.0), self._away()
            paused, stand = self.store.get(PAUSED), waits.standings(self.store, waiting)
            for job in waiting:
                bound = stand[job.id].waits or stand[job.id].never if job.id in stand else ""
                plan = job.held or bound or paused or found.get(job.id, "")
                reasons[job.id] = _why_it_waits(job, plan, away)
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

    def _away(self) -> Set[str]:
        """The nodes that may still run what a former attempt left there."""
        words = UNREACHABLE, CONNECTING, ENDING
        return {name for name, why in self.trouble().items() if why.startswith(words)}

    def _snapshot(self, everybody: Optional[Sequence[Job]] = None) -> Snapshot:
        everybody = everybody or self.store.jobs(unfinished=True)
        away, ends = self._away(), limits.read(self.store)
        stand = waits.standings(self.store, everybody)
        return Snapshot(
            tuple(self.nodes()),
            tuple(
                Holding.of(j)._replace(ends_in=ends.get(j.id)) for j in everybody if j.state in states.ACTIVE
            ),
            tuple(
                Waiting.of(j)
                for j in everybody
                if j.state in states.WAITING
                and not (away.intersection(j.awaits) or j.held)
                and (j.id not in stand or stand[j.id].met)
            ),
            *overtaking.rules(self.store),
        )

    def resources(self, job: Job) -> str:
        """The RESOURCES cell: what it took, or all that it would take."""
        open_ones = job.alternatives if job.alternative is None else (job.alternatives[job.alternative],)
        return resources_text(job.num_nodes, open_ones, job.cpus_shown)

    def log_folder(self, job: Job) -> str:
        """Where the job's logs lie."""
        return self.where.job_logs(job.id, job.name or "")

    def attempt_folder(self, job: Job) -> str:
        """Where those of the attempt lie that this record is of."""
        return attempt_logs(self.log_folder(job), job.number)

    def attempt(self, job: Job, number: int) -> Job:
        """The job as that attempt has it, or had it; `job` itself is the current one."""
        return job if number >= job.number else self.store.attempts(job)[number - 1]

    def step_logs(self, job: Job) -> Dict[str, str]:
        """Step → path of its raw log, in the order of display; the files may not be there yet."""
        nodes = {node.name: node for node in self.store.nodes(former=True)}
        found = {}
        for name in specs.setup_nodes(job):
            if name in nodes:
                found["setup-%d" % nodes[name].index] = nodes[name].index
        for grant in job.grants:
            found["run-%d" % grant.rank] = nodes[grant.node].index if grant.node in nodes else 0
        single, folder = specs.single(job, self.alone_until(), nodes), self.attempt_folder(job)
        return {step: step_log(folder, step, single, host_word(index)) for step, index in found.items()}

    def alone_until(self) -> int:
        """See specs.Cluster."""
        return alone_until(self.store)

    def logs_owed(self, job: Job) -> bool:
        """Whether a part of an ended attempt's logs is still on its way here."""
        return any(owed.attempt == job.attempt for owed in self.store.owed_logs(job.id))

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

    def hold(self, ids: Sequence[int], text: str) -> List[int]:
        """Keep waiting jobs from starting; text "": let them. Returns those that it concerns."""
        concerned: List[int] = []
        with self.store.transaction():
            for job_id in sorted(set(ids)):
                job = self.store.job(job_id)
                if job is not None and job.state in states.WAITING and bool(job.held) != bool(text):
                    self.store.note(job_id, held=text)
                    concerned.append(job_id)
        self.look()
        return concerned

    def pause(self, text: str) -> None:
        """Start nothing any more; text "": go on."""
        with self.store.transaction():
            self.store.set(PAUSED, text)
        self.look()

    def paused(self) -> str:
        """By whom the queue is paused, since when; "": it isn't."""
        return self.store.get(PAUSED)

    def cancel(self, ids: Sequence[int], by: str) -> List[int]:
        """Ask for the end of these jobs; returns those that it concerns, highest first.

        What waits is CANCELLED at once. What is active becomes it when its processes are dead.
        """
        concerned: List[int] = []
        ended: List[str] = []
        with self.store.transaction():
            for job_id in sorted(set(ids), reverse=True):
                job = self.store.job(job_id)
                if job is None or job.state in states.FINAL:
                    continue
                concerned.append(job_id)
                now, reason = time.time(), "cancelled by %s" % by
                if job.state in states.WAITING:
                    self.store.move(job, states.CANCELLED, now, ended_at=now, reason=reason)
                    ended.append(job.uuid)
                elif job.cancel_requested_at is None:
                    self.store.note(job_id, cancel_requested_at=now, reason=reason)
        for uuid in ended:
            specs.drop_secrets(self.where, uuid)
        if concerned:
            self.look()
        return concerned


def _each_of(task: Task, new: NewJob, cwd: str) -> List[NewJob]:
    """The jobs of a batch."""
    from skyq.core.batch import elements, uuid_of

    assert task.batch is not None
    each = elements(task.batch, task.name)
    array = Array(0, len(each), task.batch.at_once)  # where it begins is known when they are queued
    return [
        new._replace(
            uuid=uuid_of(new.uuid, place),
            name=one.name,
            array=array,
            spec=specs.stored(task._replace(envs={**task.envs, **one.envs}), cwd, one.facts),
        )
        for place, one in enumerate(each)
    ]


def alone_until(store: Store) -> int:
    """See specs.Cluster."""
    return NO_END if store.ever_alone() else int(store.get(ALONE_UNTIL) or 0)


def _why_it_waits(job: Job, plan: str, away: Set[str]) -> str:
    """`plan`: what the plan says. A job that was put back tells that first."""
    held = sorted(away.intersection(job.awaits))
    if held:
        return "%s; the next one waits until nothing can run on %s" % (job.reason, ", ".join(held))
    return "; ".join(why for why in (job.reason, plan) if why) if job.number > 1 else job.reason or plan


def grant_text(grant: Grant) -> str:
    """Where a rank is, and what it has: "node1 (devices 2, 3)"."""
    devices = ", ".join(str(index) for index, _ in grant.devices)
    if not devices:
        return grant.node + " (no device)"
    return "%s (device%s %s)" % (grant.node, "s" if len(grant.devices) > 1 else "", devices)
