"""One tick: observe → settle → plan → record → act.

Everything up to `record` is one transaction: what was observed is true until the decision is
committed. Only then the nodes are told, and to tell them twice does no harm.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, Tuple

from skyq.core import schedule, states
from skyq.core.lifecycle import Verdict
from skyq.core.model import Job, Node, Snapshot
from skyq.head.board import Board
from skyq.store.store import Store


class Acts:
    """What a tick decided and the nodes must be told."""

    def __init__(self) -> None:
        self.start: List[Tuple[int, str]] = []
        """(job, step)"""
        self.stop: List[Tuple[int, str]] = []
        self.over: List[int] = []
        self.ended: List[str] = []
        """Uuids of the jobs that are final now."""


def tick(store: Store, board: Board, nodes: Tuple[Node, ...]) -> Acts:
    """Decide and record. Raises StoreError when that can't be done; then nothing was decided."""
    acts = Acts()
    with store.transaction():
        board.refresh(store)
        _settle(store, board, acts)
        _plan(store, board, nodes, acts)
        _record_pids(store, board)
    return acts


def _settle(store: Store, board: Board, acts: Acts) -> None:
    """Let every job that something happened to take its next step."""
    for job in board.busy():
        verdict = board.verdict(job)
        if verdict.state == states.RUNNING:
            _move(store, board, job, states.RUNNING, started_at=time.time(), reason="")
        elif verdict.state == states.PENDING:
            _requeue(store, board, job, verdict.reason)
        elif verdict.state is not None:
            _finish(store, board, job, verdict)
            acts.ended.append(job.uuid)
        acts.start += [(job.id, step) for step in verdict.start]
        acts.stop += [(job.id, step) for step in verdict.stop if (job.id, step) not in board.stopping]
        if verdict.over and job.id not in board.over:
            acts.over.append(job.id)
    board.dirty.clear()


def _requeue(store: Store, board: Board, job: Job, why: str) -> None:
    unstarted: Dict[str, Any] = {"alternative": None, "grants": (), "started_at": None, "pids": {}}
    _move(store, board, job, states.PENDING, reason=why, attempt=job.attempt + 1, **unstarted)


def _finish(store: Store, board: Board, job: Job, verdict: Verdict) -> None:
    assert verdict.state is not None
    _move(
        store,
        board,
        job,
        verdict.state,
        ended_at=time.time(),
        reason=verdict.reason,
        exit_codes=list(verdict.codes),
        pids=board.pids.pop(job.id, job.pids),
    )


def _plan(store: Store, board: Board, nodes: Tuple[Node, ...], acts: Acts) -> None:
    """Start what fits now."""
    if not board.waiting:
        return
    snapshot = Snapshot(nodes, tuple(board.holding.values()), tuple(board.waiting.values()))
    for start in schedule.plan(snapshot, time.monotonic()).starts:
        job = board.jobs[start.job]
        to = states.SETTING_UP if job.has_setup else states.RUNNING
        started = {} if job.has_setup else {"started_at": time.time()}
        _move(store, board, job, to, alternative=start.alternative, grants=start.grants, reason="", **started)
        acts.start += [(job.id, step) for step in board.verdict(board.jobs[job.id]).start]
    board.dirty.clear()


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
