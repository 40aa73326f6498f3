"""The variables of run and setup: SkyPilot's names, values and precedence, their twins, and the devices."""

from __future__ import annotations

import json

import pytest

from skyq.core.model import UNIT, Device
from skyq.core.rankenv import MASTER_PORTS, JobFacts, run_env, setup_env, task_id, whole_devices

FACTS = JobFacts(
    cluster="lab",
    job_id=7,
    task_id="sky-2026-01-02-03-04-05-678901_lab_7",
    user="me",
    node_ips=("10.0.0.1", "10.0.0.2"),
    devices_per_node=2,
)
DEVICES = [Device(0, "H100", "GPU-aa"), Device(3, "H100", "GPU-dd")]


def run(
    rank: int = 1, devices: list[Device] = DEVICES, facts: JobFacts = FACTS, **user: str
) -> dict[str, str]:
    """What `run` sees."""
    return run_env(facts, rank, devices, user)


def setup(rank: int = 2, **user: str) -> dict[str, str]:
    """What `setup` sees on the last node of a cluster of three."""
    return setup_env(FACTS, rank, ["10.0.0.1", "10.0.0.2", "10.0.0.3"], user)


def sky(env: dict[str, str], prefix: str = "SKYPILOT_") -> dict[str, str]:
    """The variables with a prefix, without it; those that only skyq has left out."""
    own = ("SKYQ_GPU_IDS", "SKYQ_GPU_UUIDS", "SKYQ_ATTEMPT")
    return {
        name[len(prefix) :]: value
        for name, value in env.items()
        if name.startswith(prefix) and name not in own
    }


# Values.


def test_run_sees_what_skypilot_sets() -> None:
    found = sky(run())

    assert json.loads(found.pop("CLUSTER_INFO")) == {
        **{"cluster_name": "lab", "cloud": "ssh", "region": "lab", "zone": None}
    }
    assert found == {
        "NODE_RANK": "1",
        "NODE_IPS": "10.0.0.1\n10.0.0.2",
        "NUM_NODES": "2",
        "NUM_GPUS_PER_NODE": "2",
        "TASK_ID": "sky-2026-01-02-03-04-05-678901_lab_7",
        "USER": "me",
        "INTERNAL_JOB_ID": "7",
    }


def test_setup_sees_the_whole_cluster_and_no_rank_of_the_job() -> None:
    found = sky(setup())

    assert found["SETUP_NODE_RANK"] == "2"
    assert found["SETUP_NODE_IPS"] == "10.0.0.1\n10.0.0.2\n10.0.0.3"
    assert found["SETUP_NUM_GPUS_PER_NODE"] == found["NUM_NODES"] == "2"
    assert (found["TASK_ID"], found["USER"]) == (FACTS.task_id, "me")
    assert not {"NODE_RANK", "NODE_IPS", "NUM_GPUS_PER_NODE"} & found.keys()


def test_setup_sees_no_devices_and_no_place_in_a_gang() -> None:
    assert not {"CUDA_VISIBLE_DEVICES", "NODE_RANK", "MASTER_ADDR", "NNODES"} & setup().keys()


@pytest.mark.parametrize("env", [run(), setup()], ids=["run", "setup"])
def test_every_skypilot_name_has_its_twin(env: dict[str, str]) -> None:
    assert sky(env) == sky(env, "SKYQ_") != {}


@pytest.mark.parametrize("env", [run(), setup()], ids=["run", "setup"])
def test_what_launchers_take_for_their_own_is_never_set(env: dict[str, str]) -> None:
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS"} & env.keys()


@pytest.mark.parametrize("env", [run(), setup()], ids=["run", "setup"])
def test_python_prints_unbuffered(env: dict[str, str]) -> None:
    assert env["PYTHONUNBUFFERED"] == "1"


def test_the_gang_finds_its_master_which_is_the_same_for_all_ranks() -> None:
    first, second = run(rank=0), run(rank=1)
    names = ("MASTER_ADDR", "MASTER_PORT", "NNODES", "NPROC_PER_NODE")

    assert [first[name] for name in names] == [second[name] for name in names]
    assert first["MASTER_ADDR"] == "10.0.0.1"
    assert (first["NNODES"], first["NPROC_PER_NODE"]) == ("2", "2")
    assert (first["NODE_RANK"], second["NODE_RANK"]) == ("0", "1")


