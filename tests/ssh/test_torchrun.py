"""A training script as it is written for SkyPilot and torchrun, on several nodes."""

from __future__ import annotations

import re

from tests.acceptance.test_frameworks import TRAIN, Torch
from tests.acceptance.test_frameworks import torch as torch
from tests.ssh.remote import Remote

LAUNCH = """\
MASTER_ADDR=$(echo "$SKYPILOT_NODE_IPS" | head -n1)
torchrun --nnodes=$SKYPILOT_NUM_NODES --nproc_per_node=$SKYPILOT_NUM_GPUS_PER_NODE \\
    --master_addr=$MASTER_ADDR --master_port=8008 --node_rank=$SKYPILOT_NODE_RANK ~/train.py
"""


def test_an_unchanged_torchrun_script_runs_on_two_nodes(cluster: Remote, torch: Torch) -> None:
    for node in cluster.lab.nodes:
        node.write("/home/ada/train.py", TRAIN)
    said = cluster.ok("exec", "lab", "--num-nodes", "2", "--gpus", "H100:2", *torch.words(), LAUNCH)

    ranks = sorted(re.findall(r"rank \d of 4: \S+$", said.out, re.MULTILINE))
    assert ranks == ["rank %d of 4: 10" % rank for rank in range(4)], str(said)
