"""What the dispatcher knows: the unfinished jobs as the store has them, and how their steps stand.

All of it can be had again: jobs from the store, phases by asking the nodes.
"""

from __future__ import annotations

import json

from skyq.core import states
from skyq.core.lifecycle import EXITED, GONE, LIVE, PREPARED, Course, Phase, Verdict, next_verdict
from skyq.core.logtext import plain
from skyq.core.model import Holding, Job, Node, Waiting
from skyq.core.protocol import UNKNOWN, Message
from skyq.head import specs
from skyq.head.limits import Ends
from skyq.head.overtaking import Watch
from skyq.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Sequence, Set, Tuple


class Board:
    """Unfinished jobs by id, and the phases of the steps of the active ones."""

    def __init__(self) -> None:
        self.rev = 0
        self.jobs: Dict[int, Job] = {}
        self.waiting: Dict[int, Waiting] = {}
        self.bound: Set[int] = set()
        """Those of them that are held, or wait for other jobs."""
        self.holding: Dict[int, Holding] = {}
        self.phases: Dict[int, Dict[str, Phase]] = {}
        self.stopping: Set[Tuple[int, str]] = set()
        """Steps that were told to stop, on a connection that still lives."""
        self.over: Set[int] = set()
        """Jobs whose leftovers were told to go."""
        self.going: Set[Tuple[int, str]] = set()
        """Prepared steps that were told to run, on a connection that still lives."""
        self.may_return: Set[int] = set()
        """Jobs planned here of which no step was ever told to run: they may wait again."""
        self.lost_on: Dict[int, Set[str]] = {}
        """Nodes that are taken for lost with what they ran of a job: it may still live there."""
        self.nodes: Dict[str, Node] = {}
        """The cluster's, in its order."""
        self.overtaken = Watch()
        self.ends = Ends()
        self.dirty: Set[int] = set()
        """Active jobs that may have something to do."""
        self.pids: Dict[int, Dict[str, int]] = {}
        """Learnt since the last commit."""
        self.specs: Dict[int, Message] = {}
        self._ids: Dict[str, int] = {}

    def refresh(self, store: Store) -> None:
        """See what changed in the store."""
        for job in store.changes(self.rev):
            self.rev = job.rev
            self.put(job, store)
        self.rev = max(self.rev, store.rev())

    def put(self, job: Job, store: Store) -> None:
        """One job as it is now."""
        self.waiting.pop(job.id, None)
        self.bound.discard(job.id)
        self.holding.pop(job.id, None)
        if job.state not in states.WAITING:
            self.overtaken.forget(job.id)
        if job.state in states.FINAL:
            self._forget(job)
            return
        self.jobs[job.id] = job
        self._ids[job.uuid] = job.id
        if job.state in states.WAITING:
            self._forget_steps(job)
            if job.cancel_requested_at is None:
                self.waiting[job.id] = Waiting.of(job)
                if job.held or job.after:
                    self.bound.add(job.id)
            return
        self.holding[job.id] = Holding.of(job)
        self.phases.setdefault(job.id, {})
        if job.id not in self.specs:
            self.specs[job.id] = json.loads(store.spec(job.id))
        self.dirty.add(job.id)

    def _forget(self, job: Job) -> None:
        for table in (self.jobs, self.specs):
            table.pop(job.id, None)
        self._ids.pop(job.uuid, None)
        self._forget_steps(job)

    def _forget_steps(self, job: Job) -> None:
        """What the nodes told of an attempt that is over."""
        self.phases.pop(job.id, None)
        self.pids.pop(job.id, None)
        self.over.discard(job.id)
        self.dirty.discard(job.id)
        self.may_return.discard(job.id)
        self.lost_on.pop(job.id, None)
        self.ends.forget(job.id)
        self._forget_words(job.id)

    def _forget_words(self, job_id: int) -> None:
        """What steps of a job were told."""
        if self.stopping or self.going:
            self.stopping = {entry for entry in self.stopping if entry[0] != job_id}
            self.going = {entry for entry in self.going if entry[0] != job_id}

    def node_of(self, job: Job, step: str) -> str:
        """The node that runs a step."""
        return specs.node_of(job, step, self.nodes)

    def steps_on(self, job: Job, node: str) -> List[str]:
        """The steps of an active job that a node runs or is to run."""
        setups, runs = specs.step_names(job, self.specs[job.id], self.nodes)
        return [step for step in (*setups, *runs) if self.node_of(job, step) == node]

    def hear(self, node: str, message: Message, now: float = 0.0) -> None:
        """A node told how a step stands. What concerns another attempt, or no job, is stale; of what another
        node runs it has nothing to tell. `now`: monotonic.
        """
        job = self.jobs.get(self._ids.get(message["job"], 0))
        if job is None or job.attempt != message["attempt"] or job.state not in states.ACTIVE:
            return
        step = message["step"]
        phases = self.phases[job.id]
        # What was concluded stays, too: a node that was given up only ends what it still has.
        if step not in self.steps_on(job, node) or phases.get(step, Phase()).at == GONE:
            return
        what = message["is"]
        if "pid" in message:
            self.pids.setdefault(job.id, dict(job.pids))[step] = message["pid"]
        if what == "late":
            phases.pop(step, None)
            self.going.discard((job.id, step))  # it was that word, maybe
        elif what == "prepared":
            if phases.get(step, Phase()).at < PREPARED:
                phases[step] = Phase(PREPARED)
        elif what == "running":
            self._runs(job, message, now)
            return  # nothing to decide
        elif what in ("exited", "gone"):
            phases[step] = self._ended(job, message)
        self.dirty.add(job.id)

    def _runs(self, job: Job, message: Message, now: float) -> None:
        step, phases = message["step"], self.phases[job.id]
        if phases.get(step, Phase()).at < LIVE:
            phases[step] = Phase(LIVE)
        if "left" in message and job.time_limit.seconds:
            self.ends.told(job.id, step, now + min(message["left"], job.time_limit.seconds))

    def _ended(self, job: Job, message: Message) -> Phase:
        why, unstarted = plain(message.get("why", "")[:500]), bool(message.get("unstarted"))
        return Phase(
            GONE if message["is"] == "gone" else EXITED,
            message["code"],
            bool(message.get("stopped")),
            self.where(self.node_of(job, message["step"]), why) if unstarted and why else why,
            unstarted,
            _pids_text(message.get("stuck", ())),
            bool(message.get("expired")),
        )

    def where(self, node: str, why: str) -> str:
        """With the node's name, if there are others."""
        return "%s: %s" % (node, why) if len(self.nodes) > 1 else why

    def ask_again(self, node: str) -> None:
        """A connection broke or came up: what the node was asked may not have reached it."""
        for job_id, phases in self.phases.items():
            job = self.jobs.get(job_id)
            if job is None:
                continue  # not read again yet after a failed transaction: it will be asked about then
            reached = [s for s, each in phases.items() if each.at < GONE and self.node_of(job, s) == node]
            for step in reached:
                del phases[step]
                self.ends.forget(job_id, step)
            self._forget_words(job_id)
            self.over.discard(job_id)
            self.dirty.add(job_id)

    def wants(self, job: Job, step: str) -> bool:
        """Whether a step of that job shall go on, of which a node says that it has something."""
        phase = self.phases.get(job.id, {}).get(step, Phase())
        return job.state in states.ACTIVE and phase.at < GONE

    def give_up(self, node: str, why: str) -> None:
        """Its jobs that surely haven't started may wait again. What it has of them never starts: see HOLD."""
        for job_id in sorted(self.may_return):
            self._lose(self.jobs[job_id], node, Phase(GONE, UNKNOWN, why=why, unstarted=True))

    def lose(self, node: str, why: str, alone: bool = False) -> None:
        """What it ran together with others is lost: the rest ends. What it ran alone waits for it, but for
        `alone`.
        """
        for job in list(self.jobs.values()):
            if job.state in states.ACTIVE and (alone or set(self._nodes_now(job)) - {node}):
                self._lose(job, node, Phase(GONE, UNKNOWN, why=why))
                self.lost_on.setdefault(job.id, set()).add(node)

    def _nodes_now(self, job: Job) -> List[str]:
        if job.state == states.SETTING_UP:
            return list(specs.setup_nodes(job))
        return [grant.node for grant in job.grants]

    def _lose(self, job: Job, node: str, phase: Phase) -> None:
        phases, kind = self.phases[job.id], "setup" if job.state == states.SETTING_UP else "run"
        for step in self.steps_on(job, node):
            if step.startswith(kind) and phases.get(step, Phase()).at < GONE:
                phases[step] = phase
                self.dirty.add(job.id)

    def verdict(self, job: Job) -> Verdict:
        """What to do about an active job."""
        setups, runs = specs.step_names(job, self.specs[job.id], self.nodes)
        cancel = job.reason if job.cancel_requested_at is not None else ""
        course = Course(
            *(job.state, setups, runs, cancel, job.recovery, job.failures, job.losses),
            job.time_limit.seconds,
        )
        return next_verdict(course, self.phases[job.id])

    def all_ends(self) -> Dict[int, float]:
        """When the active jobs have surely ended, of those of which that is known; monotonic."""
        found = {}
        for job_id in self.ends:
            job = self.jobs[job_id]
            setups, runs = specs.step_names(job, self.specs[job_id], self.nodes)
            steps = setups if job.state == states.SETTING_UP else runs
            phases = self.phases[job_id]
            at = self.ends.surely(job, [step for step in steps if phases.get(step, Phase()).at < EXITED])
            if at is not None:
                found[job_id] = at
        return found

    def held(self, now: float) -> Tuple[Holding, ...]:
        """What the active jobs hold, for a plan."""
        ends = self.all_ends()
        return tuple(
            job._replace(ends_in=max(0.0, ends[job_id] - now)) if job_id in ends else job
            for job_id, job in self.holding.items()
        )

    def stuck(self, job: Job) -> Dict[str, str]:
        """Step → what of it can't be killed."""
        return {step: phase.stuck for step, phase in self.phases.get(job.id, {}).items() if phase.stuck}

    def busy(self) -> List[Job]:
        """The active jobs that may have something to do, by id."""
        return [self.jobs[job_id] for job_id in sorted(self.dirty)]


def _pids_text(stuck: Sequence[Tuple[int, str]]) -> str:
    """ "pids 4711 (python), 4712 (python)" of what a node names as stuck."""
    if not stuck:
        return ""
    them = ", ".join("%d (%s)" % (pid, name) for pid, name in stuck)
    return plain("pid%s %s" % ("" if len(stuck) == 1 else "s", them))[:300]
