"""Nodes that can't be reached: what runs there runs on, others go on, and all is known afterwards."""

from __future__ import annotations

from tests.cluster import LocalQueue
from tests.ssh.remote import ON, Remote, Tale


def test_jobs_on_a_worker_do_not_notice_that_the_head_is_cut_off_from_it(cluster: Remote) -> None:
    """For longer than the silence after which the connection counts as dead."""
    during, after = cluster.gate(), cluster.gate()
    first, second = Tale(during), Tale(after)
    ends = cluster.submit(*ON["node1"], first.script)
    goes_on = cluster.submit(*ON["node1"], second.script)
    records = cluster.wait_all([ends, goes_on], "RUNNING")
    cluster.until(lambda: cluster.raw(records[ends], 0) and cluster.raw(records[goes_on], 0), "logs come")
    cluster.lab.cut("node0", "node1")
    during.open()
    cluster.until_unreachable("node1")

    assert "node1 is unreachable since" in cluster.ok("queue", "lab", "-s").out
    assert "may be old: node1 is unreachable since" in cluster.ok("why", "lab", str(ends)).out
    waiting = cluster.submit(*ON["node1"], "true")
    cluster.wait(cluster.submit(*ON["node2"], "true"), "SUCCEEDED")
    assert {cluster.job(i)["status"] for i in (ends, goes_on)} == {"RUNNING"}
    assert "unreachable since" in cluster.job(waiting)["reason"]

    cluster.lab.heal("node0", "node1")
    assert cluster.wait(ends, "FAILED")["exit_codes"] == [Tale.CODE]
    cluster.wait(waiting, "SUCCEEDED")
    assert cluster.job(goes_on)["status"] == "RUNNING"
    after.open()
    assert cluster.wait(goes_on, "FAILED")["exit_codes"] == [Tale.CODE]
    cluster.until_told(records[ends], first)
    cluster.until_told(records[goes_on], second)


def test_a_frozen_worker_is_skipped_and_a_cancel_there_takes_effect_when_it_is_back(cluster: Remote) -> None:
    gate, never = cluster.gate(), cluster.gate()
    held = cluster.submit(*ON["node2"], never.wait)
    other = cluster.submit(*ON["node1"], gate.wait)
    cluster.until_waiting(never, "node2")
    cluster.until_waiting(gate, "node1")
    cluster.lab.freeze("node2")
    cluster.until_unreachable("node2")

    assert "unreachable since" in cluster.ok("status", "lab").out
    assert "Cancelled job ID(s): %d" % held in cluster.ok("cancel", "lab", str(held), "-y").out
    assert "CANCELLING" in cluster.ok("queue", "lab", "-s").out
    three = cluster.submit("--num-nodes", "3", "--gpus", "H100:8", "true")
    record = cluster.wait(three, "SUCCEEDED")
    assert {entry["node"] for entry in record["nodes"]} == {"node0", "node1", "node3"}
    gate.open()
    cluster.wait(other, "SUCCEEDED")

    cluster.lab.thaw("node2")
    cluster.wait(held, "CANCELLED")
    assert cluster.alive("node2") == []
    cluster.wait(cluster.submit(*ON["node2"], "true"), "SUCCEEDED")


def test_a_gang_fails_when_a_node_is_lost_for_good_and_a_job_alone_there_waits_for_the_truth(
    cluster: Remote,
) -> None:
    gate = cluster.gate()
    cluster.set("lost_after", "3")
    cluster.kill_dispatcher()
    whole = ("--gpus", "H100:8")
    gang = cluster.submit("--num-nodes", "4", *whole, gate.wait)
    alone = cluster.submit(*ON["node3"], gate.wait)
    cluster.until_waiting(gate, "node0", "node1", "node2")
    cluster.until_waiting(gate, "node3", count=2)
    cluster.lab.power_off("node3")

    record = cluster.wait(gang, "FAILED_DRIVER")
    assert "node3" in record["reason"] and "unreachable since" in record["reason"]
    assert [cluster.alive(node) for node in ("node0", "node1", "node2")] == [[], [], []]
    three = cluster.submit("--num-nodes", "3", *whole, "true")
    four = cluster.submit("--num-nodes", "4", *whole, "true")
    cluster.wait(three, "SUCCEEDED")
    now = cluster.jobs()
    assert (now[four]["status"], now[alone]["status"]) == ("PENDING", "RUNNING")
    assert "node3 is unreachable since" in now[alone]["reason"]

    cluster.lab.power_on("node3")
    assert cluster.wait(alone, "FAILED_DRIVER")["reason"] == "node rebooted"
    cluster.wait(four, "SUCCEEDED")
    cluster.set("lost_after", "600")
    cluster.kill_dispatcher()


def test_connections_that_break_and_daemons_that_restart_end_no_job(cluster: Remote) -> None:
    gate = cluster.gate()
    tales = {node: Tale(gate) for node in ("node0", "node1")}
    ids = {node: cluster.submit(*ON[node], tale.script) for node, tale in tales.items()}
    records = cluster.wait_all(ids.values(), "RUNNING")
    cluster.until(lambda: all(cluster.raw(records[i], 0) for i in ids.values()), "their logs come")
    for node in ("node1", "node0"):
        cluster.lab.restart_sshd(node)
        cluster.hang_up(node)
    cluster.wait(cluster.submit("--num-nodes", "4", "true"), "SUCCEEDED")
    gate.open()

    for node, job in ids.items():
        assert cluster.wait(job, "FAILED")["exit_codes"] == [Tale.CODE]
        cluster.until_told(records[job], tales[node])


def test_a_worker_with_another_host_key_is_not_talked_to_and_the_others_go_on(cluster: Remote) -> None:
    node3 = cluster.lab.host("node3")
    key = "/etc/ssh/ssh_host_ed25519_key"
    kept = {path: node3.read(path) for path in (key, key + ".pub")}
    node3.new_host_key()
    cluster.lab.reboot("node3")
    node3.path("/var/log/sshd.log").write_text("")
    cluster.submit("true")
    cluster.until_unreachable("node3")

    reason = cluster.nodes()["node3"]["reason"]
    assert "host key" in reason, reason
    cluster.wait(cluster.submit("--num-nodes", "3", "true"), "SUCCEEDED")
    log = node3.read("/var/log/sshd.log")
    assert "Connection" in log and "Accepted" not in log and " ada " not in log, log

    for path, text in kept.items():
        node3.write(path, text, 0o600)
    cluster.lab.restart_sshd("node3")
    cluster.wait(cluster.submit(*ON["node3"], "true"), "SUCCEEDED")


def test_what_runs_is_asked_for_also_if_its_folder_can_no_longer_be_sent(cluster: Remote) -> None:
    """By then its node says no to that, as something else is there. It must not be taken for unstarted."""
    gate = cluster.gate()
    cluster.file("given/file", "")
    cluster.file(
        "mounts.yaml",
        "resources: {accelerators: 'A100:1'}\nfile_mounts: {~/mounted: ./given}\n"
        "run: rm ~/mounted; mkdir ~/mounted; %s; rmdir ~/mounted; exit 7\n" % gate.wait,
    )
    job = LocalQueue.job_id(cluster.ok("launch", "-c", "lab", "mounts.yaml", "-y", "-d"))
    cluster.until_waiting(gate, "node1")
    cluster.hang_up("node1")
    cluster.until(lambda: "its folder did not come" in cluster.ok("status", "lab").out, "it is sent again")

    gate.open()
    assert cluster.wait(job, "FAILED")["exit_codes"] == [7]
    assert gate.waiting("node1") == 1
