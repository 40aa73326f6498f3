"""The documentation's scenario, command by command, and the two jobs that share a device."""

from __future__ import annotations

from tests.acceptance.test_queue import cells
from tests.cluster import LocalQueue

# The README's dnn.yaml, but that each job ends when the test says so: ~/end-ID.
DNN = """\
name: huggingface
resources:
  accelerators: H100:4
run: |
  echo "training on $CUDA_VISIBLE_DEVICES"
  %s
"""


def table(queue: LocalQueue) -> list[tuple[str, ...]]:
    """(id, name, has it started, resources, status) of each line of `skyq queue local`, as it is printed."""
    rows = [cells(line) for line in queue.ok("queue", "local").lines[2:]]
    return [(row[0], row[1], "-" if row[4] == "-" else "started", row[6], row[7]) for row in rows]


def test_five_jobs_on_four_devices_start_as_soon_as_they_fit(queue: LocalQueue) -> None:
    queue.file("dnn.yaml", DNN % queue.until_open("end-$SKYPILOT_INTERNAL_JOB_ID"))

    queue.ok("launch", "-c", "local", "dnn.yaml", "-d", "-y")
    queue.wait(1, "RUNNING")
    queue.ok("exec", "local", "dnn.yaml", "-d", "-n", "job2", "--gpus=H100:1")
    queue.ok("exec", "local", "dnn.yaml", "-d", "-n", "job3", "--gpus=H100:1")
    queue.ok("exec", "local", "dnn.yaml", "-d", "-n", "job4", "--gpus=H100:4")
    queue.ok("exec", "local", "dnn.yaml", "-d", "-n", "job5", "--gpus=H100:2")
    assert table(queue) == [
        ("5", "job5", "-", "1x[H100:2]", "PENDING"),
        ("4", "job4", "-", "1x[H100:4]", "PENDING"),
        ("3", "job3", "-", "1x[H100:1]", "PENDING"),
        ("2", "job2", "-", "1x[H100:1]", "PENDING"),
        ("1", "huggingface", "started", "1x[H100:4]", "RUNNING"),
    ]

    queue.open_gate("end-1")
    queue.wait_all([2, 3, 5], "RUNNING")
    assert table(queue) == [
        ("5", "job5", "started", "1x[H100:2]", "RUNNING"),
        ("4", "job4", "-", "1x[H100:4]", "PENDING"),
        ("3", "job3", "started", "1x[H100:1]", "RUNNING"),
        ("2", "job2", "started", "1x[H100:1]", "RUNNING"),
        ("1", "huggingface", "started", "1x[H100:4]", "SUCCEEDED"),
    ]
    assert queue.job(4)["reason"] == "needs 4 H100 on one node; none free (jobs 2, 3, 5 hold 4)"

    for ended in (3, 2):
        queue.open_gate("end-%d" % ended)
        queue.wait(ended, "SUCCEEDED")
        assert queue.states()[4] == "PENDING"
    queue.open_gate("end-5")
    queue.wait(4, "RUNNING")
    queue.open_gate("end-4")
    queue.wait_all(range(1, 6), "SUCCEEDED")
    assert [queue.log(job_id) for job_id in range(1, 6)] == [
        "training on %s\n" % devices for devices in ("0,1,2,3", "0", "1", "0,1,2,3", "2,3")
    ]


def test_two_jobs_share_one_device(queue: LocalQueue) -> None:
    queue.file(
        "sky_workdir/train.py", "import os, sys\nprint(sys.argv[1:], os.environ['CUDA_VISIBLE_DEVICES'])\n"
    )
    command = ["--", "python", "train.py", "--lr", "1e-3"]
    queue.bashrc('python() { python3 "$@"; until [ -e ~/gate ]; do sleep 0.05; done; }\n')
    for _ in range(2):
        queue.ok("exec", "local", "--gpus", "H100:0.5", "-d", *command)
    queue.until(lambda: queue.log(1) and queue.log(2), "both run at the same time")

    assert queue.log(1) == queue.log(2) == "['--lr', '1e-3'] 0\n"
    assert set(queue.states().values()) == {"RUNNING"}
    queue.open_gate()
    queue.wait_all([1, 2], "SUCCEEDED")
