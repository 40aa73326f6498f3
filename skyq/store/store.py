"""The queue: jobs, nodes and events of one cluster in SQLite. The one module that knows SQL.

Commits are durable (synchronous=FULL). Every change of a job gives its row a new `rev`, so that a
reader which remembers the last one sees what came after it, and nothing else.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import contextmanager

from skyq.core import states
from skyq.core.errors import StoreError
from skyq.core.model import Array, Device, Grant, Job, Node, Quarantine, Reach, Recovery, Request, TimeLimit
from skyq.core.paths import ClusterDir
from skyq.core.typed import NamedTuple
from skyq.store import schema
from skyq.store.journal import Entry, Journal
from skyq.store.place import refuse_planted
from skyq.store.rows import COLUMNS, dump, job_of_row, read, written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

BUSY_TIMEOUT = 60.0  # seconds; a transaction lasts milliseconds, so whoever waits longer has a bug to report

_OF_ATTEMPT = (
    *("state", "attempt", "alternative", "started_at", "ended_at", "reason", "exit_codes", "pids"),
    *("grants", "setup_on", "failures", "losses", "awaits"),
)
"""What of a job was different in an attempt that is over."""
PAUSED = "paused"
"""The setting that lets nothing start: by whom, since when."""
_WHOLE = ("nodes", "meta", "owed_logs", "quarantine")
"""Small tables: the journal has all of one where anything of it changed."""
_PASSING = frozenset({"trouble", "since", "node_seen", "ungrouped", "ends", "strangers_seen"})
"""Settings that change often, and are found out again by themselves."""
_UNFINISHED = "state IN ('PENDING', 'SETTING_UP', 'RUNNING')"


class NewJob(NamedTuple):
    """What a submit brings."""

    uuid: str
    name: Optional[str]
    user: str
    submitted_at: float
    num_nodes: int
    alternatives: Tuple[Request, ...]
    priority: int
    has_setup: bool
    cpus_shown: str
    spec: str
    """JSON; opaque here."""
    recovery: Recovery = Recovery()
    after: Tuple[Tuple[int, str], ...] = ()
    id: Optional[int] = None
    """Of one that is submitted with others; None: the next one."""
    array: Optional[Array] = None
    task_id: str = ""
    time_limit: TimeLimit = TimeLimit()


class OwedLog(NamedTuple):
    """The log of a step on a worker, whose end the head lacks although the attempt has ended."""

    job_id: int
    step: str
    node: str
    attempt: int


class Store:
    """One open database. Not for use by several threads."""

    def __init__(self, path: str, db: sqlite3.Connection, journal: Journal) -> None:
        self.path = path
        self._db = db
        self._journal = journal
        self._touched: Dict[str, Set[Any]] = {}
        """Table → keys of the rows that this transaction has changed, for the journal."""

    @classmethod
    def of(cls, where: ClusterDir) -> Store:
        """That of a cluster, on its head. See open()."""
        return cls.open(where.database, where.journal)

    @classmethod
    def open(cls, path: str, journal: str = "") -> Store:
        """Open the database, making it if there is neither it nor a journal of it. "": no journal is kept.

        Raises StoreError when the disk is full, the file is damaged or gone, or a newer skyq made it.
        """
        kept = Journal(path, journal)
        had_jobs = kept.exists()  # asked first: a database that is made meanwhile is there before its journal
        with _told(path):
            refuse_planted(os.path.dirname(path))
            if not os.path.exists(path):
                if had_jobs:
                    raise _lost(path, "is gone")
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            refuse_planted(os.path.dirname(path))
            db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and had_jobs:
                raise _lost(path, "is empty")
            if version == 0:
                schema.create(db, BUSY_TIMEOUT)
            elif version > schema.VERSION:
                raise StoreError(
                    "%s was made by a newer skyq. Use that one (its schema is %d, this one knows %d)."
                    % (path, version, schema.VERSION)
                )
            elif version < schema.VERSION:
                schema.upgrade(db)
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
        return cls(path, db, kept)

    def close(self) -> None:
        """Done with it."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable when it ends; what is read within stays true until then."""
        with _told(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            self._touched.clear()
            before = None
            try:
                yield
                if self._journal.path:
                    before = self._journal.append(self._changed())
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    if before is not None:
                        self._journal.cut(before)
                    self._db.execute("ROLLBACK")

    # The journal.

    def _touch(self, table: str, key: Any = None) -> None:
        self._touched.setdefault(table, set()).add(key)

    def _changed(self) -> Iterator[Entry]:
        """What the transaction has changed, for the journal."""
        for key in sorted(self._touched.get("jobs", ())):
            yield from (("jobs", row) for row in self._rows("jobs", COLUMNS, "id = ?", key))
        for key in sorted(self._touched.get("spec", ())):
            yield "spec", [key, self.spec(key)]
        for key in sorted(self._touched.get("attempts", ())):
            yield from (
                ("attempts", row) for row in self._rows("attempts", "*", "(job_id, number) = (?, ?)", *key)
            )
        yield from ((table, list(self._rows(table, "*"))) for table in _WHOLE if table in self._touched)

    def _everything(self) -> Iterator[Entry]:
        yield from ((table, list(self._rows(table, "*"))) for table in _WHOLE)
        yield from (("spec", list(row)) for row in self._db.execute("SELECT id, spec FROM jobs ORDER BY id"))
        yield from (("attempts", row) for row in self._rows("attempts", "*"))
        yield from (("jobs", row) for row in self._rows("jobs", COLUMNS, "1 ORDER BY rev"))

    def _rows(self, table: str, columns: str, where: str = "1", *values: Any) -> Iterator[Dict[str, Any]]:
        found = self._db.execute("SELECT %s FROM %s WHERE %s" % (columns, table, where), values)
        names = [column[0] for column in found.description]
        return (dict(zip(names, row)) for row in found)

    def see_to_journal(self) -> None:
        """Begin it anew where it lacks something, or has become long."""
        with self.transaction(), _told(self.path):
            if self._journal.is_behind(self.rev()):
                self._journal.replace(self._everything())

    def damage(self) -> str:
        """What SQLite finds to be wrong; "": nothing."""
        with _told(self.path):
            found = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check(1)")]
        return "" if found == ["ok"] else "; ".join(found)

    def restore(self, told: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Fill an empty database with rows by table; devices are in use where active jobs have them."""
        with self.transaction():
            for table in ("meta", "nodes", "jobs", "attempts", "owed_logs"):
                self._fill(table, told[table])
            for job in sorted(self.jobs(unfinished=True), key=lambda job: -job.rev):
                if job.state in states.ACTIVE:
                    self._hold_again(job)
            self._fill("quarantine", told["quarantine"])  # who has a share of such a device keeps it

    def _fill(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        known = [str(row[1]) for row in self._db.execute("PRAGMA table_info(%s)" % table)]
        self._db.execute("DELETE FROM " + table)
        for row in rows:
            self._insert(table, {name: value for name, value in row.items() if name in known})

    def _hold_again(self, job: Job) -> None:
        try:
            self._use_devices(job.id, job.grants)
        except sqlite3.IntegrityError:
            # Written down, and not committed: another job got the device. Its nodes end what they have of it.
            self._db.execute("DELETE FROM device_use WHERE job_id = ?", (job.id,))
            self._update(job.id, "", (), state=states.PENDING, attempt=job.attempt + 1, grants=(), pids={})

    # Jobs, read.

    def job(self, job_id: int) -> Optional[Job]:
        """One job, or None."""
        return next(iter(self._jobs("id = ?", job_id)), None)

    def job_of(self, uuid: str) -> Optional[Job]:
        """The job of that submit, or None."""
        return next(iter(self._jobs("uuid = ?", uuid)), None)

    def jobs(self, user: Optional[str] = None, unfinished: bool = False) -> List[Job]:
        """By id, highest first; of one user, or of all."""
        where = _UNFINISHED if unfinished else "1"
        if user is None:
            return self._jobs(where + " ORDER BY id DESC")
        return self._jobs(where + " AND user = ? ORDER BY id DESC", user)

    def states_of(self, ids: Iterable[int]) -> Dict[int, str]:
        """Of those that there are."""
        wanted = ", ".join(map(str, map(int, ids)))
        with _told(self.path):
            return dict(self._db.execute("SELECT id, state FROM jobs WHERE id IN (%s)" % wanted))

    def ids_between(self, ids: range) -> List[int]:
        """Of the jobs that there are in it, the least first."""
        with _told(self.path):
            found = self._db.execute(
                "SELECT id FROM jobs WHERE id >= ? AND id < ? ORDER BY id", (ids.start, ids.stop)
            )
            return [int(row[0]) for row in found]

    def latest(self, user: Optional[str] = None, state: Optional[str] = None) -> Optional[Job]:
        """The job with the highest id, of that user and in that state if given."""
        return next(
            iter(
                self._jobs(
                    "(?1 IS NULL OR user = ?1) AND (?2 IS NULL OR state = ?2) ORDER BY id DESC LIMIT 1",
                    user,
                    state,
                )
            ),
            None,
        )

    def changes(self, rev: int) -> List[Job]:
        """What changed after `rev`, in the order of the changes; from 0: only what is unfinished."""
        return self._jobs("rev > ? %s ORDER BY rev" % ("" if rev else "AND " + _UNFINISHED), rev)

    def rev(self) -> int:
        """The last change."""
        with _told(self.path):
            return int(self._db.execute("SELECT coalesce(max(rev), 0) FROM jobs").fetchone()[0])

    def has_unfinished(self) -> bool:
        """Whether there is work."""
        with _told(self.path):
            found = self._db.execute("SELECT 1 FROM jobs WHERE " + _UNFINISHED + " LIMIT 1").fetchone()
        return found is not None

    def spec(self, job_id: int) -> str:
        """What was submitted, as JSON."""
        with _told(self.path):
            return str(self._db.execute("SELECT spec FROM jobs WHERE id = ?", (job_id,)).fetchone()[0])

    def events(self, job_id: int) -> List[Tuple[float, str, str, str]]:
        """(at, from, to, reason) of one job, oldest first."""
        with _told(self.path):
            return self._db.execute(
                "SELECT at, from_state, to_state, reason FROM events WHERE job_id = ? ORDER BY id", (job_id,)
            ).fetchall()

    def _jobs(self, where: str, *values: object) -> List[Job]:
        with _told(self.path):
            rows = self._db.execute("SELECT %s FROM jobs WHERE %s" % (COLUMNS, where), values)
            return [job_of_row(row) for row in rows]

    # Jobs, written. Within a transaction.

    def next_id(self) -> int:
        """Of the job that is submitted next."""
        with _told(self.path):
            found = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'").fetchone()
        return int(found[0]) + 1 if found else 1

    def submit(self, new: NewJob) -> int:
        """The id of the new job; of the same one when this submit is a repeated one."""
        found = self.job_of(new.uuid)
        if found is not None:
            return found.id
        row = {
            "uuid": new.uuid,
            "name": new.name,
            "user": new.user,
            "submitted_at": new.submitted_at,
            "num_nodes": new.num_nodes,
            "alternatives": dump([[a.accelerator, a.amount, a.cpus, a.memory] for a in new.alternatives]),
            "priority": new.priority,
            "has_setup": int(new.has_setup),
            "cpus_shown": new.cpus_shown,
            "recovery": dump(new.recovery),
            "after": dump(new.after),
            "array": dump(new.array) if new.array else "",
            "task_id": new.task_id,
            "time_limit": dump(new.time_limit),
            "rev": self.rev() + 1,
            "spec": new.spec,
        }
        if new.id is not None:
            row["id"] = new.id
        job_id = self._insert("jobs", row)
        assert job_id is not None
        self._touch("jobs", job_id)
        self._touch("spec", job_id)
        return job_id

    def move(self, job: Job, to: str, at: float, **changes: Any) -> None:
        """Take the job from the state it was read in to another; an event tells of it.

        `changes`: reason, started_at, ended_at, alternative, grants, setup_on, exit_codes; attempt, failures,
        losses, awaits when it waits again. Devices are given out when it becomes active, and free when it
        stops to be. Raises StoreError if the job has
        left that state: an edge that doesn't exist, or a row read before the transaction began.
        """
        if to not in states.EDGES[job.state]:
            raise StoreError("Job %d can't go from %s to %s." % (job.id, job.state, to))
        done = self._update(job.id, "AND state = ?", (job.state,), state=to, **changes)
        if done != 1:
            raise StoreError("Job %d is no longer %s." % (job.id, job.state))
        if to in states.ACTIVE and job.state in states.WAITING:
            self._use_devices(job.id, changes["grants"])
        elif to not in states.ACTIVE:
            self._db.execute("DELETE FROM device_use WHERE job_id = ?", (job.id,))
        self._db.execute(
            "INSERT INTO events (job_id, at, from_state, to_state, reason) VALUES (?, ?, ?, ?, ?)",
            (job.id, at, job.state, to, changes.get("reason", "")),
        )

    def _insert(self, table: str, row: Mapping[str, Any]) -> Optional[int]:
        text = "INSERT INTO %s (%s) VALUES (%s)" % (table, ", ".join(row), ", ".join("?" * len(row)))
        return self._db.execute(text, tuple(row.values())).lastrowid

    def _use_devices(self, job_id: int, grants: Iterable[Grant]) -> None:
        self._db.executemany(
            "INSERT INTO device_use (node, device, job_id, amount) VALUES (?, ?, ?, ?)",
            [(g.node, device, job_id, amount) for g in grants for device, amount in g.devices],
        )

    def keep_attempt(self, ended: Job) -> None:
        """Remember how an attempt ended whose job will be run again. Within a transaction."""
        fields = ended._asdict()
        record = {name: written(name, fields[name]) for name in _OF_ATTEMPT}
        row = ended.id, ended.number, dump(record)
        self._db.execute("INSERT INTO attempts (job_id, number, record) VALUES (?, ?, ?)", row)
        self._touch("attempts", row[:2])

    def attempts(self, job: Job) -> List[Job]:
        """The job as each of its attempts had it, the first one first, the current one last."""
        with _told(self.path):
            rows = self._db.execute(
                "SELECT record FROM attempts WHERE job_id = ? ORDER BY number", (job.id,)
            ).fetchall()
        former = [json.loads(row[0]) for row in rows if job.number > 1]
        return [job._replace(**{n: read(n, value) for n, value in each.items()}) for each in former] + [job]

    def note(self, job_id: int, **changes: Any) -> None:
        """Change what is not the state: task_id, pids, reason, cancel_requested_at."""
        self._update(job_id, "", (), **changes)

    def _update(self, job_id: int, guard: str, guard_values: Tuple[object, ...], **changes: Any) -> int:
        changes = {name: written(name, value) for name, value in changes.items()}
        changes["rev"] = self.rev() + 1
        self._touch("jobs", job_id)
        return self._db.execute(
            "UPDATE jobs SET %s WHERE id = ? %s" % (", ".join(name + " = ?" for name in changes), guard),
            (*changes.values(), job_id, *guard_values),
        ).rowcount

    # Logs that are still on their nodes.

    def owed_logs(self, job_id: Optional[int] = None) -> List[OwedLog]:
        """Of one job, or of all."""
        with _told(self.path):
            rows = self._db.execute(
                "SELECT job_id, step, node, attempt FROM owed_logs WHERE ?1 IS NULL OR job_id = ?1",
                (job_id,),
            )
            return [OwedLog(*row) for row in rows]

    def owe_log(self, log: OwedLog) -> None:
        """Remember to fetch it. Within a transaction."""
        self._touch("owed_logs")
        self._db.execute("INSERT OR REPLACE INTO owed_logs VALUES (?, ?, ?, ?)", log)

    def forget_log(self, job_id: int, step: str, attempt: int) -> None:
        """It is here as a whole, or is nowhere. Within a transaction."""
        self._touch("owed_logs")
        self._db.execute(
            "DELETE FROM owed_logs WHERE job_id = ? AND step = ? AND attempt = ?", (job_id, step, attempt)
        )

    # Devices in quarantine. Writing is within a transaction.

    def quarantined(self) -> Dict[str, Tuple[Quarantine, ...]]:
        """By node, by device."""
        with _told(self.path):
            rows = self._db.execute(
                "SELECT node, device, job_id, attempt, step, since, who FROM quarantine ORDER BY node, device"
            ).fetchall()
        found: Dict[str, Tuple[Quarantine, ...]] = {}
        for node, *fields in rows:
            found[node] = (*found.get(node, ()), Quarantine(*fields))
        return found

    def quarantine(self, node: str, device: Quarantine) -> None:
        """Give it to nobody from now on."""
        self._touch("quarantine")
        self._db.execute("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?)", (node, *device))

    def end_quarantine(self, node: str, device: Optional[Quarantine] = None) -> None:
        """Of one device for one step's sake, or of all devices of a node."""
        self._touch("quarantine")
        values = device[:4] if device else (None,) * 4
        self._db.execute(
            "DELETE FROM quarantine WHERE node = ?1 AND (?2 IS NULL OR "
            "(device = ?2 AND job_id = ?3 AND attempt = ?4 AND step = ?5))",
            (node, *values),
        )

    # Nodes and settings.

    def nodes(self, former: bool = False) -> Tuple[Node, ...]:
        """In cluster order. `former`: also those that were removed."""
        with _told(self.path):
            rows = self._db.execute(
                "SELECT name, idx, devices, cpus, memory, unusable, ip, reach FROM nodes "
                "WHERE removed <= ? ORDER BY idx",
                (int(former),),
            ).fetchall()
        quarantined = self.quarantined()
        return tuple(
            Node(
                *(name, idx, tuple(Device(*d) for d in json.loads(devices)), cpus, memory, unusable, ip),
                Reach(*json.loads(reach)) if reach else None,
                quarantined.get(name, ()),
            )
            for name, idx, devices, cpus, memory, unusable, ip, reach in rows
        )

    def ever_alone(self) -> bool:
        """Whether there never was more than one node."""
        with _told(self.path):
            return bool(self._db.execute("SELECT count(*) = 1 FROM nodes").fetchone()[0])

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        """Replace them all. Within a transaction."""
        self._touch("nodes")
        self._db.execute("DELETE FROM nodes")
        self.put_nodes(nodes)

    def put_nodes(self, nodes: Iterable[Node]) -> None:
        """Add them, or replace those of their names. Within a transaction."""
        self._touch("nodes")
        self._db.executemany(
            "INSERT OR REPLACE INTO nodes (name, idx, devices, cpus, memory, unusable, ip, reach) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    n.name,
                    n.index,
                    dump([[d.index, d.accelerator, d.uuid] for d in n.devices]),
                    n.cpus,
                    n.memory,
                    n.unusable,
                    n.ip,
                    dump(n.reach) if n.reach else "",
                )
                for n in nodes
            ],
        )

    def set_unusable(self, name: str, why: str) -> None:
        """Why nothing new may start on a node; "": it may. Within a transaction."""
        self._touch("nodes")
        self._db.execute("UPDATE nodes SET unusable = ? WHERE name = ?", (why, name))

    def remove_node(self, name: str) -> None:
        """It is no longer of the cluster, and the rest of its logs won't come. Within a transaction."""
        self._touch("nodes")
        self._touch("owed_logs")
        self._db.execute("UPDATE nodes SET removed = 1, unusable = '' WHERE name = ?", (name,))
        self._db.execute("DELETE FROM owed_logs WHERE node = ?", (name,))
        self.end_quarantine(name)

    def get(self, key: str) -> str:
        """A setting; "" when it isn't set."""
        with _told(self.path):
            found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(found[0]) if found else ""

    def set(self, key: str, value: str) -> None:
        """Set a setting. Within a transaction."""
        if key not in _PASSING:
            self._touch("meta")
        self._db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


@contextmanager
def _told(path: str) -> Iterator[None]:
    """SQLite's errors as sentences."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error) or "disk I/O" in str(error):
            raise StoreError(
                "The disk that holds %s is full or fails (%s).\n"
                "Nothing was changed. Make room, then try again." % (path, error)
            ) from error
        raise StoreError("The queue's database %s can't be used: %s." % (path, error)) from error
    except sqlite3.DatabaseError as error:
        raise _lost(path, "is damaged: %s" % error) from error
    except OSError as error:
        raise StoreError(
            "%s: %s. Nothing was changed." % (error.filename or path, error.strerror or error)
        ) from error


def _lost(path: str, what: str) -> StoreError:
    name = os.path.basename(os.path.dirname(path))
    text = "The queue's database %s %s.\nJobs that run go on. To have the queue back: skyq recover %s"
    return StoreError(text % (path, what, name))
