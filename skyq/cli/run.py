"""`skyq run`: a command, or a shell, with this terminal and with devices, when it is its turn."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time

from skyq.cli import cluster, taskargs
from skyq.cli.order import Order
from skyq.cli.parser import Parser
from skyq.cli.taskargs import warn
from skyq.cli.user import user
from skyq.cli.visit import Ended, Line, Mailbox, Visitor, enter
from skyq.core import states
from skyq.core.errors import SkyqError, Unreachable
from skyq.core.model import Job, Task
from skyq.core.request import command_task
from skyq.core.schedule import STARTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skyq.head.head import Head

QUICK, SLOW = 0.01, 0.1  # seconds between two looks at a job that waits
EAGER = 1.0  # seconds in which it is looked at often, and nothing is said
CARE = 2.0  # seconds between two looks whether the dispatcher, which may be killed, still works
END = 10.0  # seconds for what the command left to end, until one leaves
_OTHERS = {
    "detach": "-d: it has a terminal, at which somebody is. For a job without one: skyq exec",
    "num_nodes": "--num-nodes: it runs on one node",
    "workdir": "--workdir: it runs in ~/sky_workdir",
    "git_url": "--git-url: it runs in ~/sky_workdir",
    "git_ref": "--git-ref: it runs in ~/sky_workdir",
    "retries": "--retries: it ends with its terminal",
    "requeue": "--requeue: it ends with its terminal",
    "array": "--array: it is one job",
    "sweep": "--sweep: it is one job",
    "at_once": "--at-once: it is one job",
    "dryrun": "--dryrun. Type: skyq exec --dryrun",
}
"""Flags of `exec` that it doesn't have."""
_SHELL = '[ -x "$SHELL" ] || SHELL=/bin/bash\nexec "$SHELL"\n'

_EXAMPLES = """\
  skyq run lab --gpus H100:1                  a shell on a node that has one; it ends with the shell
  skyq run lab --gpus H100:1 -- python -i probe.py
  skyq run local --gpus GPU:1 'cd exp && ./debug.sh'
  cat in | skyq run lab -- sort > out         without a terminal it is a pipe, byte for byte
"""


def parser() -> Parser:
    """Its flags."""
    about = "A command, or a shell, at this terminal, on a node and with devices. It waits its turn."
    found = Parser("run", "[OPTIONS] CLUSTER [-- COMMAND...]", about, _EXAMPLES)
    taskargs.add_task_flags(found)
    found._actions[:] = [action for action in found._actions if action.dest not in _OTHERS]
    for group in found._action_groups:
        group._group_actions[:] = [action for action in group._group_actions if action.dest not in _OTHERS]
    found.set_defaults(ignored=[], yes=False, **dict.fromkeys(_OTHERS))
    return found


def main(words: list[str]) -> int:
    """Exit code: the command's own; 103 where it was cancelled, 100 where its end isn't known."""
    flags = parser()
    found = flags.read(words)
    for dest, text in _OTHERS.items():
        if getattr(found, dest):
            flags.error("skyq run takes no " + text)
    name = found.cluster
    if name is None and found.words:
        name = found.words.pop(0)
    elif name is None:
        flags.error("Missing argument 'CLUSTER'.")
    entry, quoted = taskargs.entrypoint(found)
    task = command_task(_script(entry, quoted), taskargs.overrides(found))
    order = Order.of(task._replace(terminal=True), found, launch=False)
    from skyq.cli.console import Unread

    try:
        if cluster.here(name):
            return _here(name, order)
        return _elsewhere(name, order, found.accept_new_host_keys)
    except Unread:
        raise BrokenPipeError from None


def _script(words: list[str], quoted: bool) -> str:
    """What the step runs. A program takes bash's place: what skyq tells it, and the terminal, is for it."""
    if len(words) == 1 and words[0].endswith((".yaml", ".yml")) and os.path.isfile(words[0]):
        raise SkyqError("skyq run takes a command, not a task file. For that: skyq exec CLUSTER " + words[0])
    line = shlex.join(words) if quoted and len(words) > 1 else " ".join(words)
    if not line.strip():
        return _SHELL
    if quoted or (len(words) == 1 and shlex.quote(words[0]) == words[0]):
        first = shlex.quote(words[0])
        if len(words) > 1 or first == words[0]:
            return 'if [ "$(type -t -- %s)" = file ]; then exec %s; fi\n%s\n' % (first, line, line)
    return line


# Where one types.


def _here(name: str, order: Order) -> int:
    from skyq.cli.console import Console

    head, box = cluster.open_head(name), Mailbox()
    with Console(box.put) as console:
        return carry_out(head, order, console, box)


