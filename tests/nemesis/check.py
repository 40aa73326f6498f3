"""What must be true at the end: what skyq told against what was seen outside it. Pure."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator

from tests.cluster import FINAL, Record
from tests.nemesis.faults import Span
from tests.nemesis.jobs import Job
from tests.nemesis.kernel import Mark
from tests.nemesis.people import ALL, Shown
from tests.nemesis.world import World

UNKNOWN = -1
SIGKILLED = 128 + 9
LONGEST = 1000  # characters of a command's output that are quoted


def violations(world: World) -> list[str]:
    """Sentences about what isn't as it must be."""
    found = [*world.notes.wrong, *world.left, *_ids(world), *_starts(world), *_said(world)]
    records = {record["job_name"]: record for record in world.records}
    for job in world.jobs:
        if record := records.get(job.token):
            story = Story(world, job, record)
            told = [*story.state(), *story.attempts(), *story.codes(), *story.logs()]
            found += ["%s (job %d): %s" % (job.token, record["job_id"], text) for text in told]
    return [*found, *(text for shown in world.shown for text in _shown(world, shown))]


def _ids(world: World) -> Iterator[str]:
    """Nothing acknowledged is lost, nothing is there twice."""
    rows = Counter(record["job_name"] for record in world.records)
    by_id = {record["job_id"]: record["job_name"] for record in world.records}
    for job in world.jobs:
        if job.job_id and by_id.get(job.job_id) != job.token:
            now = by_id.get(job.job_id, "not there")
            yield "%s was acknowledged as job %d, which is %s" % (job.token, job.job_id, now)
        if rows[job.token] > 1:
            yield "%s is in the queue %d times" % (job.token, rows[job.token])
    for name, count in Counter(name.rpartition("-")[0] for name in rows if "-" in name).items():
        wanted = sum(job.token.rpartition("-")[0] == name for job in world.jobs)
        if count != wanted:
            yield "of the array %s %d of %d jobs are in the queue" % (name, count, wanted)
    yield from ("%s was never submitted" % token for token in rows.keys() - {job.token for job in world.jobs})


def _starts(world: World) -> Iterator[str]:
    """No rank starts twice in an attempt, or in one that skyq doesn't tell of."""
    told = {record["job_name"]: record["attempt"] for record in world.records}
    for mark, count in world.notes.starts.items():
        if count > 1:
            yield "rank %d of %s started %d times in attempt %d" % (
                mark.rank,
                mark.token,
                count,
                mark.attempt,
            )
        if mark.attempt > told.get(mark.token, 0):
            yield "rank %d of %s started in attempt %d of %d" % (
                *(mark.rank, mark.token, mark.attempt, told.get(mark.token, 0)),
            )


def _said(world: World) -> Iterator[str]:
    """Each command answers in time, and in sentences."""
    for said in world.said:
        command = "%s: skyq %s" % (said.where, said.words)
        if said.late:
            yield command + " did not answer in time"
        if "Traceback" in said.text:
            yield "%s showed a traceback:\n%s" % (command, said.text[-LONGEST:])
        if re.search(r"(?<!\S)-\d+ ?(s|secs?|mins?|hours?|days?|years?)\b", said.text):
            yield "%s showed a time below 0:\n%s" % (command, said.text[-LONGEST:])
    for where, text in world.words.items():
        if "Traceback" in text:
            yield "%s: a dispatcher logged a traceback:\n%s" % (
                where,
                text[text.index("Traceback") :][:LONGEST],
            )


