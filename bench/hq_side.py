"""HyperQueue's Python package at work, in the environment that has it: it brings no command of its own.

hq_side.py serve FOLDER              a server; each line it reads says what its next worker has: cores
hq_side.py submit FOLDER LINE [N]    N jobs of one task, one after the other, each running a shell line
hq_side.py array FOLDER LINE N       one job of N tasks
hq_side.py nodes FOLDER LINE N       one job of one task on N workers
"""

from __future__ import annotations

import os
import sys
from typing import Any


def serve(folder: str) -> None:
    """Until its input ends."""
    from hyperqueue import LocalCluster
    from hyperqueue.cluster import WorkerConfig

    with LocalCluster(server_dir=folder) as cluster:
        print("serves", cluster.cluster.server_dir, flush=True)
        for line in sys.stdin:
            cluster.start_worker(WorkerConfig(cores=int(line)))
            print("has a worker", flush=True)


def submit(folder: str, mode: str, line: str, count: int) -> None:
    """What its documentation shows, from a process of its own."""
    from hyperqueue import Client, Job

    client = Client(folder)
    more: dict[str, Any] = {}
    if mode == "nodes":
        from hyperqueue.task.program import ResourceRequest

        more["resources"] = ResourceRequest(n_nodes=count, cpus=0)
    for _ in range(count if mode == "submit" else 1):
        job = Job(default_workdir=os.getcwd())
        for _ in range(count if mode == "array" else 1):
            job.program(["bash", "-c", line], **more)
        client.submit(job)


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    submit(sys.argv[2], sys.argv[1], sys.argv[3], int((sys.argv[4:] or ["1"])[0]))
