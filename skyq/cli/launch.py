"""`skyq launch`: a task with its setup, on a cluster that is there."""

from __future__ import annotations

import argparse
import os
import sys

from skyq.cli import cluster, taskargs
from skyq.cli.parser import Parser, muted
from skyq.core.model import Request, Task
from skyq.head.head import Head

_EXAMPLES = """\
  skyq launch -c local task.yaml            setup, then run; follow the log
  skyq launch -c local task.yaml -d -y      return once it is queued
  skyq launch -c local task.yaml --no-setup
"""
_NO_OBJECT = (
    "--clone-disk-from",
    "--clone",
    "--wait-for",
    "-w",
    "--workspace",
    "-i",
    "--idle-minutes-to-autostop",
)
_NO_OBJECT_SWITCHES = ("--down", "-r", "--retry-until-up", "--fast", "--resize")


def parser() -> Parser:
    """Its flags."""
    found = Parser("launch", "[OPTIONS] [ENTRYPOINT]...", "Run a task with its setup.", _EXAMPLES)
    taskargs.add_task_flags(found)
    found.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    found.add_argument("--no-setup", action="store_true", help="skip the task's setup")
    found.add_argument(
        "-no-d", "--no-detach-run", dest="detach", action="store_false", help=argparse.SUPPRESS
    )
    found.set_defaults(ignored=[])
    for flag in _NO_OBJECT:
        found.add_argument(flag, action=taskargs._Ignored, help=argparse.SUPPRESS)
    for flag in _NO_OBJECT_SWITCHES:
        found.add_argument(flag, action=taskargs._Ignored, nargs=0, help=argparse.SUPPRESS)
    return found


def main(words: list[str]) -> int:
    """Exit code: 0, with -d once it is queued; else the job's, 0, 100 or 103."""
    found = parser().read(words)
    name = found.cluster or cluster.LOCAL
    entry, quoted = taskargs.entrypoint(found)
    with muted(found.quiet):
        task = taskargs.read_task(found, entry, quoted, "launch") if entry else Task()
    if found.no_setup:
        task = taskargs.without_setup(task)
    head = cluster.open_head(name)
    if task.run is None and task.setup is None:
        print("Run commands not specified or empty.")
        return 0
    if task.run is None:
        # A setup alone takes no device, and runs once on each node.
        task = task._replace(num_nodes=1, alternatives=(Request(),), cpus_shown="")
    return _run(head, task, name, found)


def _run(head: Head, task: Task, name: str, found: argparse.Namespace) -> int:
    from skyq.cli.render import Style, useful_commands
    from skyq.cli.submit import forecast, submit

    if found.dryrun:
        return forecast(head, task, name)
    style = Style.of(sys.stdout.isatty(), os.environ)
    with muted(found.quiet):
        job_id = submit(head, task, name, found)
        if task.setup is not None:
            print(style.finished("Setup detached."))
    code = 0
    if not found.detach:
        from skyq.cli.stream import follow

        code = follow(head, job_id, quiet=found.quiet)
    elif found.quiet:
        print(job_id)
    if not found.quiet:
        print(useful_commands(name, job_id, style))
    return code
