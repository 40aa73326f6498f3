"""The check can fail: each thing that must never be is found in a world that is well but for that."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.cluster import Record
from tests.nemesis.check import violations
from tests.nemesis.jobs import ALWAYS, CODE, Job
from tests.nemesis.kernel import Mark
from tests.nemesis.people import ALL, Said, Shown
from tests.nemesis.world import Notes, World

GOOD, BAD, ALONE = "x0000001", "x0000002", "x0000003"
"""SUCCEEDED on two nodes; FAILED after a retry; requeued after it was lost, by itself."""


def well() -> World:
    """Three jobs, of which nothing is to be said."""
    jobs = [
        Job(GOOD, nodes=2, lines=5, job_id=1),
        Job(BAD, lines=2, failures=ALWAYS, retries=1, job_id=2),
        Job(ALONE, lines=3, requeue=True, job_id=3),
    ]
    world = World(jobs=jobs, ended={1: 10.0, 2: 20.0, 3: 30.0})
    world.records = [
        record(1, GOOD, "SUCCEEDED", nodes=("node0", "node1"), exit_codes=[0, 0]),
        record(2, BAD, "FAILED", attempt=2, exit_codes=[CODE], reason="exit code 3, in attempt 2"),
        record(3, ALONE, "SUCCEEDED", attempt=2, exit_codes=[0], reason="finished, in attempt 2"),
    ]
    world.earlier = {
        2: [record(2, BAD, "FAILED", reason="exit code 3")],
        3: [record(3, ALONE, "FAILED_DRIVER", reason="node rebooted")],
    }
    for mark, code in {
        **{Mark(GOOD, 0, 1): 0, Mark(GOOD, 1, 1): 0, Mark(BAD, 0, 1): CODE, Mark(BAD, 0, 2): CODE},
        Mark(ALONE, 0, 2): 0,
    }.items():
        ends(world, mark, code)
    world.notes.starts[Mark(ALONE, 0, 1)] = 1
    world.exits[Mark(ALONE, 0, 1)] = 9
    world.excuses.losses.append(("node2", 25.0, 26.0))
    text = "".join("(x, rank=%d) %s\n" % (rank, line) for rank in (0, 1) for line in jobs[0].shown(rank))
    world.shown = [Shown("afterwards", GOOD, 1, text, True)]
    return world


def record(job: int, name: str, status: str, **more: object) -> Record:
    """As `queue` tells, and as the store remembers attempts."""
    nodes = more.pop("nodes", ("node2",))
    found = {"job_id": job, "job_name": name, "status": status, "state": status, "reason": "finished"}
    given = {"nodes": [{"node": node} for node in nodes], "attempt": 1, "exit_codes": []}  # type: ignore[attr-defined]
    return {**found, **given, **more}


def ends(world: World, mark: Mark, code: int) -> None:
    """A rank runs to its end."""
    job = next(job for job in world.jobs if job.token == mark.token)
    world.notes.starts[mark] = 1
    world.notes.ends[mark] = code
    world.exits[mark] = code << 8
    world.logs[mark] = job.log(mark.rank)


def test_nothing_is_said_of_a_world_that_is_well() -> None:
    assert violations(well()) == []


def _double_start(world: World) -> None:
    world.notes.starts[Mark(GOOD, 1, 1)] = 2


def _start_of_no_attempt(world: World) -> None:
    world.notes.starts[Mark(GOOD, 1, 2)] = 1


def _note(line: str) -> Callable[[World], None]:
    return lambda world: world.notes.read("node1", line + "\n")


def _rank_without_end(world: World) -> None:
    del world.notes.ends[Mark(GOOD, 1, 1)]


def _kernel_says_otherwise(world: World) -> None:
    world.exits[Mark(GOOD, 1, 1)] = 1 << 8


def _told_another_code(world: World) -> None:
    world.records[1]["exit_codes"] = [4]


def _lost_id(world: World) -> None:
    del world.records[0]


def _id_of_another(world: World) -> None:
    world.records[0]["job_id"], world.records[1]["job_id"] = 2, 1


def _twice_in_the_queue(world: World) -> None:
    world.records.append(record(4, GOOD, "CANCELLED"))
    world.jobs[0].cancelled = True


def _nobody_submitted(world: World) -> None:
    world.records.append(record(4, "x0000009", "SUCCEEDED"))


def _cut_log(world: World) -> None:
    world.logs[Mark(GOOD, 1, 1)] = world.logs[Mark(GOOD, 1, 1)][:-20]


def _log_with_a_gap(world: World) -> None:
    text = world.logs[Mark(BAD, 0, 1)]
    world.logs[Mark(BAD, 0, 1)] = text[text.index(b"\n") + 1 :]


def _missing_log(world: World) -> None:
    del world.logs[Mark(BAD, 0, 1)]


def _line_shown_twice(world: World) -> None:
    old = world.shown[0]
    text = old.text + old.text.splitlines()[-1] + "\n"
    world.shown[0] = Shown(old.how, GOOD, ALL, text, False)


def _log_not_shown_to_its_end(world: World) -> None:
    old = world.shown[0]
    world.shown[0] = Shown(old.how, GOOD, ALL, old.text[: len(old.text) // 2], True)


def _left_process(world: World) -> None:
    world.left.append("process 17 of %s, rank 0: sleep 3600" % GOOD)


def _nobody_cancelled(world: World) -> None:
    world.records[0].update(status="CANCELLED", reason="cancelled by ada")


def _never_ended(world: World) -> None:
    world.records[0]["status"] = "RUNNING"


def _failed_without_failure(world: World) -> None:
    world.records[0].update(status="FAILED", reason="exit code 3")


def _no_reason(world: World) -> None:
    world.records[1]["reason"] = ""


def _lost_without_cause(world: World) -> None:
    world.records[0].update(status="FAILED_DRIVER", reason="exit status unknown: its shim was killed")


def _lost_elsewhere(world: World) -> None:
    world.excuses.losses = [("node3", 25.0, 26.0)]


def _lost_at_another_time(world: World) -> None:
    world.excuses.losses = [("node2", 31.0, 32.0)]


def _too_many_retries(world: World) -> None:
    world.jobs[1].retries = 0


def _too_few_retries(world: World) -> None:
    world.jobs[1].retries = 2


def _run_again_unasked(world: World) -> None:
    world.jobs[2].requeue = False


def _not_run_again(world: World) -> None:
    world.records[2].update(status="FAILED_DRIVER", reason="node rebooted, in attempt 2")


def _forgotten_attempt(world: World) -> None:
    world.earlier.pop(2)


def _ran_after_a_bad_setup(world: World) -> None:
    world.jobs[0].setup = "fails"


def _setup_failed(world: World) -> None:
    world.records[1]["status"] = "FAILED_SETUP"


def _traceback(world: World) -> None:
    world.said.append(Said("client", "queue lab", 1, "Traceback (most recent call last): ..."))


def _traceback_logged(world: World) -> None:
    world.words["node0"] = "12: dispatcher of lab\nTraceback (most recent call last): ..."


def _no_answer(world: World) -> None:
    world.said.append(Said("client", "queue lab", None, "", late=True))


def _negative_time(world: World) -> None:
    world.said.append(Said("client", "queue lab", 0, "7  x  ada  -3599 secs ago  RUNNING"))


def _half_an_array(world: World) -> None:
    world.jobs += [Job("x0000004-0"), Job("x0000004-1", cancelled=True)]
    world.records.append(record(4, "x0000004-1", "CANCELLED", reason="cancelled by ada"))


DOCTORED = {
    "of the array x0000004 1 of 2 jobs are in the queue": _half_an_array,
    "started 2 times in attempt 1": _double_start,
    "started in attempt 2 of 1": _start_of_no_attempt,
    "node1: double x0000001 3": _note("double x0000001 3"),
    "node1: twice x0000001 0 1": _note("twice x0000001 0 1"),
    "node1: wrong-files x0000001 0 1": _note("wrong-files x0000001 0 1"),
    "it is SUCCEEDED (finished), and its ranks ended so: {0: 0}": _rank_without_end,
    "and the kernel tells of its ranks: {0: 0, 1: 1}": _kernel_says_otherwise,
    "rank 0 ended with 4, and the kernel says 3": _told_another_code,
    "was acknowledged as job 1, which is not there": _lost_id,
    "was acknowledged as job 1, which is x0000002": _id_of_another,
    "x0000001 is in the queue 2 times": _twice_in_the_queue,
    "x0000009 was never submitted": _nobody_submitted,
    "the log of rank 1 in attempt 1 has 45 of 65 bytes": _cut_log,
    "the log of rank 0 in attempt 1 isn't what it printed": _log_with_a_gap,
    "the log of rank 0 in attempt 1 has 0 of 26 bytes": _missing_log,
    "showed 6 lines of rank 1": _line_shown_twice,
    "showed 0 lines of rank 1": _log_not_shown_to_its_end,
    "process 17 of x0000001, rank 0: sleep 3600": _left_process,
    "it is CANCELLED (cancelled by ada), and nobody cancelled it": _nobody_cancelled,
    "it is RUNNING (finished), and all is over": _never_ended,
    "it is FAILED (exit code 3), and its ranks ended so": _failed_without_failure,
    "it is FAILED without a reason": _no_reason,
    "x0000001 (job 1): it is FAILED_DRIVER": _lost_without_cause,
    "attempt 1 FAILED_DRIVER (node rebooted), and no machine or shim of it was lost": _lost_elsewhere,
    "and no machine or shim of it was lost": _lost_at_another_time,
    "it was run again 1 times, and may be 0 times": _too_many_retries,
    "it is FAILED after 1 of 2 retries": _too_few_retries,
    "it was run again though it was lost": _run_again_unasked,
    "it is FAILED_DRIVER (node rebooted, in attempt 2), and should be run again": _not_run_again,
    "0 of its 2 attempts are remembered as former ones": _forgotten_attempt,
    "after a setup that failed": _ran_after_a_bad_setup,
    "it is FAILED_SETUP (exit code 3, in attempt 2), and its setup is well": _setup_failed,
    "skyq queue lab showed a traceback": _traceback,
    "node0: a dispatcher logged a traceback": _traceback_logged,
    "skyq queue lab did not answer in time": _no_answer,
    "skyq queue lab showed a time below 0": _negative_time,
}


@pytest.mark.parametrize("told", DOCTORED, ids=[doctor.__name__.strip("_") for doctor in DOCTORED.values()])
def test_what_must_never_be_is_found(told: str) -> None:
    world = well()
    DOCTORED[told](world)

    assert [text for text in violations(world) if told in text], json.dumps(violations(world), indent=1)


def test_a_rank_that_found_no_room_for_its_text_may_have_any_log() -> None:
    world = well()
    world.shown.clear()
    _cut_log(world)
    world.notes.read("node1", "unwritten %s 1 1\n" % GOOD)

    assert violations(world) == []


@pytest.mark.parametrize("first", [1, 2])
def test_a_log_may_be_followed_from_any_attempt_on(first: int) -> None:
    world = well()
    lines = "".join("(x, pid=5) %s\n" % line for line in world.jobs[1].shown(0))
    world.shown = [Shown("while it was followed", BAD, ALL, lines * (3 - first), True)]

    assert violations(world) == []


def test_notes_are_read_as_jobs_write_them() -> None:
    notes = Notes()
    notes.read("node1", "start x0000001 1 2\nend x0000001 1 2 3\nunwritten x0000001 1 2\n")

    mark = Mark("x0000001", 1, 2)
    assert (notes.starts[mark], notes.ends[mark], notes.unwritten, notes.wrong) == (1, 3, {mark}, [])
