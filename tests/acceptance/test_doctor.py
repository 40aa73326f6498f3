"""`skyq doctor`: one line for each thing, ok or what to do."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import LocalQueue, Result, kill

CHECKS = [
    "python",
    "file",
    "state",
    "disk",
    "use",
    "cron",
    "clock",
    "dispatcher",
    "devices",
    "use of devices",
    "containment",
    "claim",
]
OF_THIS_MACHINE = {"state", "disk", "devices", "use of devices"}
"""These depend on what runs the tests: /tmp in memory, real devices in use."""

NVIDIA_SMI = """\
#!/bin/sh
# Answers like nvidia-smi 550 on a machine with two devices; the processes are what the test says.
case $1 in
--query-gpu=index,uuid,name)
    echo "0, GPU-6a1d2f7e-11d5-4f0f-9f53-0b3b3f2f0001, NVIDIA H100 80GB HBM3"
    echo "1, GPU-6a1d2f7e-11d5-4f0f-9f53-0b3b3f2f0002, NVIDIA H100 80GB HBM3" ;;
--query-compute-apps=gpu_uuid,pid,used_memory,process_name) cat "$0.apps" ;;
*) exit 2 ;;
esac
"""
UUIDS = ["GPU-6a1d2f7e-11d5-4f0f-9f53-0b3b3f2f000%d" % number for number in (1, 2)]


def finding(result: Result, check: str) -> dict[str, Any]:
    """One of `doctor -o json`."""
    found = [one for one in result.json()["local"] if one["check"] == check]
    assert len(found) == 1, str(result)
    return dict(found[0])


def examined(queue: LocalQueue, check: str) -> dict[str, Any]:
    return finding(queue.run("doctor", "-o", "json"), check)


@pytest.fixture
def nvidia_smi(queue: LocalQueue) -> Path:
    """A machine with two devices; who uses them stands in a file beside it."""
    folder = queue.root / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    use(program)
    queue.env["PATH"] = "%s:%s" % (folder, queue.env["PATH"])
    (queue.home / "pools.yaml").unlink()
    return program


def use(nvidia_smi: Path, *processes: tuple[int, int]) -> None:
    """What it says from now on: (device, pid)."""
    lines = ["%s, %d, 4096, /usr/bin/python3.11\n" % (UUIDS[device], pid) for device, pid in processes]
    Path("%s.apps" % nvidia_smi).write_text("".join(lines))


# What it says.


def test_every_line_is_ok_on_a_machine_that_is_well(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")
    result = queue.run("doctor")

    assert result.lines[0] == "Cluster local"
    marks = {match[2]: match[1] for line in result.lines if (match := re.match(r"(ok|!!)  (.{15}) \S", line))}
    assert [name.strip() for name in marks] == CHECKS
    assert {name.strip() for name, mark in marks.items() if mark != "ok"} <= OF_THIS_MACHINE
    assert result.code == (1 if "!!" in marks.values() else 0)
    assert result.err == ""


def test_json_has_the_same(queue: LocalQueue) -> None:
    result = queue.run("doctor", "local", "-o", "json")

    assert [one["check"] for one in result.json()["local"]] == CHECKS
    assert all(set(one) == {"check", "ok", "text", "todo"} for one in result.json()["local"])
    assert result.code == (0 if all(one["ok"] for one in result.json()["local"]) else 1)
    assert all(one["ok"] or one["todo"] for one in result.json()["local"])


def test_it_names_what_runs_and_where_it_lies(queue: LocalQueue) -> None:
    result = queue.run("doctor")

    result.line(r"ok  python +3\.\d+\.\d+, /.*")
    result.line(r"ok  file +skyq \d+\.\d+\.\d+, (code [0-9a-f]{16}, unpacked in|a checkout:) .*")
    result.line(r"..  state +%s \(0700\), on \w+.*" % queue.state_dir)
    result.line(r"ok  containment +(cgroup v2: the kernel ends a job as a whole|subreaper and marks: ).*")


def test_it_shows_what_takes_room(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "head -c 3000000 /dev/zero")

    assert re.match(
        r"logs 2\.9 MB, copies of workdirs 0\.0 MB, run directories ", examined(queue, "use")["text"]
    )


def test_a_state_folder_elsewhere_is_told(queue: LocalQueue) -> None:
    text = finding(
        queue.run("doctor", "-o", "json", env={"SKYQ_STATE_DIR": str(queue.root / "state")}), "state"
    )["text"]

    assert text.startswith(str(queue.root / "state"))
    assert text.endswith(", as SKYQ_STATE_DIR says")


def test_a_cluster_that_is_not_there_is_an_error(queue: LocalQueue) -> None:
    result = queue.run("doctor", "mycluster")

    assert result.code == 1
    assert "Cluster 'mycluster' does not exist." in result.err


# What is wrong.


def test_a_folder_in_which_others_can_replace_the_state_is_wrong(queue: LocalQueue) -> None:
    queue.root.chmod(0o777)
    found = examined(queue, "state")

    assert not found["ok"]
    assert found["text"].endswith("; but others can replace it in %s" % queue.root)
    assert "chmod o-w %s" % queue.root in found["todo"]


def test_a_home_that_cannot_be_used_is_wrong_and_the_rest_is_still_told(queue: LocalQueue) -> None:
    file = queue.file("file", "")
    result = queue.run("doctor", env={"SKYQ_HOME": str(file / "home")})

    assert result.code == 1
    result.line(r"ok  python .*")
    result.line(r"!!  state +%s/home can't be used: Not a directory\. .*" % file)
    assert "Traceback" not in result.err


def test_a_damaged_database_is_wrong(queue: LocalQueue) -> None:
    queue.ok("queue", "local")
    (queue.state_dir / "queue.db").write_bytes(b"not a database, not a database, not a database")
    result = queue.run("doctor")

    assert result.code == 1
    result.line(r"!!  state +.*queue\.db is damaged.*")


def test_work_without_a_dispatcher_is_wrong_and_its_last_words_are_told(queue: LocalQueue) -> None:
    queue.submit(queue.until_open())
    queue.wait(1, "RUNNING")
    assert examined(queue, "dispatcher")["text"] == "runs"
    with open(queue.state_dir / "dispatcher.log", "a") as log:
        log.write("something went wrong\n")
    kill(queue.dispatcher())
    found = examined(queue, "dispatcher")

    assert not found["ok"]
    assert found["text"] == "none, though jobs are unfinished. The last one said:\nsomething went wrong"
    queue.ok("queue", "local")
    queue.until(lambda: examined(queue, "dispatcher")["ok"], "the next command starts one")
    queue.open_gate()


def test_a_clock_that_was_set_back_is_wrong(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")
    with sqlite3.connect(queue.state_dir / "queue.db") as db:
        db.execute("UPDATE jobs SET ended_at = ?", (time.time() + 7210,))
    db.close()
    found = examined(queue, "clock")

    assert not found["ok"]
    assert found["text"].startswith("was set back: job 1 is 2h ")


def test_a_machine_of_another_queue_is_wrong(queue: LocalQueue, tmp_path: Path) -> None:
    queue.submit(queue.until_open())
    queue.wait(1, "RUNNING")
    assert examined(queue, "claim")["text"] == "this machine is this queue's"
    found = finding(queue.run("doctor", "-o", "json", env={"SKYQ_HOME": str(tmp_path / "second")}), "claim")

    assert not found["ok"]
    assert found["text"].startswith("This machine belongs to cluster 'local' of ")
    queue.open_gate()


# Devices.


def test_devices_and_who_uses_them(queue: LocalQueue, nvidia_smi: Path) -> None:
    assert examined(queue, "devices")["text"] == "2x H100: 0 1"
    assert examined(queue, "use of devices")["text"] == "no process uses one"


def test_the_processes_of_jobs_are_no_strangers(queue: LocalQueue, nvidia_smi: Path) -> None:
    queue.submit("--gpus", "H100:1", "(setsid env -i sh -c 'echo $$ >%s/pid; sleep 1000')" % queue.user_home)
    use(nvidia_smi, (0, int(queue.until_file("pid"))))

    assert examined(queue, "use of devices") == {
        "check": "use of devices",
        "ok": True,
        "text": "by jobs only",
        "todo": "",
    }


def test_a_process_outside_of_the_queue_is_named(queue: LocalQueue, nvidia_smi: Path) -> None:
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        use(nvidia_smi, (1, stranger.pid))
        found = examined(queue, "use of devices")
    finally:
        stranger.send_signal(signal.SIGKILL)
        stranger.wait()

    owner = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    assert not found["ok"]
    assert found["text"].splitlines() == [
        "1 outside of the queue:",
        "device 1: python3.11, pid %d, of %s, 4096 MB" % (stranger.pid, owner),
    ]
    assert "ask the owner to submit to the queue" in found["todo"]


def test_a_job_on_a_device_that_it_does_not_hold_is_named(queue: LocalQueue, nvidia_smi: Path) -> None:
    queue.submit("--gpus", "H100:1", "echo $$ >~/pid; sleep 1000")
    pid = int(queue.until_file("pid"))
    use(nvidia_smi, (0, pid), (1, pid))

    assert examined(queue, "use of devices")["text"].splitlines()[1:] == [
        "device 1: python3.11, pid %d, of job 1, which doesn't hold the device, 4096 MB" % pid
    ]


def test_what_nvidia_smi_cannot_say_is_no_reason_to_fall(queue: LocalQueue, nvidia_smi: Path) -> None:
    lines = [
        "%s, %d, [N/A], [Not Found]" % (UUIDS[0], 2**22 + 1),
        "[N/A], [N/A], [N/A], \x1b[31mx",
        "",
        "nonsense",
    ]
    Path("%s.apps" % nvidia_smi).write_text("\n".join(lines))

    assert examined(queue, "use of devices")["text"].splitlines()[1:] == [
        "device 0: [Not Found], pid 4194305, of another container or machine"
    ]


def test_more_devices_declared_than_there_are_is_wrong(queue: LocalQueue, nvidia_smi: Path) -> None:
    queue.declare(H100=4)
    found = examined(queue, "devices")

    assert not found["ok"]
    assert found["text"] == "4x H100: 0 1 2 3, as declared; but nvidia-smi sees 2"
    assert "pools.yaml" in found["todo"]


def test_a_broken_nvidia_smi_is_wrong(queue: LocalQueue, nvidia_smi: Path) -> None:
    nvidia_smi.write_text(
        "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n"
    )
    os.utime(nvidia_smi)
    found = examined(queue, "devices")

    assert not found["ok"]
    assert "Driver/library version mismatch" in found["text"]
    assert "pools.yaml" in found["todo"]
