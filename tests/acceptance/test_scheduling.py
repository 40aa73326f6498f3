"""Who starts when and on what, seen from outside: never too much on a device, nothing idle that is wanted."""

from __future__ import annotations

import concurrent.futures

from tests.cluster import LocalQueue


def states(queue: LocalQueue) -> list[str]:
    """The states in the order of the ids."""
    return [state for _, state in sorted(queue.states().items())]


def devices_of(queue: LocalQueue, job_id: int) -> list[int]:
    """The devices that a job holds."""
    (grant,) = queue.job(job_id)["nodes"]
    return [device["index"] for device in grant["devices"]]


def hold(queue: LocalQueue, *gpus: str) -> list[int]:
    """Jobs that hold these until they are cancelled."""
    return [queue.submit("--gpus", "H100:" + amount, "sleep 600") for amount in gpus]


def test_half_devices_are_shared_by_two_and_the_third_waits_for_one_of_them(queue: LocalQueue) -> None:
    queue.declare(H100=1)
    hold(queue, "0.5", "0.5", "0.5")
    queue.wait_all([1, 2], "RUNNING")
    assert states(queue) == ["RUNNING", "RUNNING", "PENDING"]
    assert devices_of(queue, 1) == devices_of(queue, 2) == [0]

    queue.ok("cancel", "local", "2", "-y")
    queue.wait(3, "RUNNING")
    assert states(queue) == ["RUNNING", "CANCELLED", "RUNNING"]


def test_a_job_that_wants_all_waits_for_the_last_one(queue: LocalQueue) -> None:
    hold(queue, "1", "2", "4")
    queue.wait_all([1, 2], "RUNNING")
    queue.ok("cancel", "local", "1", "-y")
    assert states(queue) == ["CANCELLED", "RUNNING", "PENDING"]

    queue.ok("cancel", "local", "2", "-y")
    queue.wait(3, "RUNNING")
    assert devices_of(queue, 3) == [0, 1, 2, 3]


def test_a_share_is_of_one_device_and_never_put_together(queue: LocalQueue) -> None:
    queue.declare(H100=3)
    hold(queue, "0.6", "0.6", "0.6", "0.5", "0.4", "1")
    queue.wait_all([1, 2, 3, 5], "RUNNING")

    assert states(queue)[3:] == ["PENDING", "RUNNING", "PENDING"]
    assert sorted(device for job_id in (1, 2, 3) for device in devices_of(queue, job_id)) == [0, 1, 2]
    assert queue.job(4)["reason"] == "needs 0.5 of one H100; no device has that much free"


def test_shares_are_packed_onto_few_devices(queue: LocalQueue) -> None:
    hold(queue, "0.4", "0.7", "0.3", "0.6")
    queue.wait_all([1, 2, 3, 4], "RUNNING")

    assert [devices_of(queue, job_id) for job_id in (1, 2, 3, 4)] == [[0], [1], [1], [0]]


def test_jobs_without_devices_are_limited_by_cpus(queue: LocalQueue) -> None:
    queue.declare(cpus=2)
    for _ in range(6):
        queue.submit("sleep 600")
    queue.wait_all([1, 2, 3, 4], "RUNNING")

    assert states(queue) == ["RUNNING"] * 4 + ["PENDING"] * 2
    assert queue.job(5)["reason"] == "needs 0.5 CPUs; 0 CPUs free"
    queue.ok("cancel", "local", "1", "-y")
    queue.wait(5, "RUNNING")


def test_cpus_with_a_plus_describe_the_machine_and_are_not_used_up(queue: LocalQueue) -> None:
    for _ in range(3):
        queue.submit("--cpus", "8+", "--memory", "16+", "sleep 600")

    queue.wait_all([1, 2, 3], "RUNNING")


def test_equal_jobs_start_in_the_order_of_their_ids(queue: LocalQueue) -> None:
    hold(queue, "4")
    for number in range(2, 8):
        queue.submit("--gpus", "H100:4", "echo %d >> ~/order" % number)
    queue.ok("cancel", "local", "1", "4", "-y")
    queue.wait_all([2, 3, 5, 6, 7], "SUCCEEDED")

    assert (queue.user_home / "order").read_text().split() == ["2", "3", "5", "6", "7"]


def test_cancelling_some_of_many_lets_the_next_ones_in(queue: LocalQueue) -> None:
    queue.declare(cpus=4)
    for _ in range(16):
        queue.submit("sleep 600")
    queue.wait_all(range(1, 9), "RUNNING")
    queue.ok("cancel", "local", "1", "2", "3", "9", "11", "13", "-y")
    queue.wait_all([10, 12, 14], "RUNNING")

    expected = {**dict.fromkeys([4, 5, 6, 7, 8, 10, 12, 14], "RUNNING"), 15: "PENDING", 16: "PENDING"}
    assert {i: state for i, state in queue.states().items() if state != "CANCELLED"} == expected


def test_the_next_job_starts_without_any_command(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:4", queue.until_open())
    queue.submit("--gpus", "H100:4", "echo started > ~/second")
    queue.wait(1, "RUNNING")
    queue.open_gate()

    assert queue.until_file("second") == "started\n"


def test_jobs_submitted_at_once_get_ids_without_gap_or_twin_and_all_run(queue: LocalQueue) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: queue.submit("echo hello"), range(32)))

    assert sorted(ids) == list(range(1, 33))
    queue.wait_all(ids, "SUCCEEDED")
    assert all(queue.log(job_id) == "hello\n" for job_id in (1, 16, 32))


TAKE = """\
import fcntl, os, sys, time
wanted, held = int(sys.argv[1]), []
for device in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
    for half in "ab":
        slot = open(os.path.expanduser("~/%s%s" % (device, half)), "w")
        if len(held) < wanted:
            try:
                fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held.append(slot)
            except BlockingIOError:
                pass
assert len(held) == wanted, "given beyond what it is"
time.sleep(0.05)
"""


def test_no_device_is_ever_given_beyond_what_it_is(queue: LocalQueue) -> None:
    # The jobs tell for themselves, by locks of the kernel: a half takes one of a device's two, a whole both.
    queue.declare(H100=2, cpus=32)
    queue.file("sky_workdir/take.py", TAKE)
    amounts = [("0.5", "1"), ("1", "2"), ("0.5", "1"), ("2", "4")] * 6

    def submit(amount: tuple[str, str]) -> int:
        return queue.submit("--gpus", "H100:" + amount[0], "--", "python3", "take.py", amount[1])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(submit, amounts))
    queue.wait_all(ids, "SUCCEEDED")
