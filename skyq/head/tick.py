"""One tick: observe → settle → plan → record → act.

Everything up to `record` is one transaction: what was observed is true until the decision is
committed. Only then the nodes are told, and to tell them twice does no harm.
"""

from __future__ import annotations

import time

from skyq.core import schedule, states
from skyq.core.lifecycle import FAILURE, Verdict
from skyq.core.model import Job, Node, Quarantine, Snapshot, Waiting
from skyq.head import overtaking, waits
from skyq.head.board import Board
from skyq.head.nodestate import CONNECTING
from skyq.head.pulls import Pulls
from skyq.store.store import PAUSED, OwedLog, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Set, Tuple


class Acts:
    """What a tick decided and the nodes must be told."""

    def __init__(self) -> None:
        self.start: List[Tuple[int, str]] = []
        """(job, step)"""
        self.go: List[Tuple[int, str]] = []
        self.stop: List[Tuple[int, str]] = []
        self.over: List[int] = []
        self.owed: List[Tuple[Job, str]] = []
        """Steps of attempts that are over now, whose logs are still to be asked for."""
        self.quarantined = False
        """Whether devices went into quarantine."""
        self.ended: List[str] = []
        """Uuids of the jobs that are final now."""
        self.again: List[str] = []
        """Uuids of those of which an attempt is over now, and another one will follow."""


def tick(store: Store, board: Board, nodes: Tuple[Node, ...], away: Set[str], pulls: Pulls) -> Acts:
    """Decide and record. Raises StoreError when that can't be done; then nothing was decided.

    `away`: the nodes that have not told yet that nothing of former attempts runs there.
    """
    acts = Acts()
    with store.transaction():
        board.refresh(store)
        _settle(store, board, acts, pulls)
        _plan(store, board, nodes, away, acts)
        _record_pids(store, board)
        board.ends.keep(store, board.all_ends())
        for source in pulls.paid():
            store.forget_log(source.job_id, source.step, source.attempt)
    return acts


def _settle(store: Store, board: Board, acts: Acts, pulls: Pulls) -> None:
    """Let every job that something happened to take its next step."""
    for job in board.busy():
        verdict = board.verdict(job)
        if verdict.state in (states.PENDING, *states.FINAL):
            verdict = _lock_up(store, board, job, verdict)
            acts.quarantined |= bool(board.stuck(job))
        if verdict.state == states.RUNNING:
            _move(store, board, job, states.RUNNING, started_at=time.time(), reason="")
        elif verdict.state == states.PENDING:
            _put_back(store, board, job, reason=verdict.reason)
        elif verdict.state is not None:
            acts.owed += [(job, step) for step in _remember_logs(store, board, job, pulls)]
            if verdict.again:
                _requeue(store, board, job, verdict)
                acts.again.append(job.uuid)
            else:
                _finish(store, board, job, verdict)
                acts.ended.append(job.uuid)
        acts.start += [(job.id, step) for step in verdict.start]
        acts.go += [(job.id, step) for step in verdict.go if (job.id, step) not in board.going]
        acts.stop += [(job.id, step) for step in verdict.stop if (job.id, step) not in board.stopping]
        if verdict.over and job.id not in board.over:
            acts.over.append(job.id)
    board.dirty.clear()


def _lock_up(store: Store, board: Board, job: Job, verdict: Verdict) -> Verdict:
    """A job ends although processes of it live on, which can't be killed: nobody gets their devices."""
    reason = verdict.reason
    for step, who in board.stuck(job).items():
        node = board.node_of(job, step)
        devices = [device for g in job.grants if step == "run-%d" % g.rank for device, _ in g.devices]
        for device in devices:
            store.quarantine(node, Quarantine(device, job.id, job.attempt, step, time.time(), who))
        reason += "; %s on %s can't be killed" % (who, node)
        if devices:
            reason += ", so device%s %s" % ("s"[: len(devices) - 1], ", ".join(map(str, devices)))
            reason += " is in quarantine" if len(devices) == 1 else " are in quarantine"
    return verdict._replace(reason=reason)


def _put_back(store: Store, board: Board, job: Job, **changes: Any) -> None:
    """Among those that wait, under the same id."""
    unstarted: Dict[str, Any] = {"alternative": None, "grants": (), "setup_on": (), "started_at": None}
    unstarted.update(pids={}, attempt=job.attempt + 1, **changes)
    _move(store, board, job, states.PENDING, **unstarted)


def _requeue(store: Store, board: Board, job: Job, verdict: Verdict) -> None:
    """Keep what this attempt came to, and let the job wait for the next one."""
    assert verdict.state is not None
    pids = board.pids.pop(job.id, job.pids)
    ended = job._replace(
        state=verdict.state, ended_at=time.time(), reason=verdict.reason, exit_codes=verdict.codes, pids=pids
    )
    store.keep_attempt(ended)
    counted = {"failures": job.failures + 1} if verdict.again == FAILURE else {"losses": job.losses + 1}
    reason = "attempt %d: %s" % (job.number, verdict.reason)
    awaits = tuple(sorted(board.lost_on.get(job.id, ())))
    _put_back(store, board, job, reason=reason, awaits=awaits, **counted)


