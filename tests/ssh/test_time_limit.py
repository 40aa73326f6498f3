"""A job whose node can't be reached ends at its limit all the same, and that is known once it is back."""

from __future__ import annotations

from tests.ssh.remote import ON, Remote


def test_a_worker_that_is_cut_off_ends_its_job_in_time(cluster: Remote) -> None:
    gate = cluster.gate()
    script = "trap 'echo saved >> ~/%s.saved; exit 0' TERM; %s" % (gate.file, gate.wait)
    job = cluster.submit(*ON["node1"], "--time", "8s", script)
    cluster.until_waiting(gate, "node1")
    cluster.lab.cut("node0", "node1")
    saved = cluster.lab.host("node1").home / (gate.file + ".saved")
    cluster.until(saved.exists, "it has ended")
    assert cluster.job(job)["status"] == "RUNNING"  # as far as is known

    cluster.lab.heal("node0", "node1")
    record = cluster.wait(job, "FAILED")
    assert (record["reason"], record["exit_codes"]) == ("time limit of 8s reached", [0])
    assert cluster.alive("node1") == []


def test_why_tells_of_limits_on_workers(cluster: Remote) -> None:
    gate = cluster.gate()
    job = cluster.submit(*ON["node2"][:1], ON["node2"][1][:-1] + "4", "--time", "2h", gate.wait)
    cluster.until_waiting(gate, "node2")
    waits = cluster.submit(*ON["node2"], "true")
    cluster.until(
        lambda: "starts in 2h 1m if all that is before it lasts" in cluster.ok("why", "lab", str(waits)).out,
        "it is told when it starts",
    )
    assert "its time limit ends it in " in cluster.ok("why", "lab", str(job)).out
    gate.open()
    cluster.wait_all([job, waits], "SUCCEEDED")
