"""Submitting a task and staying with it: the common part of `exec` and `launch`."""

from __future__ import annotations

import os
import sys
from argparse import Namespace

from skyq.cli import cluster
from skyq.cli.render import Style
from skyq.cli.taskargs import warn
from skyq.core.errors import SkyqError
from skyq.core.model import Task
from skyq.head.head import Head


def user() -> str:
    """Who submits: people who share a Unix account tell themselves apart by SKYQ_USER."""
    if os.environ.get("SKYQ_USER"):
        from skyq.core.logtext import plain

        return plain(os.environ["SKYQ_USER"])  # it stands in everybody's tables
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def submit(head: Head, task: Task, name: str, found: Namespace) -> int:
    """Submit, and say so; returns the job's id. `found`: the flags, of which --yes and --quiet count here."""
    style = Style.of(sys.stdout.isatty(), os.environ)
    print("Submitting job to cluster: " + style.cyan(name))
    for warning in task.warnings:
        warn(warning)
    cluster.check_claim(head)
    head.check(task)
    sys.stdout.flush()
    uuid = os.urandom(16).hex()
    if task.workdir is None and task.git is None and not task.file_mounts:
        job_id = head.submit(task, user(), uuid)
    else:
        job_id = _submit_with_files(head, task, uuid, found.yes)
    if not found.quiet:
        _hint_at_devices(head, task)
    print(style.started("Job submitted, ID: %s" % style.bold(str(job_id))))
    return job_id


def forecast(head: Head, task: Task, name: str) -> int:
    """For --dryrun: check all that can be checked, and tell where it would land; returns the exit code."""
    for warning in task.warnings:
        warn(warning)
    cluster.check_claim(head)
    head.check(task)
    print("Dry run on cluster %s: nothing was submitted." % name)
    print(head.forecast(task))
    return 0


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