def _elsewhere(name: str, order: Order, accept_new: bool) -> int:
    from skyq.cli import remote
    from skyq.cli.console import Console
    from skyq.client.remote import Conversation
    from skyq.core import protocol, visit
    from skyq.core.protocol import Message

    talks: list[Conversation] = []

    class Command(remote.Command):
        """`run` on another machine, of which this process is the terminal."""

        def hear(self, message: Message, conversation: Conversation) -> int | None:
            talks[:] = [conversation]
            if message.get("is") == "entered":
                self.out.flush()
                console.enter()
                return None
            if message.get("is") in visit.TO_VISITOR:
                console.hear(message)
                return None
            return super().hear(message, conversation)

    def say(frames: bytes) -> None:
        talks[0].send(iter([frames]))

    def interrupt() -> None:
        if talks:
            say(protocol.encode({"do": "interrupt"}))
        else:  # nothing is known there yet
            os.kill(os.getpid(), signal.SIGINT)

    with Console(say, interrupt) as console:
        try:
            command = Command(name, remote.request("run", [name], order.packed()), remote.Goods())
            return command.run(remote.Contact(True, accept_new))
        except Unreachable as error:
            if not talks:
                raise
            text = "%s\nWithout its terminal the job ends. To see it: skyq queue %s"
            raise Unreachable(text % (error, name), error.kind) from None


# On the head.


def obey(words: list[str], message: dict[str, Any]) -> int:
    """For another machine, whose terminal it is."""
    from skyq.cli import agent

    visitor = agent.visitor()
    return carry_out(cluster.open_head(words[0]), Order.unpacked(message), visitor, visitor.box)


def carry_out(head: Head, order: Order, visitor: Visitor, box: Mailbox) -> int:
    """Submit, wait, be the way to its terminal; returns the exit code. Who leaves before that cancels it."""
    job_id = _submit(head, order)
    try:
        line = _come(head, job_id, order.quiet)
    except BaseException as error:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the impatient have been heard
        cancelled = head.cancel([job_id], user())
        if not isinstance(error, KeyboardInterrupt):
            raise
        if cancelled:
            print("Job %d is cancelled." % job_id, file=sys.stderr)
        return states.EXIT_CANCELLED
    if line is None:
        return _conclude(head, job_id, Ended())
    try:
        visitor.enter()
        ended = line.attend(visitor, box)
    finally:
        line.channel.close()  # who isn't there any more lets the job end
    return _conclude(head, job_id, ended)


def _submit(head: Head, order: Order) -> int:
    task: Task = order.task
    cluster.check_claim(head)
    for warning in task.warnings:
        warn(warning)
    job_id = head.submit(task, user(), order.uuid)
    if not order.quiet:
        from skyq.cli.submit import hint_at_devices

        hint_at_devices(head, task)
    return job_id


def _come(head: Head, job_id: int, quiet: bool) -> Line | None:
    """The line to the job's terminal, once there is one; None: the job has ended without."""
    while True:
        job = _await_start(head, job_id, quiet)
        if job.state in states.FINAL:
            return None

        def still(attempt: int = job.attempt) -> bool:
            now = head.job(job_id)
            return now is not None and now.attempt == attempt and now.state in states.ACTIVE

        line = enter(head, job, still)
        if line is not None:
            return line


def _await_start(head: Head, job_id: int, quiet: bool) -> Job:
    """The job once it is more than waiting; meanwhile why it waits is told."""
    began = cared_at = time.monotonic()
    said = ""
    while True:
        job = head.job(job_id)
        assert job is not None
        now = time.monotonic()
        if job.state not in states.WAITING:
            if not quiet and job.grants and (said or sys.stderr.isatty()):
                _tell("Job %d runs on %s." % (job_id, _place(job)))
            return job
        if now - began > EAGER:
            why = head.reasons([job]).get(job_id, "")
            if why not in (said, STARTING) and not quiet:
                _tell("Job %d waits: %s" % (job_id, why))
            said = why
        if now - cared_at > CARE:
            head.look()
            cared_at = now
        time.sleep(QUICK if now - began < EAGER else SLOW)


def _tell(text: str) -> None:
    from skyq.cli.render import Style

    print(Style.of(sys.stderr.isatty(), os.environ).dim(text), file=sys.stderr, flush=True)


def _place(job: Job) -> str:
    from skyq.head.head import grant_text

    return ", ".join(map(grant_text, job.grants))


def _conclude(head: Head, job_id: int, ended: Ended) -> int:
    """The allocation has ended, too, when this returns."""
    cared_at = time.monotonic()
    deadline = cared_at + END
    while True:
        job = head.job(job_id)
        assert job is not None
        now = time.monotonic()
        if job.state in states.FINAL or now > deadline:
            break
        if now - cared_at > CARE:
            head.look()
            cared_at = now
        time.sleep(QUICK)
    if ended.code >= 0 and not ended.stopped:
        return ended.code
    if job.state not in states.FINAL:
        text = "Job %d has not ended yet. See: skyq why %s %d" % (job_id, head.cluster, job_id)
        raise SkyqError(text)
    print("Job %d: %s" % (job_id, job.reason), file=sys.stderr)
    return states.EXIT_CODE[job.state]
