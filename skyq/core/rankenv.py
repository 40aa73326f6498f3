"""The environment that one rank sees, as plain dicts.

Names, values and precedence are SkyPilot's (sky/skylet/constants.py, task_codegen.py): node facts,
then the task's envs, then its secrets, then what skyq knows better. Each SKYPILOT_* name has a twin
SKYQ_*. RANK, WORLD_SIZE, LOCAL_RANK and OMP_NUM_THREADS are never set: torchrun and friends would
take them for their own.
"""

from __future__ import annotations

import json

from skyq.core.model import UNIT, Device
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Mapping, Sequence, Tuple

MASTER_PORTS = range(20_000, 28_000)
"""Below Linux's ephemeral ports (32768…), so that no client socket sits on one by chance."""


class JobFacts(NamedTuple):
    """What is the same for all ranks of a job."""

    cluster: str
    job_id: int
    task_id: str
    user: str
    node_ips: Tuple[str, ...]
    """Rank order."""
    devices_per_node: int
    """Devices asked for per node, a share counted as one."""
    attempt: int = 1
    """As people count."""


def whole_devices(amount: int) -> int:
    """SKYPILOT_NUM_GPUS_PER_NODE: 0.2 of a device counts as 1."""
    return -(-amount // UNIT)


def task_id(local_stamp: str, cluster: str, job_id: int) -> str:
    """SKYPILOT_TASK_ID; `local_stamp` is YYYY-MM-DD-HH-MM-SS-ffffff in local time."""
    return "sky-%s_%s_%d" % (local_stamp, cluster, job_id)


def run_env(
    facts: JobFacts, rank: int, devices: Sequence[Device], user_env: Mapping[str, str]
) -> Dict[str, str]:
    """What `run` sees on one rank, on top of the base environment. `user_env`: envs, then secrets."""
    sky = {"NODE_IPS": "\n".join(facts.node_ips), "NUM_NODES": str(len(facts.node_ips))}
    env = _twins(sky)
    env.update(
        MASTER_ADDR=facts.node_ips[0],
        MASTER_PORT=str(MASTER_PORTS[facts.job_id % len(MASTER_PORTS)]),
        NNODES=str(len(facts.node_ips)),
        NPROC_PER_NODE=str(max(1, facts.devices_per_node)),
        CUDA_DEVICE_ORDER="PCI_BUS_ID",
    )
    env.update(user_env)
    env.update(_job_twins(facts, user_env))
    env.update(_twins({"NUM_GPUS_PER_NODE": str(facts.devices_per_node), "NODE_RANK": str(rank)}))
    indices = ",".join(str(device.index) for device in devices)
    env.update(
        NODE_RANK=str(rank),
        CUDA_VISIBLE_DEVICES=indices,
        # The same for node/wrapper.py, whatever the script makes of CUDA_VISIBLE_DEVICES.
        SKYQ_GPU_IDS=indices,
        SKYQ_ATTEMPT=str(facts.attempt),
        SKYQ_GPU_UUIDS=",".join(device.uuid for device in devices) if all(d.uuid for d in devices) else "",
        PYTHONUNBUFFERED="1",
    )
    return env


def setup_env(
    facts: JobFacts, rank: int, cluster_ips: Sequence[str], user_env: Mapping[str, str]
) -> Dict[str, str]:
    """What `setup` sees on one node: no devices, no NODE_RANK or NODE_IPS; `rank` counts all nodes."""
    env = _twins({"NUM_NODES": str(len(facts.node_ips))})
    env.update(user_env)
    env.update(_job_twins(facts, user_env))
    env.update(
        _twins(
            {
                "SETUP_NODE_RANK": str(rank),
                "SETUP_NODE_IPS": "\n".join(cluster_ips),
                "SETUP_NUM_GPUS_PER_NODE": str(facts.devices_per_node),
            }
        )
    )
    env.update(SKYQ_ATTEMPT=str(facts.attempt), PYTHONUNBUFFERED="1")
    return env


def _job_twins(facts: JobFacts, user_env: Mapping[str, str]) -> Dict[str, str]:
    info = {"cluster_name": facts.cluster, "cloud": "ssh", "region": facts.cluster, "zone": None}
    return _twins(
        {
            # A task that sets its own id (a resumed run) keeps it, as in the reference.
            "TASK_ID": user_env.get("SKYPILOT_TASK_ID", facts.task_id),
            "CLUSTER_INFO": json.dumps(info),
            "USER": facts.user,
            "INTERNAL_JOB_ID": str(facts.job_id),
        }
    )


def _twins(values: Mapping[str, str]) -> Dict[str, str]:
    return {prefix + name: value for name, value in values.items() for prefix in ("SKYPILOT_", "SKYQ_")}
