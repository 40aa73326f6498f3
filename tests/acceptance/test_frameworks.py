"""Frameworks that start processes of their own, unchanged: torchrun, accelerate launch, mpirun.

SKYQ_TEST_TORCH names a Python with PyTorch; else this one serves if it has it, or Debian's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster import LocalQueue
from tests.program import ROOT

SAMPLES = ROOT / "sample_tasks"
TRAIN = """\
import torch, torch.distributed as dist

dist.init_process_group("gloo")
one = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(one)
print("rank %d of %d: %g" % (dist.get_rank(), dist.get_world_size(), one.item()), flush=True)
dist.destroy_process_group()
"""
ACCELERATED = """\
import torch
from accelerate import Accelerator

own = Accelerator(cpu=True)
ranks = own.gather(torch.tensor([own.process_index]))
print("rank %d of %d: %s" % (own.process_index, own.num_processes, ranks.tolist()), flush=True)
own.wait_for_everyone()
own.end_training()
"""
# Debian 12's PyTorch can't start processes on Debian 12's Python, unless it copies their output.
HALF_BROKEN = (
    "from torch.distributed.elastic.multiprocessing import Std; assert Std.from_str('0') is not None"
)
OLD_ACCELERATE = ["accelerate==0.16.0", "packaging", "psutil", "pyyaml"]


@dataclass
class Torch:
    """A Python with PyTorch."""

    python: str
    env: dict[str, str] = field(default_factory=dict)
    """What its launchers need."""

    def has(self, code: str) -> bool:
        """Whether some Python works there."""
        env = {**os.environ, **self.env}
        return (
            subprocess.run([self.python, "-c", code], env=env, capture_output=True, check=False).returncode
            == 0
        )

    def words(self) -> list[str]:
        """Options of exec that put it first on the job's PATH."""
        path = "%s:/usr/local/bin:/usr/bin:/bin" % os.path.dirname(self.python)
        given = {"PATH": path, **self.env}
        return [word for pair in given.items() for word in ("--env", "%s=%s" % pair)]


@pytest.fixture(scope="module")
def torch() -> Torch:
    """The first Python that has it."""
    for python in (os.environ.get("SKYQ_TEST_TORCH", ""), sys.executable, "/usr/bin/python3"):
        if os.access(python, os.X_OK) and os.access(
            os.path.join(os.path.dirname(python), "torchrun"), os.X_OK
        ):
            found = Torch(python)
            if found.has("import torch.distributed"):
                if not found.has(HALF_BROKEN):
                    found.env = {"PET_REDIRECTS": "1", "PET_TEE": "1"}
                return found
    pytest.skip("TORCHRUN WAS NOT TESTED: no Python here has PyTorch (apt install python3-torch)")


@pytest.fixture(scope="module")
def accelerate(torch: Torch, tmp_path_factory: pytest.TempPathFactory) -> Torch:
    """The same with accelerate; for an old PyTorch an old one from the package index."""
    if torch.has("import accelerate"):
        return torch
    why = "accelerate is missing beside PyTorch (pip install accelerate)"
    if not torch.has("import torch; assert torch.__version__ >= '2'"):
        folder = tmp_path_factory.mktemp("accelerate")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*pip, *OLD_ACCELERATE], capture_output=True, text=True, check=False)
        found = Torch(torch.python, {**torch.env, "PYTHONPATH": str(folder)})
        if done.returncode == 0 and found.has("import accelerate"):
            return found
        why = "pip can't get %s: %s" % (OLD_ACCELERATE[0], done.stderr.strip()[-300:])
    pytest.skip("ACCELERATE LAUNCH WAS NOT TESTED: %s" % why)


def said(queue: LocalQueue, job: int = 1) -> list[str]:
    """What the ranks printed, without the launchers' own words and marks."""
    lines = (line[line.find("rank ") :] for line in queue.log(job).splitlines() if "rank " in line)
    return sorted(lines)