def _remember_logs(store: Store, board: Board, job: Job, pulls: Pulls) -> List[str]:
    """What of its logs isn't here yet shall still come, whoever is killed meanwhile.

    Returns the steps on workers whose logs this process has never asked for, since it only had to stop them.
    """
    unasked = []
    for step in board.phases[job.id]:
        node = board.node_of(job, step)
        known = pulls.knows(job.uuid, job.attempt, step)
        if not known and node in board.nodes and board.nodes[node].reach:
            unasked.append(step)
        elif pulls.complete(job.uuid, job.attempt, step):
            continue
        store.owe_log(OwedLog(job.id, step, node, job.attempt))
    return unasked


def _finish(store: Store, board: Board, job: Job, verdict: Verdict) -> None:
    assert verdict.state is not None
    of = ", in attempt %d" % job.number if job.number > 1 else ""
    _move(
        store,
        board,
        job,
        verdict.state,
        ended_at=time.time(),
        reason=verdict.reason + of,
        exit_codes=verdict.codes,
        pids=board.pids.pop(job.id, job.pids),
    )


def _plan(store: Store, board: Board, nodes: Tuple[Node, ...], away: Set[str], acts: Acts) -> None:
    """Start what fits now."""
    waiting = _free_to_start(store, board, acts) if board.waiting else ()
    if not waiting:
        overtaking.keep(store, None)
        return
    if acts.quarantined:  # just now; of older ones the nodes tell
        quarantined = store.quarantined()
        nodes = tuple(node._replace(quarantined=quarantined.get(node.name, ())) for node in nodes)
    if away:
        # No rank runs twice at once: what a lost node may still run of a job comes to an end first.
        waiting = tuple(job for job in waiting if not away.intersection(board.jobs[job.id].awaits))
    if any(node.unusable == CONNECTING for node in nodes):
        # A setup is for every node; those that can't be had are left out, but not those that soon can.
        waiting = tuple(job for job in waiting if not board.jobs[job.id].has_setup)
    now = time.monotonic()
    waiting = board.overtaken.told(waiting, board.jobs, now)
    snapshot = Snapshot(nodes, board.held(now), waiting, *overtaking.rules(store))
    plan = schedule.plan(snapshot, now)
    overtaking.keep(store, plan.kept.start if plan.kept else None)
    if plan.first_blocked is not None:
        _note_overtaken(
            store, board, plan.first_blocked, board.overtaken.due(plan.first_blocked, plan.overtaken, now)
        )
    for start in plan.starts:
        job = board.jobs[start.job]
        to = states.SETTING_UP if job.has_setup else states.RUNNING
        more: Dict[str, Any] = {"started_at": time.time()}
        if job.has_setup:
            more = {"setup_on": _setup_on(nodes, {grant.node for grant in start.grants})}
        if job.awaits:
            more["awaits"] = ()
        if job.overtaken is not None:
            more["overtaken"] = None
        _move(store, board, job, to, alternative=start.alternative, grants=start.grants, reason="", **more)
        board.may_return.add(job.id)
        acts.start += [(job.id, step) for step in board.verdict(board.jobs[job.id]).start]
    board.dirty.clear()


def _free_to_start(store: Store, board: Board, acts: Acts) -> Tuple[Waiting, ...]:
    """The waiting jobs that nobody holds, and that wait for no other job. Who does in vain is cancelled."""
    while True:
        bound = [board.jobs[job_id] for job_id in sorted(board.bound)]
        stand = waits.standings(store, bound)
        in_vain = [job for job in bound if job.after and stand[job.id].never]
        for job in in_vain:
            _move(store, board, job, states.CANCELLED, ended_at=time.time(), reason=stand[job.id].never)
            acts.ended.append(job.uuid)
        if not in_vain:
            break  # others may have waited for those
    if store.get(PAUSED):
        return ()
    kept = {job.id for job in bound if job.held or not stand[job.id].met}
    return tuple(job for job in board.waiting.values() if job.id not in kept)


def _note_overtaken(store: Store, board: Board, first: Waiting, seconds: Optional[float]) -> None:
    if seconds is not None:
        store.note(first.id, overtaken=seconds)
        board.put(board.jobs[first.id]._replace(overtaken=seconds, rev=store.rev()), store)
        board.rev = store.rev()


def _setup_on(nodes: Tuple[Node, ...], granted: Set[str]) -> Tuple[str, ...]:
    """SkyPilot's setup runs on every node of the cluster; those that can't be had now are left out."""
    return tuple(node.name for node in nodes if node.name in granted or not node.unusable)


def _move(store: Store, board: Board, job: Job, to: str, **changes: object) -> None:
    store.move(job, to, time.time(), **changes)
    moved = job._replace(state=to, rev=store.rev(), **changes)  # type: ignore[arg-type]
    board.put(moved, store)
    board.rev = moved.rev


def _record_pids(store: Store, board: Board) -> None:
    """For the prefixes of the logs: not worth a commit of their own, but they come along with one."""
    for job_id, pids in board.pids.items():
        store.note(job_id, pids=pids)
        board.jobs[job_id] = board.jobs[job_id]._replace(pids=pids)
    board.pids.clear()
    board.rev = max(board.rev, store.rev())
