"""Every file of sample_tasks/, run as it stands."""

from __future__ import annotations

import pytest

from tests.cluster import LocalQueue
from tests.program import ROOT

ELSEWHERE = {"docker", "mpi", "torchrun"}
"""Need more than bash: test_docker.py and test_frameworks.py run them."""
SAMPLES = [each for each in sorted((ROOT / "sample_tasks").glob("*.yaml")) if each.stem not in ELSEWHERE]
SAYS = {
    "gpu_sharing": ["a quarter of device 0"],
    "checkpoints": ["starting after step 0", "done after step 5"],
    "hello": ["Hello from job 1 of me", "rank 0 of 1, 0 devices: ''"],
    "dnn": ["training on devices 0,1,2,3", "trained"],
    "sweep": ["training with lr=1e-2 seed=0 on device 0"],
    "setup_and_run": ["running in {home}/sky_workdir/skyq-sample-venv"],
    "env_and_secrets": ['it\'s "quoted" & safe', "epoch 1 with Python 3.10", "the token has 16 characters"],
}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_runs_as_it_stands(queue: LocalQueue, sample) -> None:
    queue.ok("launch", "-c", "local", str(sample), "-y")

    said = [line.format(home=queue.user_home) for line in SAYS[sample.stem]]
    assert queue.log(1).splitlines() == said


def test_four_shares_run_on_one_device_at_once(queue: LocalQueue) -> None:
    sample = str(ROOT / "sample_tasks" / "gpu_sharing.yaml")
    for _ in range(5):
        queue.submit(sample, "--env", "SECONDS_OF_WORK=600")
    queue.wait_all([1, 2, 3, 4, 5], "RUNNING")

    devices = [[each["index"] for each in job["nodes"][0]["devices"]] for job in queue.jobs().values()]
    assert sorted(devices) == [[0], [0], [0], [0], [1]]


def test_a_long_job_goes_on_where_it_was_cancelled(queue: LocalQueue) -> None:
    sample = str(ROOT / "sample_tasks" / "checkpoints.yaml")
    first = queue.submit(sample, "--env", "STEPS=100000")
    queue.until_file(queue.user_home / "checkpoint-sample")
    queue.ok("cancel", "local", "-y", str(first))
    queue.wait(first, "CANCELLED")
    stopped = queue.log(first).splitlines()[-1]
    queue.ok("exec", "local", sample, "--env", "STEPS=1")

    assert stopped.startswith("stopped after step ")
    assert queue.log(2).splitlines()[0] == stopped.replace("stopped", "starting")


def test_a_sweep_is_a_job_for_each_combination(queue: LocalQueue) -> None:
    sample = str(ROOT / "sample_tasks" / "sweep.yaml")
    queue.ok("exec", "local", sample, "--sweep", "LR=1e-2,1e-3", "--sweep", "SEED=0..2")

    assert [queue.log(n).partition(" on ")[0] for n in (1, 2, 6)] == [
        *("training with lr=1e-2 seed=0", "training with lr=1e-2 seed=1", "training with lr=1e-3 seed=2")
    ]
    assert queue.job(6)["job_name"] == "sweep-LR-1e-3-SEED-2"


def test_each_sample_is_known_here() -> None:
    assert sorted(SAYS) == [path.stem for path in SAMPLES]


def test_a_sample_with_setup_says_so_where_setup_was_not_run(queue: LocalQueue) -> None:
    result = queue.run("exec", "local", str(ROOT / "sample_tasks" / "setup_and_run.yaml"))

    assert result.code == 100
    assert "no venv: launch this task once" in queue.log(1)


def test_the_command_line_overrides_a_samples_envs_and_secrets(queue: LocalQueue) -> None:
    sample = str(ROOT / "sample_tasks" / "env_and_secrets.yaml")

    queue.ok("exec", "local", sample, "--env", "EPOCHS=3", "--secret", "API_TOKEN", env={"API_TOKEN": "abc"})

    assert queue.log(1).splitlines()[1:] == [
        *("epoch %d with Python 3.10" % epoch for epoch in (1, 2, 3)),
        "the token has 3 characters",
    ]
