"""`skyq why`: why a job waits, where it runs, or how it ended."""

from __future__ import annotations

import json
import os
import sys
import time

from skyq.cli import cluster
from skyq.cli.jobids import resolve
from skyq.cli.parser import Parser
from skyq.cli.render import Style, shown_state
from skyq.cli.user import user
from skyq.core import states
from skyq.core.logtext import plain
from skyq.core.model import UNIT, Grant, Job
from skyq.core.words import ago, duration, within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

LAST_LINES = 5  # of the log of a job that failed

_EXAMPLES = """\
  skyq why local 4
  skyq why 4               on `local`
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("why", "[CLUSTER] JOB", "Tell why a job waits, where it runs, or how it ended.", _EXAMPLES)
    found.add_argument("words", nargs="*", metavar="[CLUSTER] JOB", help="a job's id or name")
    return found


def main(words: list[str]) -> int:
    """Exit code 0, or 102 for a job that isn't there."""
    flags = parser()
    given = flags.read(words).words
    if len(given) not in (1, 2):
        flags.error("Missing argument 'JOB'." if not given else "Got unexpected extra arguments.")
    name, word = given if len(given) == 2 else (cluster.LOCAL, given[0])
    if not cluster.here(name):
        from skyq.cli import remote

        return remote.run(name, "why", words)
    head = cluster.open_head(name)
    head.look()
    ids = resolve(
        head,
        [word],
        user(),
        lambda _: flags.error(
            "Invalid job ID %s. Job ID must be integers. No job of yours has that name." % word
        ),
    )
    job = head.job(ids[0])
    if job is None:
        print("Job %s not found (see `skyq queue %s -u`)." % (word, name), file=sys.stderr)
        return states.EXIT_NOT_FOUND
    print("\n".join(_lines(head, job, Style.of(sys.stdout.isatty(), os.environ))))
    return 0


def _lines(head: Head, job: Job, style: Style) -> list[str]:
    title = "Job %d%s: %s" % (job.id, " (%s)" % job.name if job.name else "", style.state(shown_state(job)))
    asked = "asked for %s%s, submitted %s by %s" % (
        head.resources(job),
        ", %s at most" % duration(job.time_limit.seconds) if job.time_limit.seconds else "",
        _ago(job.submitted_at),
        job.user,
    )
    lines = [title, style.branch(asked)]
    if job.array:
        own = json.loads(head.store.spec(job.id)).get("facts", {})
        which = "number %s of the array %d-%d" % (
            own.get("SKYQ_ARRAY_INDEX", "?"),
            job.array.first,
            job.array.last,
        )
        lines.append(style.branch(which + (", %d at once" % job.array.at_once if job.array.at_once else "")))
    if job.state in states.WAITING:
        order = (-job.priority, job.id)
        waiting = [other for other in head.jobs(None, True) if other.state in states.WAITING]
        ahead = sum((-other.priority, other.id) < order for other in waiting)
        lines.append(style.branch("%d waiting job%s ahead of it" % (ahead, "" if ahead == 1 else "s")))
        lines += _attempts(head, job, style)
        lines.append("waits: " + head.reasons([job]).get(job.id, ""))
        when = head.when(job)
        if when:
            lines[-1] = style.branch(lines[-1])
            lines.append("starts " + when)
        lines[-1] = style.last(lines[-1])
        return lines
    lines += _attempts(head, job, style)
    lines += [style.branch("%s: %s" % (grant.node, _grant(grant))) for grant in job.grants]
    if job.started_at is not None:
        lines.append(style.branch("started " + _ago(job.started_at)))
    if job.state in states.ACTIVE:
        left = head.ends_in(job) if job.state == states.RUNNING else None
        if left is not None:
            lines.append(style.branch("its time limit ends it in " + within(left)))
        lines += [style.branch("may be old: " + why) for why in head.reasons([job]).values()]
    if job.state in states.FINAL:
        lines.append(style.branch("ended: " + job.reason))
        lines += [style.branch("    " + text) for text in _last_words(head, job)]
    elif job.cancel_requested_at is not None:
        lines.append(style.branch("ending: %s; its processes still live" % job.reason))
    lines.append(style.last("logs: " + head.log_folder(job)))
    return lines


def _attempts(head: Head, job: Job, style: Style) -> list[str]:
    """How its earlier attempts ended."""
    former = head.store.attempts(job)[:-1]
    return [style.branch("attempt %d ended: %s" % (each.number, each.reason)) for each in former]


def _ago(at: float) -> str:
    text = ago(time.time() - at)
    return text if text.endswith("ago") else text + " ago"


def _last_words(head: Head, job: Job) -> list[str]:
    """The end of what the failed step wrote."""
    from skyq.cli.stream import blamed_step, last_lines

    if job.state not in (states.FAILED, states.FAILED_SETUP):
        return []
    logs = list(head.step_logs(job).items())
    blamed = blamed_step(job, head.all_nodes())
    failed = [path for step, path in logs if step == blamed]
    return [plain(line) for line in last_lines(failed[0], LAST_LINES)] if failed else []


def _grant(grant: Grant) -> str:
    devices = ["%d" % i if a == UNIT else "%d (%g of it)" % (i, a / UNIT) for i, a in grant.devices]
    return "rank %d, %s, %g CPUs" % (
        grant.rank,
        "device%s %s" % ("s" if len(devices) > 1 else "", ", ".join(devices)) if devices else "no device",
        grant.cpus / 1000,
    )
