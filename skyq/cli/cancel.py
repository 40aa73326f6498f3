"""`skyq cancel`: end jobs, with everything that they started."""

from __future__ import annotations

import time

from skyq.cli import cluster
from skyq.cli.jobids import resolve
from skyq.cli.parser import Parser, confirm
from skyq.cli.user import user
from skyq.core import states
from skyq.core.errors import SkyqError, UsageError
from skyq.core.words import ids_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

PATIENCE = 2.0  # seconds to see the processes end; most do at once
LOOK = 0.01  # seconds

_MEANS_NOTHING = "Invalid value for '[JOBS]...': %r is not a valid integer. No job of yours has that name."
_EXAMPLES = """\
  skyq cancel local 3 5
  skyq cancel local 12-111   an array
  skyq cancel local 'sweep-*' by name
  skyq cancel local          the latest job of yours that runs
  skyq cancel local -a -y    all of yours, without asking
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("cancel", "[OPTIONS] CLUSTER [JOBS]...", "End jobs.", _EXAMPLES)
    found.add_argument("words", nargs="*", metavar="CLUSTER [JOBS]...", help="ids, names or patterns")
    found.add_argument("-a", "--all", action="store_true", help="all jobs of yours")
    found.add_argument("-u", "--all-users", action="store_true", help="all jobs of everybody")
    found.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    return found


def main(words: list[str]) -> int:
    """Exit code 0, also where there was nothing to cancel."""
    flags = parser()
    found = flags.read(words)
    rest = found.words + (found.after or [])
    if not rest:
        flags.error("Missing argument 'CLUSTER'.")
    name, asked = rest[0], rest[1:]
    if asked and (found.all or found.all_users):
        raise UsageError("Cannot specify both --all and job IDs.")
    if not cluster.here(name):
        from skyq.cli import remote

        return remote.run(name, "cancel", words)
    head = cluster.open_head(name)
    if not asked and not (found.all or found.all_users):
        print("No job IDs or --all/--all-users provided; cancelling the latest running job.")
    ids = resolve(head, asked, user(), lambda word: flags.error(_MEANS_NOTHING % word))
    question = "Cancelling %s on cluster(s): %s. Proceed?" % (_what(found, ids), name)
    if not found.yes and not confirm(question, default=True):
        raise SkyqError("Aborted!")
    return _cancel(head, name, _chosen(head, found, ids))


def _what(found: object, ids: list[int]) -> str:
    if ids:
        return "job%s %s" % ("s" if len(ids) > 1 else "", ids_text(ids).replace(",", ""))
    if getattr(found, "all_users", False):
        return "all users' jobs"
    return "all your jobs" if getattr(found, "all", False) else "the latest running job"


def _chosen(head: Head, found: object, ids: list[int]) -> list[int]:
    if ids:
        return ids
    if getattr(found, "all_users", False):
        return [job.id for job in head.jobs(None, unfinished=True)]
    if getattr(found, "all", False):
        return [job.id for job in head.jobs(user(), unfinished=True)]
    latest = head.latest(user(), states.RUNNING)
    return [latest.id] if latest else []


def _cancel(head: Head, name: str, ids: list[int]) -> int:
    if ids:
        print("Cancelling jobs (%s) on cluster '%s'..." % (ids_text(ids), name), flush=True)
    concerned = head.cancel(ids, user())
    if not concerned:
        print("No jobs cancelled. They may be in terminal states.")
        return 0
    ending = _watch(head, concerned)
    print("Cancelled job ID(s): " + ids_text(concerned))
    if ending:
        print(
            "Still ending: %s. They hold their devices until their processes are gone; SIGKILL follows.\n"
            "`skyq queue %s` shows them as CANCELLING until then." % (ids_text(ending), name)
        )
    return 0


def _watch(head: Head, ids: list[int]) -> list[int]:
    """Those whose processes still live when patience ends."""
    deadline = time.monotonic() + PATIENCE
    left = ids
    while True:
        found = head.store.states_of(left)
        left = [i for i in left if found.get(i, states.CANCELLED) not in states.FINAL]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(LOOK)