def test_jobs_that_run_together_have_different_ports_below_the_ephemeral_ones() -> None:
    ports = [int(run(facts=FACTS._replace(job_id=job))["MASTER_PORT"]) for job in range(1, 9001)]

    assert all(len(set(ports[at : at + 1000])) == 1000 for at in range(0, 8001, 1000))
    assert min(ports) >= 1024
    assert max(ports) < 32768
    assert len(set(ports)) == len(MASTER_PORTS)


def test_without_devices_one_process_per_node_is_to_be_started() -> None:
    env = run(devices=[], facts=FACTS._replace(devices_per_node=0))

    assert (env["NPROC_PER_NODE"], env["SKYPILOT_NUM_GPUS_PER_NODE"]) == ("1", "0")


@pytest.mark.parametrize(
    ("amount", "count"), [(0, 0), (1, 1), (UNIT // 5, 1), (UNIT, 1), (2 * UNIT, 2), (8 * UNIT, 8)]
)
def test_a_share_of_a_device_counts_as_one(amount: int, count: int) -> None:
    assert whole_devices(amount) == count


def test_a_task_id_is_made_of_time_cluster_and_job() -> None:
    assert task_id("2026-01-02-03-04-05-678901", "lab", 7) == FACTS.task_id


# Devices.


def test_the_devices_are_those_that_were_granted_in_pci_order() -> None:
    env = run()

    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("0,3", "PCI_BUS_ID")
    assert (env["SKYQ_GPU_IDS"], env["SKYQ_GPU_UUIDS"]) == ("0,3", "GPU-aa,GPU-dd")


def test_without_devices_the_variable_is_empty_and_there() -> None:
    assert run(devices=[])["CUDA_VISIBLE_DEVICES"] == ""


def test_declared_devices_have_no_uuids() -> None:
    assert run(devices=[Device(0, "H100", "GPU-aa"), Device(1, "H100")])["SKYQ_GPU_UUIDS"] == ""


# Precedence: node facts < the user's < what skyq knows better.


@pytest.mark.parametrize("name", ["SKYPILOT_NODE_IPS", "SKYPILOT_NUM_NODES", "MASTER_ADDR", "MASTER_PORT"])
def test_the_users_value_wins_over_node_facts(name: str) -> None:
    assert run(**{name: "mine"})[name] == "mine"


@pytest.mark.parametrize(
    "name",
    [
        *("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_GPUS_PER_NODE", "SKYPILOT_INTERNAL_JOB_ID"),
        *("SKYPILOT_USER", "SKYPILOT_CLUSTER_INFO", "SKYQ_NODE_RANK", "NODE_RANK"),
        *("CUDA_VISIBLE_DEVICES", "SKYQ_GPU_IDS", "SKYQ_GPU_UUIDS"),
    ],
)
def test_what_skyq_knows_better_wins_over_the_users_value(name: str) -> None:
    assert run(**{name: "mine"}) == run()


def test_the_same_holds_in_setup() -> None:
    assert setup(SKYPILOT_NUM_NODES="mine")["SKYPILOT_NUM_NODES"] == "mine"
    for name in ("SKYPILOT_SETUP_NODE_RANK", "SKYPILOT_SETUP_NODE_IPS", "SKYPILOT_USER"):
        assert setup(**{name: "mine"}) == setup()


def test_a_task_id_that_the_user_sets_is_kept_in_both() -> None:
    for env in (run(SKYPILOT_TASK_ID="resumed"), setup(SKYPILOT_TASK_ID="resumed")):
        assert env["SKYPILOT_TASK_ID"] == env["SKYQ_TASK_ID"] == "resumed"


def test_all_else_of_the_user_is_there_as_it_was_given() -> None:
    value = "a 'b' $(c) \n"

    assert run(MINE=value)["MINE"] == setup(MINE=value)["MINE"] == value
