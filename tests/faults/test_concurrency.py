"""Many clients at once: no id lost or given twice, no device given beyond 1."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

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
