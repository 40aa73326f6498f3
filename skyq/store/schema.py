"""Making the tables of a database, and bringing an older one up to date."""

from __future__ import annotations

import os
import sqlite3
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

VERSION = 5

_UPGRADES = {
    1: (
        "ALTER TABLE nodes ADD COLUMN reach TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE jobs ADD COLUMN setup_on TEXT NOT NULL DEFAULT '[]'",
        "CREATE TABLE owed_logs (job_id INTEGER NOT NULL REFERENCES jobs (id), step TEXT NOT NULL, "
        "node TEXT NOT NULL, attempt INTEGER NOT NULL, PRIMARY KEY (job_id, step)) WITHOUT ROWID",
    ),
    2: ("ALTER TABLE nodes ADD COLUMN removed INTEGER NOT NULL DEFAULT 0",),
    3: (
        "ALTER TABLE jobs ADD COLUMN recovery TEXT NOT NULL DEFAULT '[0,[],false]'",
        "ALTER TABLE jobs ADD COLUMN failures INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN losses INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN awaits TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE jobs ADD COLUMN overtaken REAL",
        "ALTER TABLE jobs ADD COLUMN after TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE jobs ADD COLUMN held TEXT NOT NULL DEFAULT ''",
        "CREATE TABLE attempts (job_id INTEGER NOT NULL REFERENCES jobs (id), number INTEGER NOT NULL, "
        "record TEXT NOT NULL, PRIMARY KEY (job_id, number)) WITHOUT ROWID",
        "ALTER TABLE owed_logs RENAME TO owed_before",
        "CREATE TABLE owed_logs (job_id INTEGER NOT NULL REFERENCES jobs (id), step TEXT NOT NULL, "
        "node TEXT NOT NULL, attempt INTEGER NOT NULL, PRIMARY KEY (job_id, step, attempt)) WITHOUT ROWID",
        "INSERT INTO owed_logs SELECT job_id, step, node, attempt FROM owed_before",
        "DROP TABLE owed_before",
        "CREATE TABLE quarantine (node TEXT NOT NULL, device INTEGER NOT NULL, job_id INTEGER NOT NULL "
        "REFERENCES jobs (id), attempt INTEGER NOT NULL, step TEXT NOT NULL, since REAL NOT NULL, "
        "who TEXT NOT NULL, PRIMARY KEY (node, device, job_id, attempt, step)) WITHOUT ROWID",
        "CREATE TRIGGER never_quarantined BEFORE INSERT ON device_use WHEN EXISTS (SELECT 1 FROM quarantine "
        "WHERE node = NEW.node AND device = NEW.device) "
        "BEGIN SELECT RAISE(ABORT, 'a device is quarantined'); END",
    ),
    4: (
        "ALTER TABLE jobs ADD COLUMN array TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE jobs ADD COLUMN time_limit TEXT NOT NULL DEFAULT '[0,\"\",0,0]'",
    ),
}
"""What takes a database from a version to the next one. Nothing is lost."""


def create(db: sqlite3.Connection, patience: float) -> None:
    """Several processes may come first at once: one makes the schema, the others wait and find it, up to
    `patience` seconds."""
    _write_ahead(db, patience)
    with open(os.path.join(os.path.dirname(__file__), "schema.sql"), encoding="utf-8") as file:
        script = file.read()
    db.execute("BEGIN IMMEDIATE")
    try:
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _statements(script):
                db.execute(statement)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _write_ahead(db: sqlite3.Connection, patience: float) -> None:
    """Have readers and a writer side by side. SQLite doesn't wait for others here by itself."""
    deadline = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def upgrade(db: sqlite3.Connection) -> None:
    """Bring an older database up to date; of several processes that try, one does."""
    db.execute("BEGIN IMMEDIATE")
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        for step in range(version, VERSION):
            for statement in _UPGRADES[step]:
                db.execute(statement)
        db.execute("PRAGMA user_version = %d" % VERSION)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _statements(script: str) -> Iterator[str]:
    """executescript() would commit the transaction that keeps the others out."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
