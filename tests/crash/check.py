"""What must be true after a crash and its recovery, by what was seen outside skyq. No process, no clock."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tests.cluster import FINAL


class Row(NamedTuple):
    """A job as the database has it."""

    id: int
    name: str
    state: str
    reason: str
    codes: Sequence[int]


class Expected(NamedTuple):
    """What may have become of one job."""

    ids: Sequence[int]
    """Those that were acknowledged to who submitted it, one each time."""
    required: bool
    """Whether it must be there; else it may."""
    states: Mapping[str, Sequence[int] | None]
    """State → the exit codes that it may have there; None: any."""
    log: str = ""
    """All that it prints; "": anything."""


class Seen(NamedTuple):
    """The world after the recovery."""

    rows: Sequence[Row]
    starts: Mapping[int, int]
    """Job → how often its script said that it began."""
    ends: Sequence[int]
    """Jobs whose scripts said that they came to their end."""
    told: Sequence[str]
    """What scripts found wrong: a lock that was taken, a file that is torn."""
    alive: Sequence[str]
    """Processes of jobs."""
    logs: Mapping[int, str]
    """Job → its log."""
    in_use: Sequence[object]
    """Devices that are still given."""
    integrity: str
    """SQLite's own opinion: ok."""
    files: Sequence[str]
    """Names that nothing will ever remove."""
    said: Mapping[str, str]
    """What users and logs were told, by who said it."""


def violations(seen: Seen, expected: Mapping[str, Expected]) -> list[str]:
    """Sentences about what isn't as it must be."""
    found = [*_rows(seen, expected), *_runs(seen), *seen.told]
    found += ["still alive: " + words for words in seen.alive]
    found += ["a device is still given: %s" % (row,) for row in seen.in_use]
    found += ["nothing will ever remove %s" % name for name in seen.files]
    if seen.integrity != "ok":
        found.append("PRAGMA integrity_check: " + seen.integrity)
    for who, text in seen.said.items():
        if "Traceback" in text or "mistake in skyq" in text:
            found.append("%s shows a mistake in skyq: ...%s" % (who, text[-1500:]))
    return found


def _rows(seen: Seen, expected: Mapping[str, Expected]) -> Iterable[str]:
    by_name: dict[str, list[Row]] = {}
    for row in seen.rows:
        by_name.setdefault(row.name, []).append(row)
    yield from ("%s was never submitted" % name for name in by_name.keys() - expected.keys())
    for name, wanted in expected.items():
        rows = by_name.get(name, [])
        if len(rows) > 1:
            yield "%s is there %d times: %s" % (name, len(rows), rows)
        if not rows and (wanted.required or wanted.ids):
            yield "%s is lost, acknowledged as %s" % (name, list(wanted.ids))
        if len(set(wanted.ids)) > 1:
            yield "%s was acknowledged as %s" % (name, list(wanted.ids))
        for row in rows:
            yield from ("%s: %s" % (name, text) for text in _row(seen, row, wanted))


def _row(seen: Seen, row: Row, wanted: Expected) -> Iterable[str]:
    if wanted.ids and row.id not in wanted.ids:
        yield "it is job %d, and was acknowledged as %s" % (row.id, list(wanted.ids))
    if row.state not in wanted.states:
        yield "it is %s (%s), and may be %s" % (row.state, row.reason, " or ".join(wanted.states))
    elif (codes := wanted.states[row.state]) is not None and list(row.codes) != list(codes):
        yield "it is %s with exit codes %s, not %s" % (row.state, list(row.codes), list(codes))
    if row.state in FINAL and row.state != "SUCCEEDED" and not row.reason:
        yield "it is %s without a reason" % row.state
    came = row.id in seen.ends
    if row.state == "SUCCEEDED" and not came:
        yield "it is SUCCEEDED, and never came to its end"
    if came and wanted.log and seen.logs.get(row.id) != wanted.log:
        yield "its log is %r" % seen.logs.get(row.id)


def _runs(seen: Seen) -> Iterable[str]:
    known = {row.id for row in seen.rows}
    for job, count in seen.starts.items():
        if count > 1:
            yield "job %d ran %d times" % (job, count)
        if job not in known:
            yield "job %d ran, and isn't in the queue" % job
    for job, count in Counter(seen.ends).items():
        if count > 1:
            yield "job %d ended %d times" % (job, count)


def strangers(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The names that no pattern knows, sorted; of a folder and what is in it, the folder."""
    patterns = [re.compile(pattern) for pattern in known]
    found = {name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)}
    return sorted(name for name in found if os.path.dirname(name) not in found)