def both(sums: str) -> list[str]:
    return ["rank %d of 2: %s" % (rank, sums) for rank in range(2)]


# torchrun.


def test_torchrun_by_itself(queue: LocalQueue, torch: Torch) -> None:
    script = queue.file("train.py", TRAIN)
    queue.ok("exec", "local", *torch.words(), "torchrun --standalone --nproc_per_node=2 %s" % script)

    assert said(queue) == both("3")


def test_torchrun_by_what_skyq_gives_two_jobs_at_a_time(queue: LocalQueue, torch: Torch) -> None:
    script = queue.file("train.py", TRAIN)
    words = "--nnodes $NNODES --node_rank $NODE_RANK --nproc_per_node $NPROC_PER_NODE"
    where = "--master_addr $MASTER_ADDR --master_port $MASTER_PORT"
    for _ in range(2):
        queue.submit("--gpus", "H100:2", *torch.words(), "torchrun %s %s %s" % (words, where, script))
    queue.wait_all([1, 2], "SUCCEEDED")

    assert said(queue, 1) == said(queue, 2) == both("3")


def test_the_torchrun_sample(queue: LocalQueue, torch: Torch) -> None:
    queue.ok("exec", "local", *torch.words(), str(SAMPLES / "torchrun.yaml"))

    assert said(queue) == both("the sum over all ranks is 3")


def test_a_rank_of_torchrun_that_fails_fails_the_job_and_nothing_stays(
    queue: LocalQueue, torch: Torch
) -> None:
    ends = "import os, sys, time\ntime.sleep(600) if os.environ['RANK'] == '1' else sys.exit(3)\n"
    script = queue.file("train.py", TRAIN + ends)
    result = queue.run(
        "exec", "local", *torch.words(), "torchrun --standalone --nproc_per_node=2 %s" % script
    )

    assert result.code == 100
    assert queue.job(1)["status"] == "FAILED"
    assert queue.job_processes() == []


# accelerate.


def test_accelerate_launch(queue: LocalQueue, accelerate: Torch) -> None:
    script = queue.file("train.py", ACCELERATED)
    launch = (
        "python3 -m accelerate.commands.accelerate_cli launch --multi_gpu --mixed_precision no"
        " --dynamo_backend no --num_machines $NNODES --machine_rank $NODE_RANK"
        " --num_processes $((NNODES * NPROC_PER_NODE))"
        " --main_process_ip $MASTER_ADDR --main_process_port $MASTER_PORT %s" % script
    )
    queue.ok("exec", "local", "--gpus", "H100:2", *accelerate.words(), launch)

    assert said(queue) == both("[0, 1]")


# MPI.


@pytest.fixture
def as_root() -> list[str]:
    """Options of exec by which Open MPI runs as root too."""
    for folder in ("/usr/bin", "/usr/local/bin"):
        if os.access(os.path.join(folder, "mpirun"), os.X_OK):
            break
    else:
        pytest.skip("MPIRUN WAS NOT TESTED: it is missing here (apt install openmpi-bin)")
    return ["--env", "OMPI_ALLOW_RUN_AS_ROOT=1", "--env", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"]


def test_the_mpi_sample(queue: LocalQueue, as_root: list[str]) -> None:
    queue.ok("exec", "local", *as_root, str(SAMPLES / "mpi.yaml"))

    assert said(queue) == ["rank 0 of 2", "rank 1 of 2"]


def test_all_of_mpirun_ends_at_cancel(queue: LocalQueue, as_root: list[str], tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 slots=2\n")
    script = "mpirun --hostfile %s sh -c 'touch ~/started-$OMPI_COMM_WORLD_RANK; exec sleep 1000'" % hosts
    queue.submit(*as_root, script)
    queue.until(lambda: len(list(queue.user_home.glob("started-*"))) == 2, "both ranks run")
    queue.ok("cancel", "local", "1", "-y")

    queue.wait(1, "CANCELLED")
    assert queue.job_processes() == []
