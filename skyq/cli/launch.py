"""`skyq launch`: a task with its setup, on a cluster that is there, or on one made for it."""

from __future__ import annotations

import argparse

from skyq.cli import taskargs
from skyq.cli.parser import Parser, muted
from skyq.core.model import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
  skyq launch -c local task.yaml            setup, then run; follow the log
  skyq launch -c local task.yaml -d -y      return once it is queued
  skyq launch -c local task.yaml --no-setup
  skyq launch -c local task.yaml --time 2h  end it two hours after its `run` began
  skyq launch -c mine task.yaml --pool lab  of pool lab as many free hosts as the task needs
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
    found.add_argument("--pool", metavar="POOL", help="from which a new cluster takes its hosts")
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
    entry, quoted = taskargs.entrypoint(found)
    with muted(found.quiet):
        task = taskargs.read_task(found, entry, quoted, "launch") if entry else Task()
    if found.no_setup:
        task = taskargs.without_setup(task)
    from skyq.cli.making import choose
    from skyq.cli.order import Order
    from skyq.cli.submit import give

    name, wanted = choose(found.cluster, task, yes=found.yes, dryrun=found.dryrun)
    return give(name, Order.of(task, found, launch=True), found.accept_new_host_keys, wanted)


def obey(words: list[str], order: dict[str, Any]) -> int:
    """On the head: what `launch` on another machine has read."""
    from skyq.cli import submit

    return submit.obey(words, order)
