"""`skyq launch`: exec with the task's setup, which is a step of the job."""

from __future__ import annotations

import pytest

from tests.cluster import LocalQueue

SETUP_AND_RUN = """\
name: both
resources: {accelerators: H100:1}
setup: |
  echo "setting up, devices ${CUDA_VISIBLE_DEVICES-unset}"
run: |
  echo "running, devices $CUDA_VISIBLE_DEVICES"
"""

USEFUL = """
📋 Useful Commands
Job ID: 1
├── To cancel the job:\t\tskyq cancel local 1
├── To stream job logs:\t\tskyq logs local 1
└── To view job queue:\t\tskyq queue local
Cluster name: local
└── To submit a job:\t\tskyq exec local yaml_file
"""


def test_setup_runs_before_run_without_devices_and_with_a_log_of_its_own(queue: LocalQueue) -> None:
    queue.file("task.yaml", SETUP_AND_RUN)
    result = queue.ok("launch", "-c", "local", "task.yaml", "-y")

    lines = [line for line in result.lines if "devices" in line]
    assert len(lines) == 2
    result.line(r"\(setup pid=\d+\) setting up, devices unset")
    result.line(r"\(both, pid=\d+\) running, devices 0")
    assert lines[0].startswith("(setup")
    assert queue.log(1, "setup.log") == "setting up, devices unset\n"
    assert queue.log(1) == "running, devices 0\n"


def test_launch_says_what_it_does_and_what_to_type_next(queue: LocalQueue) -> None:
    queue.file("task.yaml", SETUP_AND_RUN)
    result = queue.ok("launch", "-c", "local", "task.yaml", "-d")

    assert result.out == (
        "YAML to run: task.yaml\n"
        "Submitting job to cluster: local\n"
        "⚙︎ Job submitted, ID: 1\n"
        "✓ Setup detached.\n" + USEFUL
    )


def test_the_useful_commands_follow_the_log(queue: LocalQueue) -> None:
    result = queue.ok("launch", "-c", "local", "echo hi")

    assert result.out.endswith("✓ Job finished (status: SUCCEEDED).\n" + USEFUL)
    assert "Setup detached" not in result.out


def test_the_cluster_is_local_if_none_is_named(queue: LocalQueue) -> None:
    queue.ok("launch", "echo hi", "-d")

    assert queue.wait(1, "SUCCEEDED")["job_name"] == "sky-cmd"


def test_exec_of_the_same_file_runs_no_setup(queue: LocalQueue) -> None:
    queue.file("task.yaml", SETUP_AND_RUN)
    result = queue.ok("exec", "local", "task.yaml")

    assert "setting up" not in result.out
    assert queue.log(1, "setup.log") == ""


def test_no_setup_skips_it(queue: LocalQueue) -> None:
    queue.file("task.yaml", SETUP_AND_RUN)
    result = queue.ok("launch", "-c", "local", "task.yaml", "--no-setup")

    assert "setting up" not in result.out
    result.line(r"\(both, pid=\d+\) running, devices 0")


def test_a_job_is_setting_up_until_its_setup_is_over(queue: LocalQueue) -> None:
    queue.file("task.yaml", "setup: %s\nrun: %s\n" % (queue.until_open("a"), queue.until_open("b")))
    queue.ok("launch", "-c", "local", "task.yaml", "-d")

    assert queue.wait(1, "SETTING_UP")["start_at"] is None
    queue.open_gate("a")
    assert queue.wait(1, "RUNNING")["start_at"] is not None
    queue.open_gate("b")
    queue.wait(1, "SUCCEEDED")


def test_a_failed_setup_fails_the_job_and_run_never_starts(queue: LocalQueue) -> None:
    queue.file("task.yaml", "setup: echo broken; exit 7\nrun: touch ~/ran\n")
    result = queue.run("launch", "-c", "local", "task.yaml")

    assert result.code == 100
    result.line(r"\(setup pid=\d+\) broken")
    result.line(
        r"ERROR: Job 1's setup failed\. Failed workers: \(pid=\d+, returncode=7\)\. "
        r"See error logs above for more details\."
    )
    assert "✓ Job finished (status: FAILED_SETUP)." in result.lines
    assert queue.job(1)["status"] == "FAILED_SETUP"
    assert not (queue.user_home / "ran").exists()


@pytest.mark.parametrize("run", ["", "run: ''\n"])
def test_a_setup_alone_runs_as_a_job_without_devices(queue: LocalQueue, run: str) -> None:
    queue.file("task.yaml", "resources: {accelerators: H100:4}\nsetup: echo ready\n" + run)
    queue.ok("launch", "-c", "local", "task.yaml").line(r"\(setup pid=\d+\) ready")

    record = queue.job(1)
    assert (record["status"], record["resources"]) == ("SUCCEEDED", "1x[CPU:1+]")


def test_without_anything_to_run_no_job_is_made(queue: LocalQueue) -> None:
    queue.file("task.yaml", "name: nothing\nresources: {accelerators: H100:1}\n")

    for words in (["task.yaml"], []):
        assert "Run commands not specified or empty." in queue.ok("launch", "-c", "local", *words).lines
    assert queue.jobs() == {}


def test_what_a_setup_leaves_in_the_workdir_is_there_for_the_next_job(queue: LocalQueue) -> None:
    queue.file("task.yaml", "setup: echo data > prepared\nrun: cat prepared\n")
    queue.ok("launch", "-c", "local", "task.yaml")
    queue.ok("exec", "local", "cat prepared")

    assert queue.log(1) == queue.log(2) == "data\n"


def test_flags_without_an_object_here_are_ignored_with_one_warning(queue: LocalQueue) -> None:
    result = queue.ok("launch", "-c", "local", "--down", "-i", "5", "--fast", "echo hi")

    warnings = [line for line in result.err.splitlines() if line.startswith("Warning")]
    assert warnings == ["Warning: --down, -i, --fast: no meaning here, ignored."]


def test_a_cluster_name_that_is_no_cluster_is_an_error(queue: LocalQueue) -> None:
    result = queue.run("launch", "-c", "mycluster", "echo hi", "-y")

    assert result.code == 1
    assert "Cluster 'mycluster' does not exist." in result.err
