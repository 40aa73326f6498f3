"""Machines that boot in the middle of jobs: what ran there has failed, what waits still runs."""

from __future__ import annotations

from tests.ssh.remote import ON, PATIENCE, Remote, Tale

CRON = 60.0  # seconds between two ticks


def test_a_worker_that_boots_fails_what_ran_there_and_is_used_again(cluster: Remote) -> None:
    gate, never = cluster.gate(), cluster.gate()
    alone = cluster.submit(*ON["node1"], never.wait)
    gang = cluster.submit("--num-nodes", "4", never.wait)
    other = cluster.submit(*ON["node2"], gate.wait)
    queued = cluster.submit("--gpus", "A100:4", "true")
    cluster.until_waiting(never, "node0", "node2", "node3")
    cluster.until_waiting(never, "node1", count=2)
    cluster.until_waiting(gate, "node2")
    assert cluster.job(queued)["status"] == "PENDING"
    cluster.lab.reboot("node1")

    records = cluster.wait_all([alone, gang], "FAILED_DRIVER")
    assert records[alone]["reason"] == "node rebooted"
    assert "node rebooted" in records[gang]["reason"]
    assert cluster.wait(queued, "SUCCEEDED")["nodes"][0]["node"] == "node1"
    assert [cluster.alive(node) for node in ("node0", "node1", "node3")] == [[], [], []]
    assert cluster.job(other)["status"] == "RUNNING"
    gate.open()
    cluster.wait(other, "SUCCEEDED")


def test_a_job_whose_machine_boots_is_run_again_where_asked_for(cluster: Remote) -> None:
    gate = cluster.gate()
    script = "[ $SKYQ_ATTEMPT = 2 ] && exit 9; " + gate.wait
    alone = cluster.submit(*ON["node1"], "--requeue", script)
    gang = cluster.submit("--num-nodes", "4", "--requeue", script)
    cluster.until_waiting(gate, "node0", "node2", "node3")
    cluster.until_waiting(gate, "node1", count=2)
    cluster.lab.reboot("node1")

    records = cluster.wait_all([alone, gang], "FAILED")
    for job in (alone, gang):
        assert records[job]["attempt"] == 2 and 9 in records[job]["exit_codes"]
    told = cluster.ok("why", "lab", str(alone)).out
    assert "attempt 1 ended: node rebooted" in told


def test_a_head_that_boots_loses_neither_queued_jobs_nor_those_on_workers(cluster: Remote) -> None:
    gate = cluster.gate()
    tale = Tale(gate)
    on_worker = cluster.submit(*ON["node1"], tale.script)
    on_head = cluster.submit(*ON["node0"], gate.wait)
    queued = cluster.submit("--gpus", "A100:4", "true")
    record = cluster.wait_all([on_worker, on_head], "RUNNING")[on_worker]
    cluster.until(lambda: cluster.raw(record, 0), "its log comes")
    cluster.until_waiting(gate, "node0")
    cluster.lab.reboot("node0")

    cluster.ok("queue", "lab")  # the next command, or else cron, starts a dispatcher
    assert cluster.wait(on_head, "FAILED_DRIVER")["reason"] == "node rebooted"
    assert cluster.job(on_worker)["status"] == "RUNNING"
    gate.open()
    assert cluster.wait(on_worker, "FAILED")["exit_codes"] == [Tale.CODE]
    cluster.wait(queued, "SUCCEEDED")
    cluster.until_told(record, tale)


def test_a_queue_that_was_deleted_on_the_head_is_made_anew_from_the_laptop(cluster: Remote) -> None:
    gate = cluster.gate()
    tale = Tale(gate)
    on_worker = cluster.submit(*ON["node1"], tale.script)
    gang = cluster.submit("--num-nodes", "4", "--gpus", "H100:4", gate.wait + "; exit 9")
    record = cluster.wait_all([on_worker, gang], "RUNNING")[on_worker]
    cluster.until_waiting(gate, "node0", "node2", "node3")
    for path in (cluster.head.home / ".skyq/clusters/lab").glob("queue.db*"):
        path.unlink()
    lost = cluster.run("queue", "lab")
    assert lost.code == 1 and "skyq recover lab" in lost.err

    assert "0 waiting, 2 running" in cluster.ok("recover", "lab").out
    assert {cluster.job(job)["status"] for job in (on_worker, gang)} == {"RUNNING"}
    gate.open()
    assert cluster.wait(on_worker, "FAILED")["exit_codes"] == [Tale.CODE]
    assert 9 in cluster.wait(gang, "FAILED")["exit_codes"]
    cluster.until_told(record, tale)


def test_a_head_that_boots_goes_on_by_itself(cluster: Remote) -> None:
    """cron starts a dispatcher: nobody types anything."""
    gate, crontab = cluster.gate(), cluster.head.path("/var/spool/cron/crontabs/ada")
    tale = Tale(gate)
    on_worker = cluster.submit(*ON["node2"], tale.script)
    queued = cluster.submit("--gpus", "L4:4", "echo ran >~/" + gate.file + ".after")
    record = cluster.wait(on_worker, "RUNNING")
    cluster.until(lambda: cluster.raw(record, 0), "its log comes")
    cluster.until(lambda: crontab.exists() and "tick lab" in crontab.read_text(), "cron is asked to tick")
    cluster.lab.reboot("node0")
    gate.open()
    ran = cluster.lab.host("node2").home / (gate.file + ".after")
    cluster.until(ran.exists, "the queued job runs", CRON + PATIENCE)

    cluster.wait(queued, "SUCCEEDED")
    assert cluster.wait(on_worker, "FAILED")["exit_codes"] == [Tale.CODE]
    cluster.until_told(record, tale)
