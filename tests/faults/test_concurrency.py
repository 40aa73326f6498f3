"""Many clients at once: no id lost or given twice, no device given beyond 1."""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skyq.store.store import Store
from tests.cluster import LocalQueue
from tests.faults.truth import Truth

CLIENTS, EACH = 8, 50
REQUESTS = (
    ("--gpus", "H100:0.5", "--env", "HALF=1"),
    ("--gpus", "H100:1"),
    ("--gpus", "H100:0.5", "--env", "HALF=1"),
    ("--gpus", "H100:2"),
    (),
)


def test_eight_clients_of_fifty_jobs_each_lose_nothing_and_share_no_device(queue: LocalQueue) -> None:
    queue.declare(cpus=100, H100=4)
    truth = Truth(queue)

    def client(number: int) -> list[int]:
        return [
            queue.submit("--cpus", "0.1", *REQUESTS[(number + count) % len(REQUESTS)], truth.script())
            for count in range(EACH)
        ]

    with ThreadPoolExecutor(CLIENTS) as clients:
        ids = sorted(each for found in clients.map(client, range(CLIENTS)) for each in found)
    queue.wait_all(ids, "SUCCEEDED", within=180)

    assert ids == list(range(1, CLIENTS * EACH + 1))
    assert sorted(queue.states()) == ids
    assert truth.violations() == []
    assert truth.starts() == dict.fromkeys(ids, 1)


def test_who_comes_first_waits_for_another_that_makes_the_database(tmp_path: Path) -> None:
    """SQLite itself refuses to: "database is locked", at once."""
    other = sqlite3.connect(tmp_path / "queue.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    leaves = threading.Timer(0.5, other.close)
    leaves.start()
    opened = Store.open(str(tmp_path / "queue.db"))
    assert opened.nodes() == ()
    opened.close()
    leaves.join()


def test_a_queue_that_another_makes_meanwhile_is_not_taken_for_a_lost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, journal = str(tmp_path / "queue.db"), str(tmp_path / "journal")
    exists = os.path.exists

    def seen_just_before(asked: str) -> bool:
        there = exists(asked)
        if not there and asked == path:
            monkeypatch.undo()
            first = Store.open(path, journal)
            with first.transaction():
                first.set("cluster_id", "1")
            first.close()
        return there

    monkeypatch.setattr(os.path, "exists", seen_just_before)
    assert Store.open(path, journal).get("cluster_id") == "1"


def test_a_full_machine_is_used_up_to_its_last_half(queue: LocalQueue) -> None:
    """The witness itself: eight halves run on four devices at once, and each sees a slot of its own."""
    truth = Truth(queue)
    half = ("--gpus", "H100:0.5", "--cpus", "0.1", "--env", "HALF=1")
    ids = [queue.submit(*half, truth.script(queue.until_open())) for _ in range(8)]
    queue.until(lambda: len(truth.starts()) == 8, "all eight run at once")
    ninth = queue.submit(*half, truth.script())

    assert queue.job(ninth)["status"] == "PENDING"
    queue.open_gate()
    queue.wait_all([*ids, ninth], "SUCCEEDED")
    assert truth.violations() == []


def test_the_witness_sees_a_device_that_is_given_twice(queue: LocalQueue) -> None:
    truth = Truth(queue)
    lie = "CUDA_VISIBLE_DEVICES=0\n" + truth.script(queue.until_open())
    queue.submit("--gpus", "H100:1", lie)
    queue.submit("--gpus", "H100:1", lie)
    queue.until(lambda: len(truth.starts()) == 2, "both run")

    assert truth.violations() != []
