"""A queue whose database is damaged or gone says so, loses nothing, and is made anew of its journal."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from pathlib import Path

import pytest

from skyq.core import states
from skyq.core.model import Grant, Node, Quarantine, Recovery, Request
from skyq.store import journal, rebuild
from skyq.store.journal import Journal
from skyq.store.store import NewJob, Store
from tests.cluster import LocalQueue, kill
from tests.faults.truth import Truth


def write_all(database: Path) -> None:
    """Nothing waits in queue.db-wal."""
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def gone(database: Path) -> None:
    for path in database.parent.glob("queue.db*"):
        path.unlink()


def cut(database: Path) -> None:
    """Somewhere."""
    write_all(database)
    os.truncate(database, random.Random(1).randrange(4096, database.stat().st_size // 2))


def emptied(database: Path) -> None:
    os.truncate(database, 0)


def scribbled(database: Path) -> None:
    write_all(database)
    database.write_bytes(os.urandom(30_000))


@pytest.mark.parametrize("harm", [gone, cut, emptied, scribbled])
def test_all_jobs_are_there_again_and_what_runs_goes_on(queue: LocalQueue, harm: object) -> None:
    queue.declare(H100=2)
    truth = Truth(queue)
    queue.run("exec", "local", "--", "exit 3")
    runs = queue.submit("--gpus", "H100:1", truth.script(queue.until_open() + "; exit 4"))
    waits = queue.submit(
        "-n", "later", "--gpus", "H100:2", "--secret", "T=hush", truth.script("[ $T = hush ]")
    )
    queue.until(lambda: truth.starts() == {runs: 1}, "one runs")
    harm(queue.state_dir / "queue.db")  # type: ignore[operator]

    for words in (["queue", "local"], ["exec", "local", "true"], ["cancel", "local", "-y", str(runs)]):
        refused = queue.run(*words)
        assert refused.code == 1 and "To have the queue back: skyq recover local" in refused.err, refused
        assert "Traceback" not in refused.err
    told = queue.ok("recover", "local")
    assert "Made anew: 1 waiting, 1 running, 1 ended." in told.lines, told
    assert {queue.job(runs)["status"], queue.job(waits)["status"]} == {"RUNNING", "PENDING"}
    queue.open_gate()

    assert queue.wait(runs, "FAILED")["exit_codes"] == [4]
    assert queue.wait(waits, "SUCCEEDED")["job_name"] == "later"
    assert queue.job(1)["exit_codes"] == [3]
    assert (truth.violations(), truth.starts()) == ([], {runs: 1, waits: 1})
    assert queue.submit("true") == waits + 1


def test_what_ended_meanwhile_has_its_real_result(queue: LocalQueue) -> None:
    job = queue.submit(queue.until_open() + "; echo end; exit 5")
    queue.wait(job, "RUNNING")
    log = queue.log_folder(job) / "tasks" / "run.log"
    kill(queue.dispatcher())
    emptied(queue.state_dir / "queue.db")
    queue.open_gate()
    queue.until(lambda: log.exists() and log.read_text() == "end\n", "it has ended")
    queue.ok("recover", "local")

    assert queue.wait(job, "FAILED")["exit_codes"] == [5]


def test_a_whole_queue_is_left_as_it_is(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")
    before = queue.job(1)
    told = queue.ok("recover", "local")

    assert told.lines == ["The queue of local is whole: 0 waiting, 0 running, 1 ended. Nothing was changed."]
    assert queue.job(1) == before


def test_a_queue_that_never_was_is_not_recovered(queue: LocalQueue) -> None:
    assert "no job was ever submitted" in queue.run("recover", "local").err
    assert not queue.state_dir.exists()


def test_down_takes_the_journal_along(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")
    queue.ok("down", "local", "-y", "--purge")

    assert not queue.state_dir.exists()
    assert queue.submit("true") == 1


# The journal itself.


def a_store(folder: Path) -> Store:
    store = Store.open(str(folder / "queue.db"), str(folder / "journal"))
    with store.transaction():
        store.set("cluster_id", "c")
        store.set_nodes([Node("n", 0)])
    return store


def submit(store: Store, uuid: str) -> int:
    with store.transaction():
        return store.submit(
            NewJob(
                uuid, None, "me", 1.0, 1, (Request(),), 0, False, "", json.dumps({"run": uuid}), Recovery(1)
            )
        )


def again(folder: Path) -> Store:
    """The store, made anew."""
    rebuild.rebuild(str(folder / "queue.db"), str(folder / "journal"))
    return Store.open(str(folder / "queue.db"), str(folder / "journal"))


def test_a_transaction_that_failed_is_not_in_the_journal(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    submit(store, "one")
    with pytest.raises(RuntimeError), store.transaction():
        store.note(1, reason="never")
        raise RuntimeError
    store.close()
    assert [job.reason for job in again(tmp_path).jobs()] == [""]


def test_a_line_that_was_torn_harms_no_other(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    submit(store, "one")
    with open(tmp_path / "journal", "ab") as file:
        file.write(b'["jobs",{"id":1,"uu')
    submit(store, "two")
    store.close()
    assert [job.uuid for job in again(tmp_path).jobs()] == ["two", "one"]


def test_what_a_power_cut_took_of_the_journal_is_added(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    size = [
        (submit(store, uuid), (tmp_path / "journal").stat().st_size)[1] for uuid in ("one", "two", "three")
    ]
    os.truncate(tmp_path / "journal", size[0] + 10)
    store.see_to_journal()
    store.close()
    made = again(tmp_path)
    assert [made.spec(job.id) for job in made.jobs()] == [
        '{"run": "%s"}' % uuid for uuid in ("three", "two", "one")
    ]


def test_a_journal_that_has_become_long_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "ROOM", 0)
    store = a_store(tmp_path)
    submit(store, "one")
    for number in range(1000):
        with store.transaction():
            store.note(1, reason="r%d" % number)
    long = (tmp_path / "journal").stat().st_size
    store.see_to_journal()
    assert (tmp_path / "journal").stat().st_size < long / 100
    store.see_to_journal()
    store.close()
    assert again(tmp_path).jobs()[0].reason == "r999"


def test_attempts_devices_and_settings_come_back(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    submit(store, "one")
    grants = (Grant("n", 0, ((0, 5000),)),)
    with store.transaction():
        job = store.jobs()[0]
        store.move(job, states.RUNNING, 2.0, grants=grants, alternative=0)
        ended = store.jobs()[0]._replace(reason="exit code 1", exit_codes=(1,))
        store.keep_attempt(ended)
        store.move(store.jobs()[0], states.PENDING, 3.0, grants=(), failures=1, attempt=2)
        store.move(store.jobs()[0], states.RUNNING, 4.0, grants=grants, alternative=0)
        store.quarantine("n", Quarantine(0, 1, 1, "run-0", 3.5, "pid 1 (init)"))
        store.set("lost_after", "7")
    before = store.attempts(store.jobs()[0]), store.nodes(), store.get("lost_after")
    store.close()
    made = again(tmp_path)
    assert (made.attempts(made.jobs()[0]), made.nodes(), made.get("lost_after")) == before
    db = sqlite3.connect(tmp_path / "queue.db")
    assert db.execute("SELECT node, device, job_id, amount FROM device_use").fetchall() == [("n", 0, 1, 5000)]
    db.close()


def test_a_start_that_was_written_down_and_never_committed_takes_nobodys_device(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    submit(store, "killed")
    submit(store, "runs")
    whole = (Grant("n", 0, ((0, 10_000),)),)
    row = next(value for kind, value in Journal("", str(tmp_path / "journal")).read() if kind == "jobs")
    Journal("", str(tmp_path / "journal")).append(
        [("jobs", {**row, "state": "RUNNING", "grants": '[["n",0,[[0,10000]],500,0]]', "rev": 3})]
    )
    with store.transaction():
        store.move(store.jobs()[0], states.RUNNING, 2.0, grants=whole, alternative=0)
        store.note(2, reason="its rev is higher")
    store.close()
    made = again(tmp_path)
    states_now = {job.uuid: (job.state, job.attempt) for job in made.jobs()}
    assert states_now == {"killed": ("PENDING", 2), "runs": ("RUNNING", 1)}
