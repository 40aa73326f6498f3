"""Rows and the records that they are. Columns with more than one value are JSON."""

from __future__ import annotations

import functools
import json

from skyq.core.model import Array, Grant, Job, Recovery, Request, TimeLimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Optional, Tuple

COLUMNS = (
    "id, uuid, name, user, state, submitted_at, started_at, ended_at, num_nodes, alternatives, priority, "
    "attempt, alternative, cancel_requested_at, reason, exit_codes, has_setup, cpus_shown, task_id, pids, "
    "grants, setup_on, rev, recovery, failures, losses, awaits, overtaken, after, "
    "held, array, "
    "time_limit"
)
"""Of the table of jobs, in the order of the record's fields."""


def job_of_row(row: Tuple[Any, ...]) -> Job:
    """The one place where a row becomes a record. Columns are in the order of the record's fields."""
    fields = list(row)
    for at, read in _READ_AT:
        fields[at] = read(fields[at])
    return Job._make(fields)


def read(name: str, value: Any) -> Any:
    """A field of a record, of what its column has."""
    return _READ[name](value) if name in _READ else value


@functools.lru_cache(maxsize=4096)
def _flat(text: str) -> Tuple[Any, ...]:
    """Names or codes; nearly always those of many other jobs too, and mostly none."""
    return tuple(json.loads(text))


def _pids(text: str) -> Dict[str, int]:
    return {} if text == "{}" else dict(json.loads(text))


@functools.lru_cache(maxsize=256)
def _recovery(text: str) -> Recovery:
    retries, codes, requeue = json.loads(text)
    return Recovery(retries, tuple(codes), requeue)


@functools.lru_cache(maxsize=256)
def _time_limit(text: str) -> TimeLimit:
    return TimeLimit(*json.loads(text))


@functools.lru_cache(maxsize=4096)
def _alternatives(text: str) -> Tuple[Request, ...]:
    """Equal requests become one object: 10,000 waiting jobs ask for a handful of different things."""
    return tuple(Request(*fields) for fields in json.loads(text))


@functools.lru_cache(maxsize=4096)
def _after(text: str) -> Tuple[Tuple[int, str], ...]:
    return tuple((job_id, kind) for job_id, kind in json.loads(text))


@functools.lru_cache(maxsize=4096)
def _array(text: str) -> Optional[Array]:
    return Array(*json.loads(text)) if text else None


@functools.lru_cache(maxsize=4096)
def _grants(text: str) -> Tuple[Grant, ...]:
    return tuple(
        Grant(node, rank, tuple((device, amount) for device, amount in devices), cpus, memory)
        for node, rank, devices, cpus, memory in json.loads(text)
    )


def dump(value: object) -> str:
    """As JSON, the shortest."""
    return json.dumps(value, separators=(",", ":"))


def _dump_grants(grants: Iterable[Grant]) -> str:
    return dump([[g.node, g.rank, g.devices, g.cpus, g.memory] for g in grants])


_WRITE: Dict[str, Any] = {
    **dict.fromkeys(("pids", "exit_codes", "setup_on", "awaits"), dump),
    "grants": _dump_grants,
}
_READ: Dict[str, Any] = {
    "alternatives": _alternatives,
    **dict.fromkeys(("exit_codes", "setup_on", "awaits"), _flat),
    "has_setup": bool,
    "pids": _pids,
    "grants": _grants,
    "recovery": _recovery,
    "after": _after,
    "array": _array,
    "time_limit": _time_limit,
}
_READ_AT = [(at, _READ[name]) for at, name in enumerate(COLUMNS.split(", ")) if name in _READ]


def written(name: str, value: Any) -> Any:
    """What the column of a field has."""
    return _WRITE[name](value) if name in _WRITE else value
