"""Submitting a task and staying with it: the common part of `exec` and `launch`."""

from __future__ import annotations

import os
import sys

from skyq.cli import cluster
from skyq.cli.render import Style
from skyq.cli.taskargs import warn
from skyq.core.errors import SkyqError
from skyq.core.model import Task
from skyq.head.head import Head


def user() -> str:
    """Who submits: people who share a Unix account tell themselves apart by SKYQ_USER."""
    if os.environ.get("SKYQ_USER"):
        return os.environ["SKYQ_USER"]
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def submit(head: Head, task: Task, name: str, yes: bool = False) -> int:
    """Submit, and say so; returns the job's id."""
    style = Style.of(sys.stdout.isatty(), os.environ)
    print("Submitting job to cluster: " + style.cyan(name))
    for warning in task.warnings:
        warn(warning)
    cluster.check_claim(head)
    head.check(task)
    sys.stdout.flush()
    uuid = os.urandom(16).hex()
    if task.workdir is None and not task.file_mounts:
        job_id = head.submit(task, user(), uuid)
    else:
        job_id = _submit_with_files(head, task, uuid, yes)
    _hint_at_devices(head, task)
    print(style.started("Job submitted, ID: %s" % style.bold(str(job_id))))
    return job_id


def _submit_with_files(head: Head, task: Task, uuid: str, yes: bool) -> int:
    from skyq.cli.sync import prepare

    copy = prepare(head, task, uuid, yes)
    try:
        return head.submit(task, user(), uuid, copy.path)
    except SkyqError:
        copy.discard()
        raise


def _hint_at_devices(head: Head, task: Task) -> None:
    """Who forgets --gpus on a GPU machine sees "CUDA not available" otherwise."""
    if any(request.accelerator for request in task.alternatives) or task.run is None:
        return
    names = sorted({device.accelerator for node in head.nodes() for device in node.devices})
    if names:
        text = "This job gets no device (CUDA_VISIBLE_DEVICES is empty). For one: --gpus %s:1" % names[0]
        print(Style.of(sys.stderr.isatty(), os.environ).dim(text), file=sys.stderr)
