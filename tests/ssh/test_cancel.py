"""The end of jobs, asked for from elsewhere: nothing of them lives on any node."""

from __future__ import annotations

from pathlib import Path

from tests.ssh.remote import Remote
from tests.zoo import SIZE, zoo

PIDS, DAEMON = "/home/ada/zoo/pids", "/home/ada/zoo/daemon.py"


def test_cancel_leaves_nothing_alive_on_any_node(cluster: Remote, tmp_path: Path) -> None:
    """Of processes of every kind that try to get away."""
    local = tmp_path / "daemon.py"
    script = zoo(Path(PIDS), local).replace(str(local), DAEMON)
    for node in cluster.lab.nodes:
        node.write(DAEMON, local.read_text())
        node.path(PIDS).unlink(missing_ok=True)
    job = cluster.submit("--num-nodes", "3", "--gpus", "H100:8", script)
    nodes = [entry["node"] for entry in cluster.wait(job, "RUNNING")["nodes"]]
    for node in nodes:
        pids = cluster.lab.host(node).path(PIDS)
        cluster.until(
            lambda pids=pids: pids.exists() and len(pids.read_text().split()) == SIZE, "all live on " + node
        )
        assert len(cluster.alive(node)) >= SIZE
    said = cluster.ok("cancel", "lab", str(job), "-y")

    assert "Cancelled job ID(s): %d" % job in said.out
    assert cluster.wait(job, "CANCELLED")["reason"] == "cancelled by ada"
    assert {node.name: cluster.alive(node.name) for node in cluster.lab.nodes} == {
        node.name: [] for node in cluster.lab.nodes
    }


def test_one_rank_that_fails_ends_the_others_and_is_named(cluster: Remote) -> None:
    said = cluster.run(
        "exec", "lab", "--num-nodes", "3", '[ "$SKYPILOT_NODE_RANK" != 1 ] || exit 9; sleep 600'
    )

    assert said.code == 100, str(said)
    job = max(cluster.jobs())
    record = cluster.job(job)
    assert record["status"] == "FAILED" and record["exit_codes"][1] == 9
    assert "rank 1" in said.out and "exit code 9" in said.out and record["nodes"][1]["node"] in said.out
    assert [cluster.alive(node.name) for node in cluster.lab.nodes] == [[]] * 4
