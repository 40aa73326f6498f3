"""A large job that small ones keep overtaking has its place kept, across restarts of the dispatcher."""

from __future__ import annotations

from tests.cluster import LocalQueue, kill


def a_queue_in_which_a_large_job_was_overtaken(queue: LocalQueue) -> tuple[int, int]:
    """(the large one, a small one that waits after it); one device of two is free."""
    queue.declare(H100=2)
    queue.submit("--gpus", "H100:1", queue.until_open())
    large = queue.submit("--gpus", "H100:2", "true")
    queue.wait(queue.submit("--gpus", "H100:1", "true"), "SUCCEEDED")
    return large, queue.submit("--gpus", "H100:1", queue.until_open("second"))


def test_the_large_job_starts_before_later_small_ones(queue: LocalQueue) -> None:
    queue.ok("config", "local", "reserve_after=0s")
    large, small = a_queue_in_which_a_large_job_was_overtaken(queue)
    kept = "localhost is kept for job %d, which others have overtaken" % large
    assert queue.job(small)["reason"] == kept
    assert "what gets free on localhost is kept for it" in queue.job(large)["reason"]
    kill(queue.dispatcher())
    queue.ok("queue", "local")
    queue.until(lambda: queue.dispatcher(), "there is a new one")
    assert (queue.job(small)["status"], queue.job(small)["reason"]) == ("PENDING", kept)

    queue.open_gate()
    queue.wait(large, "SUCCEEDED")
    queue.wait(small, "RUNNING")
    assert queue.job(small)["start_at"] >= queue.job(large)["end_at"]
    queue.open_gate("second")


def test_never_lets_them_pass_for_ever(queue: LocalQueue) -> None:
    queue.ok("config", "local", "reserve_after=never")
    large, small = a_queue_in_which_a_large_job_was_overtaken(queue)
    queue.wait(small, "RUNNING")
    assert queue.job(large)["status"] == "PENDING"
    queue.open_gate()
    queue.open_gate("second")
    queue.wait(large, "SUCCEEDED")


def test_by_default_half_an_hour_must_have_passed(queue: LocalQueue) -> None:
    _, small = a_queue_in_which_a_large_job_was_overtaken(queue)
    queue.wait(small, "RUNNING")
    assert queue.ok("config", "local").line(r"reserve_after +30m +.*")
    queue.open_gate()
    queue.open_gate("second")


def test_settings_are_shown_changed_and_checked(queue: LocalQueue) -> None:
    assert queue.ok("config", "local", "lost_after=1h30m").line(r"lost_after +1h 30m +.*")
    assert queue.ok("config", "local", "lost_after=").line(r"lost_after +10m +.*")
    for wrong in ("lost_after=never", "lost_after=soon", "reserve_after", "colour=red"):
        refused = queue.run("config", "local", wrong)
        assert refused.code == 2 and "Traceback" not in refused.err, refused
    assert (
        "There are: reserve_after, lost_after, strangers." in queue.run("config", "local", "colour=red").err
    )
