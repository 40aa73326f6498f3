"""A database that an older skyq made is used on as it is."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from skyq.core.errors import StoreError
from skyq.core.model import Grant, Node, Quarantine, Request
from skyq.store import store
from skyq.store.store import NewJob, Store


def test_a_queue_of_the_first_schema_goes_on_with_its_jobs(tmp_path: Path) -> None:
    path = str(tmp_path / "queue.db")
    with sqlite3.connect(path) as db:
        db.executescript(_first_schema())
        db.execute(
            "INSERT INTO nodes (name, idx, ip, cpus, memory, devices) VALUES ('n', 0, '::1', 1, 2, '[]')"
        )
        db.execute(
            "INSERT INTO jobs (uuid, user, submitted_at, num_nodes, alternatives, has_setup, rev, spec) "
            "VALUES ('old', 'me', 1.0, 1, '[[null, 0, 500, 0]]', 1, 1, '{}')"
        )
    db.close()
    opened = Store.open(path)
    old = opened.job_of("old")
    assert old is not None and old.setup_on == () and old.state == "PENDING"
    assert opened.nodes() == (Node("n", 0, (), 1, 2, "", "::1"),)
    with opened.transaction():
        new = NewJob("new", None, "me", 2.0, 1, (Request(),), 0, False, "", "{}")
        assert opened.submit(new) == old.id + 1
    assert opened.owed_logs() == []
    with opened.transaction():
        opened.quarantine("n", Quarantine(0, old.id, 1, "run-0", 1.0, "pid 1 (init)"))
    assert [kept.device for kept in opened.nodes()[0].quarantined] == [0]
    with pytest.raises(StoreError), opened.transaction():
        grant = Grant("n", 0, ((0, 10000),))
        opened.move(old, "RUNNING", 1.0, grants=(grant,))
    opened.close()


def _first_schema() -> str:
    """The schema without what later versions added."""
    text = (Path(store.__file__).parent / "schema.sql").read_text()
    newer = "reach|setup_on|removed|recovery|failures|losses|awaits|overtaken|after|held|array|time_limit"
    text = re.sub(r"(?m)^    (%s) .*\n" % newer, "", text)
    text = re.sub(r"(?s)CREATE TABLE (owed_logs|attempts|quarantine).*?;\n", "", text)
    text = re.sub(r"(?s)CREATE TRIGGER never_quarantined.*?END;\n", "", text)
    text = text.replace("NOT NULL DEFAULT '',\n) WITHOUT", "NOT NULL DEFAULT ''\n) WITHOUT")
    return re.sub(r"PRAGMA user_version = \d+", "PRAGMA user_version = 1", text)
