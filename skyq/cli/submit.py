"""Submitting a task and staying with it: the common part of `exec` and `launch`.

They read: the task file, the environment, secrets, what there is to ask about them. What they have read, an
Order, is carried out on the head of the cluster, whichever machine that is.
"""

from __future__ import annotations

import os
import sys

from skyq.cli import cluster, place
from skyq.cli.order import Order
from skyq.cli.parser import muted
from skyq.cli.render import Style
from skyq.cli.taskargs import warn
from skyq.cli.user import user
from skyq.core.errors import Declined, SkyqError
from skyq.core.model import Request, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skyq.client.wanted import Wanted
    from skyq.head.head import Head


def give(name: str, order: Order, accept_new: bool, wanted: Wanted | None = None) -> int:
    """Have it carried out where the cluster's head is; returns the exit code.

    `wanted`: what the cluster is made of if it isn't there; else it is all of the pool of its name.
    """
    if cluster.here(name):
        return carry_out(cluster.open_head(name), order)
    from skyq.cli import remote

    goods = remote.Goods()
    if order.has_files:
        from skyq.cli.baggage import Baggage

        with muted(order.quiet):
            baggage = Baggage(order.task, order.yes)
        order = order._replace(bags=baggage.bags, announced=bool(baggage.announcement))
        goods = remote.Goods(baggage.take, baggage.announcement)
    verb = "launch" if order.launch else "exec"
    contact = remote.Contact(True, accept_new, wanted)
    try:
        return remote.run(name, verb, [name], order.packed(), contact, goods)
    except Declined:
        if not order.dryrun:
            raise
        print("Dry run: nothing was changed.")
        return 0


def obey(words: list[str], message: dict[str, Any]) -> int:
    """On the head: carry out what another machine has read."""
    return carry_out(cluster.open_head(words[0]), Order.unpacked(message))


def carry_out(head: Head, order: Order) -> int:
    """Submit, and stay with the job unless that isn't wanted; returns the exit code."""
    task = order.task
    if task.run is None and task.setup is None:
        print("Run commands not specified or empty.")
        return 0
    if order.dryrun:
        return _forecast(head, task)
    with muted(order.quiet):
        job_id = _submit(head, order)
    many = _size(task)
    code = 0
    if many > 1 and not order.detach:
        code = _wait_for_all(head, range(job_id, job_id + many), order.quiet)
    elif not order.detach:
        from skyq.cli.stream import follow

        code = follow(head, job_id, quiet=order.quiet)
    elif order.quiet:
        print(job_id if many == 1 else "%d-%d" % (job_id, job_id + many - 1))
    elif not order.launch:
        print()
    if order.launch and not order.quiet:
        from skyq.cli.render import useful_commands

        print(useful_commands(head.cluster, job_id, Style.of(sys.stdout.isatty(), os.environ)))
    return code


def _size(task: Task) -> int:
    """How many jobs it becomes."""
    if not task.batch:
        return 1
    from skyq.core.batch import size

    return size(task.batch)


def _wait_for_all(head: Head, ids: range, quiet: bool) -> int:
    """Until all jobs of an array have ended; returns the worst one's exit code."""
    from skyq.cli.wait import wait_for

    at = place.current()
    if at.reach(place.WAITING) and not quiet:
        style = Style.of(sys.stdout.isatty(), os.environ)
        print(style.last("Waiting until they have ended... (Ctrl-C to leave; they go on)"), flush=True)
    at.keep()
    return wait_for(head, ids)


def _submit(head: Head, order: Order) -> int:
    """Submit, and say so; returns the job's id."""
    style = Style.of(sys.stdout.isatty(), os.environ)
    task, at = order.task, place.current()
    job_id = _known(head, order) if at.resumed else 0
    if at.reach(place.SUBMITTING):
        print("Submitting job to cluster: " + style.cyan(head.cluster))
        for warning in task.warnings:
            warn(warning)
    if not job_id:
        cluster.check_claim(head)
        head.check(task)
        head.after_of(task, user())
        at.keep()
        job_id = _store(head, order._replace(task=_as_queued(task)))
    if at.reach(place.SUBMITTED):
        at.job = job_id
        if not order.quiet:
            hint_at_devices(head, task)
        print(style.started(_submitted(head, job_id, style)))
        if order.launch and task.setup is not None:
            print(style.finished("Setup detached."))
            _tell_left_out(head, task)
        at.keep()
    return job_id


def _submitted(head: Head, job_id: int, style: Style) -> str:
    job = head.job(job_id)
    if job is None or job.array is None or job.array.count == 1:
        return "Job submitted, ID: " + style.bold(str(job_id))
    ids = style.bold("%d-%d" % (job.array.first, job.array.last))
    return "%d jobs submitted, IDs: %s" % (job.array.count, ids)


def _known(head: Head, order: Order) -> int:
    """The id of the job if the connection was lost after the submit; else 0."""
    job = head.store.job_of(order.uuid)
    if job is None:
        return 0
    head.look()  # whoever submitted it may have ended before it woke anybody
    return job.id


def _store(head: Head, order: Order) -> int:
    if not order.has_files:
        return head.submit(order.task, user(), order.uuid)
    if place.current().tell is not None:  # the files are where it was typed
        from skyq.cli import agent
        from skyq.cli.receive import receive

        copy = receive(head, order, agent.sender())
    else:
        from skyq.cli.sync import prepare

        copy = prepare(head, order.task, order.uuid, order.yes)
    try:
        job_id = head.submit(order.task, user(), order.uuid, copy.path)
    except SkyqError:
        copy.discard()
        raise
    _show(copy.path)
    return job_id


def _show(copy: str) -> None:
    """Let `~/sky_workdir` be that copy. Its job is queued, whatever comes of this."""
    from skyq.head import workdirs

    try:
        workdirs.make_current(copy)
    except OSError as error:
        warn("~/sky_workdir doesn't show the files of this job: %s" % error.strerror)


def _tell_left_out(head: Head, task: Task) -> None:
    """A setup is for all nodes; whoever's can't be had now goes without, unless the job needs it."""
    from skyq.head.nodestate import CONNECTING

    nodes = head.nodes()
    left_out = [node for node in nodes if node.unusable and node.unusable != CONNECTING]
    if len(nodes) - len(left_out) >= _as_queued(task).num_nodes:
        for node in left_out:
            warn("Setup leaves out %s: %s" % (node.name, node.unusable))


def _forecast(head: Head, task: Task) -> int:
    """For --dryrun: check all that can be checked, and tell where it would land; returns the exit code."""
    for warning in task.warnings:
        warn(warning)
    cluster.check_claim(head)
    head.check(task)
    print("Dry run on cluster %s: nothing was submitted." % head.cluster)
    if (many := _size(task)) > 1:
        print("It would be %d jobs. Of the first one:" % many)
    print(head.forecast(_as_queued(task)))
    return 0


def _as_queued(task: Task) -> Task:
    """A setup alone takes no device, and runs once on each node; it says what the cluster should be like."""
    if task.run is not None:
        return task
    return task._replace(num_nodes=1, alternatives=(Request(),), cpus_shown="")


def hint_at_devices(head: Head, task: Task) -> None:
    """Who forgets --gpus on a GPU machine sees "CUDA not available" otherwise."""
    if any(request.accelerator for request in task.alternatives) or task.run is None:
        return
    names = sorted({device.accelerator for node in head.nodes() for device in node.devices})
    if names:
        text = "This job gets no device (CUDA_VISIBLE_DEVICES is empty). For one: --gpus %s:1" % names[0]
        print(Style.of(sys.stderr.isatty(), os.environ).dim(text), file=sys.stderr)
