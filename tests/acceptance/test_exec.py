"""`skyq exec`."""

from __future__ import annotations

from tests.cluster import LocalQueue


def test_a_command_runs_and_its_log_is_on_the_screen(queue: LocalQueue) -> None:
    result = queue.ok("exec", "local", "echo hi")

    assert "Command to run: echo hi" in result.lines
    assert "Submitting job to cluster: local" in result.lines
    assert queue.job_id(result) == 1
    result.line(r"\(sky-cmd, pid=\d+\) hi")
    assert result.lines[-1] == "✓ Job finished (status: SUCCEEDED)."
