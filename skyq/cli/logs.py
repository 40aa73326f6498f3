"""`skyq logs`: show, follow or fetch what jobs wrote."""

from __future__ import annotations

import argparse
import os
import sys

from skyq.cli import cluster, place
from skyq.cli.jobids import resolve
from skyq.cli.parser import Parser
from skyq.cli.render import Style
from skyq.cli.user import user
from skyq.core import states
from skyq.core.errors import UsageError
from skyq.core.model import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skyq.cli import fetch
    from skyq.head.head import Head

_MEANS_NOTHING = "Invalid job ID %s. Job ID must be integers. No job of yours has that name."
DEFAULT_TAIL = 1000  # lines shown first when following

_EXAMPLES = """\
  skyq logs local              follow the latest job
  skyq logs local 3 --tail 20  its last 20 lines, then what follows
  skyq logs local 3 --no-follow > log.txt
  skyq logs local 3 --attempt 1  of a job that was run again
  skyq logs local 3 --status   exit code 0, 100 failed, 101 not finished, 102 not found, 103 cancelled
  skyq logs local -s 3 4       fetch them to ~/sky_logs/local/
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("logs", "[OPTIONS] CLUSTER [JOB_IDS]...", "Show what a job wrote.", _EXAMPLES)
    add = found.add_argument
    add("words", nargs="*", metavar="CLUSTER [JOB_IDS]...", help="ids, names or patterns; none: the latest")
    add("--follow", dest="follow", action="store_true", default=True, help="until the job ends (the default)")
    add("--no-follow", dest="follow", action="store_false", help="print what is there")
    add("--tail", type=int, metavar="N", help="the last N lines; 0: all")
    add("--attempt", type=int, metavar="N", help="of a job that was run again; default: the last one")
    add("--status", action="store_true", help="print the job's status instead")
    add("-s", "--sync-down", action="store_true", help="fetch the logs as files")
    return found


def main(words: list[str]) -> int:
    """Exit codes: those of the job that is followed or asked for."""
    flags = parser()
    found = flags.read(words)
    given = found.words + (found.after or [])
    if not given:
        flags.error("Missing argument '[CLUSTER]'.")
    name, ids = given[0], given[1:]
    if found.sync_down and found.status:
        flags.error(
            "Both --sync_down and --status are specified (ambiguous). To fix: specify at most one of them."
        )
    if len(ids) > 1 and not found.sync_down:
        flags.error(
            "Cannot stream logs of multiple jobs (IDs: %s).\n"
            "Pass -s/--sync-down to download the logs instead." % ", ".join(ids)
        )
    if found.sync_down:
        return _fetch(name, ids, words)
    if not cluster.here(name):
        from skyq.cli import remote

        return remote.run(name, "logs", words)
    head = cluster.open_head(name)
    head.look()
    job = _asked_for(head, ids, flags)
    if found.status:
        return _status(name, ids, job)
    return _show(head, ids, job, found)


def _asked_for(head: Head, ids: list[str], flags: Parser) -> Job | None:
    at = place.current()
    if at.resumed:  # the latest job may be another one by now
        job = head.job(at.job)
        return job if job is not None and job.uuid == at.uuid else None
    resolved = resolve(head, ids, user(), lambda word: flags.error(_MEANS_NOTHING % word))
    return head.job(resolved[0]) if resolved else head.latest()


def _status(name: str, ids: list[str], job: Job | None) -> int:
    if job is None:
        print("Job %s: None" % ids[0] if ids else "No job found on cluster '%s'." % name)
        if ids:
            print("Job %s not found" % ids[0], file=sys.stderr)
        return states.EXIT_NOT_FOUND
    print("Job %d: %s" % (job.id, job.state))
    return states.EXIT_CODE[job.state]


def _show(head: Head, ids: list[str], job: Job | None, found: argparse.Namespace) -> int:
    style = Style.of(sys.stdout.isatty(), os.environ)
    if job is None and not ids:
        print("Skip streaming logs as no job has been submitted.")
        return states.EXIT_NOT_FOUND
    if job is None:
        print("Job %s not found (see `skyq queue %s -u`)." % (ids[0], head.cluster), file=sys.stderr)
        return states.EXIT_NOT_FOUND
    from skyq.cli import stream

    if found.attempt is not None and not 1 <= found.attempt <= job.number:
        have = "is only 1" if job.number == 1 else "are %d" % job.number
        raise UsageError("Job %d has no attempt %d. There %s." % (job.id, found.attempt, have))
    if found.attempt is not None:
        job = head.attempt(job, found.attempt)
        found.follow = found.follow and job.state not in states.FINAL
    tail = DEFAULT_TAIL if found.tail is None and found.follow else found.tail or 0
    at = place.current()
    if at.reach(place.SUBMITTED):
        at.job, at.uuid = job.id, job.uuid
        which = "job %d" % job.id if ids else "the last job"
        print(style.yellow("Tailing logs of %s on cluster '%s'..." % (which, head.cluster)))
        at.keep()
        if found.follow and found.tail is None and _longer_than(head, job, tail):
            text = "Showing the last %d lines (default). Pass --tail 0 to print the entire log."
            print(text % tail, file=sys.stderr)
    if found.follow:
        return stream.follow(head, job.id, max(tail, 0))
    view = stream.JobView(head, job, sys.stdout.buffer, style)
    if at.reach(place.STARTED) and tail > 0:
        view.skip_to_tail(tail)
    view.all()
    if job.state not in states.FINAL:
        return 0
    stream.print_end(job, head.all_nodes(), style)
    return states.EXIT_CODE[job.state]


def _longer_than(head: Head, job: Job, lines: int) -> bool:
    count = 0
    for path in head.step_logs(job).values():
        try:
            with open(path, "rb") as file:
                while count <= lines and (chunk := file.read(1024 * 1024)):
                    count += chunk.count(b"\n")
        except FileNotFoundError:
            continue
    return count > lines


def _fetch(name: str, asked: list[str], words: list[str]) -> int:
    """Copy job folders to ~/sky_logs/CLUSTER, with the merged log as run.log."""
    from skyq.cli import fetch

    down = fetch.Down(name)
    try:
        if not cluster.here(name):
            from skyq.cli import remote

            return remote.run(name, "logs", words, {}, goods=remote.Goods(down.take))
        return _deliver(name, asked, down.take)
    finally:
        down.close()


def obey(words: list[str], order: dict[str, Any]) -> int:
    """On the head: the logs that another machine fetches. `words`: as typed there, `-s` among them."""
    from skyq.cli import agent

    found = parser().read(words)
    given = found.words + (found.after or [])
    return _deliver(given[0], given[1:], agent.tell)


def _deliver(name: str, asked: list[str], say: fetch.Say) -> int:
    from skyq.cli import fetch

    head = cluster.open_head(name)
    latest = head.latest()
    ids = resolve(head, asked, user(), lambda word: None)  # what means nothing is told below
    jobs = [job for job in map(head.job, ids) if job is not None]
    if not asked and latest is not None:
        jobs = [latest]
    if not jobs:
        print("No matching log directories found")
    fetch.deliver(head, sorted(jobs, key=lambda job: job.id), say)
    return 0
