"""Verbs of a cluster whose head is elsewhere: typed here, run there, seen here."""

from __future__ import annotations

from tests.cli.laptop import Far, Laptop


def test_exec_shows_what_the_job_says_and_exits_with_its_result(laptop: Laptop, head: Far) -> None:
    result = laptop.run("exec", "lab", "echo hello; exit 3")

    assert result.lines[0] == "Command to run: echo hello; exit 3"
    assert result.lines[1] == "Submitting job to cluster: lab"
    assert "⚙︎ Job submitted, ID: 1" in result.lines
    result.line(r"\(sky-cmd, pid=\d+\) hello")
    assert result.code == 100
    assert head.job(1)["username"] == "ada"