class Story:
    """One job's, as skyq tells it."""

    def __init__(self, world: World, job: Job, record: Record) -> None:
        self.world = world
        self.job = job
        self.record = record
        self.state_now = str(record["status"])
        self.reason = str(record["reason"])
        self.last = int(record["attempt"])

    def ends(self, attempt: int) -> dict[int, int]:
        """Rank → code, of the ranks of an attempt that came to their end."""
        found = self.world.notes.ends.items()
        return {m.rank: code for m, code in found if (m.token, m.attempt) == (self.job.token, attempt)}

    def exits(self, attempt: int) -> dict[int, int]:
        """Rank → code, as the kernel tells."""
        found = self.world.exits.items()
        return {m.rank: _code(s) for m, s in found if (m.token, m.attempt) == (self.job.token, attempt)}

    def state(self) -> Iterator[str]:
        """It is what happened."""
        job, state, ends, exits = self.job, self.state_now, self.ends(self.last), self.exits(self.last)
        what = "it is %s (%s)" % (state, self.reason)
        if state not in FINAL:
            yield "%s, and all is over" % what
        elif not self.reason and state != "SUCCEEDED":
            yield "it is %s without a reason" % state
        if state == "SUCCEEDED" and ends != dict.fromkeys(range(job.nodes), 0):
            yield "%s, and its ranks ended so: %s" % (what, ends)
        if state == "SUCCEEDED" and any(exits.values()):
            yield "%s, and the kernel tells of its ranks: %s" % (what, exits)
        if state == "FAILED" and not any([*ends.values(), *exits.values()]):
            yield "%s, and its ranks ended so: %s, %s" % (what, ends, exits)
        if state == "FAILED_SETUP" and job.setup != "fails":
            yield "%s, and its setup is well" % what
        if state in ("SUCCEEDED", "FAILED") and job.setup == "fails":
            yield "%s after a setup that failed" % what
        if state == "CANCELLED" and not job.cancelled:
            yield "%s, and nobody cancelled it" % what
        if state == "FAILED_DRIVER" and not self.excused(self.reason, self.record["nodes"]):
            yield "%s, and no machine or shim of it was lost" % what

    def attempts(self) -> Iterator[str]:
        """There are as many as were asked for, each for a reason."""
        earlier = self.world.earlier.get(self.record["job_id"], [])
        failures = [each for each in earlier if each["state"] != "FAILED_DRIVER"]
        if len(earlier) != self.last - 1:
            yield "%d of its %d attempts are remembered as former ones" % (len(earlier), self.last)
        if len(failures) > self.job.retries:
            yield "it was run again %d times, and may be %d times" % (len(failures), self.job.retries)
        if len(failures) < len(earlier) and not self.job.requeue:
            yield "it was run again though it was lost"
        if not self.job.cancelled:
            if self.state_now in ("FAILED", "FAILED_SETUP") and len(failures) < self.job.retries:
                yield "it is %s after %d of %d retries" % (self.state_now, len(failures), self.job.retries)
            if self.state_now == "FAILED_DRIVER" and self.job.requeue:
                yield "it is FAILED_DRIVER (%s), and should be run again" % self.reason
        for number, each in enumerate(earlier, 1):
            yield from self.former(number, each)

    def former(self, number: int, told: Record) -> Iterator[str]:
        """One attempt that was not the last one."""
        what = "attempt %d %s (%s)" % (number, told["state"], told["reason"])
        ends, exits = self.ends(number), self.exits(number)
        if told["state"] == "FAILED" and not any([*ends.values(), *exits.values()]):
            yield "%s, and its ranks ended so: %s, %s" % (what, ends, exits)
        if told["state"] == "FAILED_DRIVER" and not self.excused(told["reason"], told["nodes"]):
            yield "%s, and no machine or shim of it was lost" % what

    def codes(self) -> Iterator[str]:
        """Those that skyq tells are those that the kernel tells, and the jobs."""
        for attempt in range(1, self.last + 1):
            exits = self.exits(attempt)
            for rank, code in self.ends(attempt).items():
                if exits.get(rank, code) not in (code, SIGKILLED, 128 + 15):
                    what = rank, attempt, code, exits[rank]
                    yield "rank %d of attempt %d says %d, and the kernel %d" % what
        exits = self.exits(self.last)
        for rank, told in enumerate(self.record["exit_codes"]):
            ended_with_others = self.state_now == "FAILED" and told == SIGKILLED and any(exits.values())
            if told != UNKNOWN and not ended_with_others and exits.get(rank, told) != told:
                yield "rank %d ended with %d, and the kernel says %d" % (rank, told, exits[rank])

    def excused(self, reason: str, nodes: list[Record]) -> bool:
        """Whether an attempt may have been lost."""
        names = {each["node"] for each in nodes}
        if lost := re.match(r"node (\S+) has been unreachable since", reason):
            # A gang fails when a node is lost for `lost_after`, however the silences are spread over it.
            return self._at_that_time(self.world.excuses.silences, {lost[1], "node0"})
        if "never started" in reason:
            return self._at_that_time(self.world.excuses.silences, {*names, "node0"})
        # A setup runs on all nodes.
        return self._at_that_time(self.world.excuses.losses, set() if self.job.setup else names)

    def _at_that_time(self, spans: list[Span], nodes: set[str]) -> bool:
        ended = self.world.ended.get(self.record["job_id"], float("inf"))
        return any(
            (not nodes or node in nodes) and since <= ended and until >= self.job.began
            for node, since, until in spans
        )

    def logs(self) -> Iterator[str]:
        """The head has each rank's text: of one that came to its end, all of it."""
        for attempt in range(1, self.last + 1):
            for rank in range(self.job.nodes):
                mark = Mark(self.job.token, rank, attempt)
                found, whole = self.world.logs.get(mark, b""), self.job.log(rank)
                where = "the log of rank %d in attempt %d" % (rank, attempt)
                if mark in self.world.notes.unwritten:
                    continue
                if not whole.startswith(found):
                    yield "%s isn't what it printed: ...%r" % (where, found[-200:])
                elif mark in self.world.notes.ends and found != whole:
                    yield "%s has %d of %d bytes" % (where, len(found), len(whole))


def _code(status: int) -> int:
    """As a shell has it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _shown(world: World, shown: Shown) -> Iterator[str]:
    """`skyq logs` shows what is in the files, each line once, in their order."""
    found: dict[int, list[str]] = {}
    for text, rank in re.findall(r"^\(.*?\) (\d+ %s (\d+))$" % shown.token, shown.text, re.MULTILINE):
        found.setdefault(int(rank), []).append(text)
    marks = [mark for mark in sorted(world.logs, key=lambda mark: mark.attempt) if mark.token == shown.token]
    for rank in sorted({mark.rank for mark in marks} | found.keys()):
        its = [mark for mark in marks if mark.rank == rank and shown.attempt in (ALL, mark.attempt)]
        texts = [_lines(world.logs[mark], shown.token) for mark in its]
        # Who follows a job that is run again sees the attempts from the current one on.
        wanted = [list(itertools.chain(*texts[first:])) for first in range(len(texts))] or [[]]
        it = found.get(rank, [])
        if it not in [there if shown.whole else there[: len(it)] for there in wanted]:
            yield "%s, attempt %s: `logs` %s showed %d lines of rank %d, not those of the file, %d" % (
                *(shown.token, shown.attempt or "1 and on", shown.how, len(it), rank, len(wanted[0])),
            )


def _lines(log: bytes, token: str) -> list[str]:
    return re.findall(r"^\d+ %s \d+$" % token, log.decode(errors="replace"), re.MULTILINE)
