"""Workers of every rung: what their jobs start ends there, whatever is killed; and what it costs the node."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from skyq.transport import cgroup
from tests.escapes import HIDDEN, STAY
from tests.hang import Hang, why_not
from tests.lab import Host, Lab
from tests.ssh.remote import ON, Remote, commands

MakeLab = Callable[..., Lab]


def test_a_worker_whose_user_kills_all_that_is_his_is_used_again_at_once(cluster: Remote) -> None:
    never = cluster.gate()
    alone = cluster.submit(*ON["node1"], "(setsid sleep 600 &); " + never.wait)
    gang = cluster.submit("--num-nodes", "4", never.wait)
    cluster.until_waiting(never, "node0", "node2", "node3")
    cluster.until_waiting(never, "node1", count=2)
    cluster.lab.host("node1").run(["sh", "-c", "kill -9 -1"])
    records = cluster.wait_all([alone, gang], "FAILED_DRIVER")

    assert records[alone]["reason"] == "exit status unknown: its shim was killed"
    assert cluster.alive("node1") == []
    again = cluster.submit("--gpus", "A100:4", "true")
    assert cluster.wait(again, "SUCCEEDED")["nodes"][0]["node"] == "node1"


@contextmanager
def delegated(host: Host) -> Iterator[Path]:
    """What logs in there from now on is in a cgroup of ada's, as in a scope of her systemd."""
    if why := cgroup.why_not(cgroup.base()):
        pytest.skip("NOT TESTED: cgroup v2: %s" % why)
    group = Path(cgroup.make(cgroup.base(), "lab.%d.%s" % (os.getpid(), host.name)))
    try:
        uid = host.home.stat().st_uid
        for path in (group, *group.iterdir()):
            shutil.chown(path, uid, uid)
        for process, words in commands(host):
            if words.startswith("sshd: "):
                (group / "cgroup.procs").write_text(str(process.pid))
        yield group
    finally:
        while cgroup.kill(str(group)):
            pass
        cgroup.remove(str(group))


def kill_shim_and_agent(host: Host) -> None:
    """Of the only job there."""
    agents = [process for process, words in commands(host) if " _node " in words]
    for process in agents:
        process.kill()


def test_each_worker_has_the_best_rung_that_it_offers(make_lab: MakeLab) -> None:
    lab = make_lab(3, 1)
    cluster = Remote(lab).pool()
    for node in lab.nodes:
        node.write("/home/ada/stay.py", STAY)
    with delegated(lab.node(1)) as group:
        words = "python3 -I -S ~/stay.py ~/lock"
        hidden = HIDDEN.replace("{stay}", words) % "stop" + "; until [ -s ~/lock ]; do sleep 0.05; done; "
        gate = cluster.gate()
        job = cluster.submit("--num-nodes", "3", hidden + gate.wait)
        cluster.until_waiting(gate, "node0", "node1", "node2")
        groups = [path.name for path in group.iterdir() if path.is_dir()]
        doctor = cluster.run("doctor", "lab", "-o", "json").json()["lab"]
        text = {finding["check"]: finding["text"] for finding in doctor}
        escaped = [_recorded(lab.node(number)) for number in range(3)]
        for number in range(3):
            kill_shim_and_agent(lab.node(number))
        cluster.wait(job, "FAILED_DRIVER")

        assert [name.endswith(".1.run-1") for name in groups] == [True]
        assert text["node1"].endswith(
            "\ncgroup v2: the kernel ends a job as a whole, whatever its processes do"
        )
        assert "\nsubreaper and marks: " in text["node2"]
        assert text["node2"].endswith("(no cgroup v2: not delegated to this account)")
        assert [process for process in escaped if process.is_running()] == []
        assert [path.name for path in group.iterdir() if path.is_dir()] == []


def _recorded(host: Host) -> psutil.Process:
    return host.process(int(host.read("/home/ada/lock").split()[0]))


def test_what_is_stuck_on_a_worker_is_in_quarantine_until_that_is_rebooted(cluster: Remote) -> None:
    if why := why_not():
        pytest.skip("NOT TESTED: no file system that hangs can be had here: %s" % why)
    with Hang(Path("/home/ada/hang"), cluster.lab.host("node1").prefix):
        gate = cluster.gate()
        script = "cat ~/hang/x & until grep -q request_wait /proc/$!/wchan; do sleep 0.1; done; "
        job = cluster.submit("--gpus", "A100:1", script + "exit 3")
        record = cluster.wait(job, "FAILED")
        waiting = cluster.submit("--gpus", "A100:4", gate.wait)

        assert record["reason"].endswith(" (cat) on node1 can't be killed, so device 8 is in quarantine")
        assert cluster.job(waiting)["reason"].endswith("; 3 free, in quarantine: 1 on node1")
        cluster.kill_dispatcher()
        assert cluster.job(waiting)["status"] == "PENDING"
        cluster.lab.reboot("node1")
        cluster.wait(waiting, "RUNNING")
    gate.open()
    assert json.dumps(cluster.nodes()["node1"]["devices"]).count("killed") == 0
