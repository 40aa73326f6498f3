"""What stands before the lines of a job's log, and behind the last one."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from skyq.cli.render import UNSTYLED
from skyq.cli.stream import JobView, Labels, blamed_step, print_end
from skyq.core.model import Grant, Job, Node, Reach
from skyq.head.head import Head
from tests.unit.test_render import a_job as job

NODES = [
    Node("node%d" % index, index, ip="10.0.0.%d" % index, reach=Reach("n", 22, "u") if index else None)
    for index in range(3)
]
GANG = (Grant("node0", 0), Grant("node2", 1))


def label(one: Job, step: str, nodes: list[Node] = NODES) -> str:
    return Labels(one, {node.name: node for node in nodes}, colour=False)(step).decode()


def said(one: Job, capsys: pytest.CaptureFixture[str]) -> str:
    print_end(one, NODES, UNSTYLED)
    return capsys.readouterr().out


def test_on_a_cluster_of_one_node_lines_have_the_jobs_name() -> None:
    one = job(name="train", pids={"run-0": 7, "setup-0": 6}, grants=(Grant("node0", 0),))

    assert label(one, "run-0", NODES[:1]) == "(train, pid=7)"
    assert label(one, "setup-0", NODES[:1]) == "(setup pid=6)"


def test_on_a_cluster_of_several_lines_have_rank_and_node() -> None:
    one = job(name="train", pids={"run-0": 7, "run-1": 8}, grants=GANG)

    assert label(one, "run-0") == "(head, rank=0, pid=7)"
    assert label(one, "run-1") == "(worker2, rank=1, pid=8, ip=10.0.0.2)"


def test_a_job_of_one_node_on_a_worker_is_rank_0_there() -> None:
    one = job(pids={"run-0": 7}, grants=(Grant("node1", 0),))

    assert label(one, "run-0") == "(worker1, rank=0, pid=7, ip=10.0.0.1)"


def test_setup_is_named_by_its_node_too() -> None:
    one = job(pids={"setup-0": 6, "setup-1": 5}, grants=GANG)

    assert label(one, "setup-0") == "(setup pid=6)"
    assert label(one, "setup-1") == "(setup pid=5, ip=10.0.0.1)"


def test_what_is_written_while_one_looks_waits_for_its_pid_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, out = tmp_path / "run.log", io.BytesIO()
    log.touch()
    head = SimpleNamespace(
        all_nodes=lambda: NODES[:1],
        step_logs=lambda one: {"run-0": str(log)},
        attempt_folder=lambda one: str(tmp_path),
    )
    running = job(name="train", state="RUNNING", pids={}, grants=(Grant("node0", 0),))
    view = JobView(cast(Head, head), running, out, UNSTYLED)
    look = view._is_there

    def look_and_then_it_writes(step: str) -> bool:
        found = look(step)
        log.write_bytes(b"hi\n")
        return found

    monkeypatch.setattr(view, "_is_there", look_and_then_it_writes)
    assert not view.pump(patient=True) and out.getvalue() == b""
    view.see(running._replace(pids={"run-0": 7}, rev=running.rev + 1))
    assert view.pump(patient=True) and out.getvalue() == b"(train, pid=7) hi\n"


def test_a_failed_gang_says_who_failed_where_and_what_became_of_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = job(
        2,
        "FAILED",
        reason="rank 1: exit code 1",
        exit_codes=(137, 1, 137),
        grants=(Grant("node0", 0), Grant("node1", 1), Grant("node2", 2)),
    )

    assert said(one, capsys) == (
        "ERROR: Job 2 failed with return code list: [137, 1, 137] (A Worker failed with return code 1, "
        "skyq cleaned up the processes on other nodes with return code 137; rank 1 on node1: exit code 1)\n"
        "✓ Job finished (status: FAILED).\n"
    )
    assert blamed_step(one, NODES) == "run-1"


def test_a_gang_whose_others_had_ended_well_says_nothing_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    one = job(2, "FAILED", reason="rank 1: exit code 1", exit_codes=(0, 1), grants=GANG)

    assert "(A Worker failed with return code 1; rank 1 on node2: exit code 1)" in said(one, capsys)


def test_a_failed_setup_names_its_node(capsys: pytest.CaptureFixture[str]) -> None:
    one = job(
        1,
        "FAILED_SETUP",
        reason="setup failed on worker1: exit code 5",
        pids={"setup-0": 6, "setup-1": 5},
        grants=GANG,
    )

    assert "Failed workers: (pid=5, ip=10.0.0.1, returncode=5)." in said(one, capsys)
    assert blamed_step(one, NODES) == "setup-1"


def test_a_failed_setup_on_one_node_has_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "setup failed: exit code 137 (killed by SIGKILL: often out of memory)"
    one = job(1, "FAILED_SETUP", reason=reason, pids={"setup-0": 6}, grants=(Grant("node0", 0),))

    assert "Failed workers: (pid=6, returncode=137)." in said(one, capsys)
