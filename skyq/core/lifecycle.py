"""What a job does next, given how its steps stand. Pure: the dispatcher carries it out.

A step is one script on one node: `setup-N` (N: the node's index in the cluster) or `run-R` (R: the
rank). Its phase goes one way: ASKED → PREPARED → LIVE → EXITED (the script is over, processes of it may
live) → GONE (none does). A phase that is missing is ASKED: the node is asked, again if need be.

Only steps that are asked for in two stages are ever PREPARED: everything is ready on the node and waits for
the word to go, which is given once all of them are. Whose word was never given did not run.
"""

from __future__ import annotations

from skyq.core import states
from skyq.core.model import Recovery
from skyq.core.paths import host_word
from skyq.core.protocol import UNKNOWN
from skyq.core.typed import NamedTuple
from skyq.core.words import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple

ASKED = 0
PREPARED = 1
LIVE = 2
EXITED = 3
GONE = 4

FAILURE = "failure"
LOSS = "loss"
"""Why a job is run again: by itself it failed, or it was lost. Only failures count as retries."""
MOST_LOSSES = 100
"""How often a job is run again after losses: whoever takes its machine down that often does it always."""

SIGKILLED = 128 + 9
SEGFAULT = 128 + 11


class Phase(NamedTuple):
    """How one step stands."""

    at: int = ASKED
    code: int = 0
    """0..255, or UNKNOWN; meaningful from EXITED on."""
    stopped: bool = False
    """Whether it ended because skyq told it to."""
    why: str = ""
    """Why the code is UNKNOWN; else the cause that the code doesn't tell, if the node knows one."""
    unstarted: bool = False
    """Whether the node could not start it: another try may do."""
    stuck: str = ""
    """The processes of it that live on since no KILL ends them: "pid 4711 (python)"."""
    expired: bool = False
    """Whether its time limit ended it."""


class Verdict(NamedTuple):
    """What to do about one job now."""

    start: Tuple[str, ...] = ()
    """Steps to ask for."""
    go: Tuple[str, ...] = ()
    """Steps that are prepared, as all are that belong together: let them run."""
    stop: Tuple[str, ...] = ()
    """Steps to end: TERM, grace, KILL."""
    over: bool = False
    """Let the leftovers of all steps end."""
    state: Optional[str] = None
    """The state to move to, if another one."""
    again: str = ""
    """FAILURE or LOSS: that state is the end of this attempt only, and the job waits for another one."""
    reason: str = ""
    codes: Tuple[int, ...] = ()
    """Per rank, with a final state."""


class Course(NamedTuple):
    """What of a job decides its course."""

    state: str
    setups: Sequence[str]
    runs: Sequence[str]
    """Step names in rank order; empty for a task that is only a setup."""
    cancel: str = ""
    """Who or what asked for the end; empty: nobody."""
    recovery: Recovery = Recovery()
    failures: int = 0
    """Of earlier attempts, as Job has them."""
    losses: int = 0
    limit: int = 0
    """Seconds; 0: none. The nodes see to it."""


def next_verdict(course: Course, phases: Mapping[str, Phase]) -> Verdict:
    """The next thing to do about an ACTIVE job."""
    steps = [*course.setups, *course.runs] if course.state == states.RUNNING else [*course.setups]
    failed = _first_bad(steps, phases)
    if course.cancel or failed:
        return _ending(course, steps, phases, failed)
    waiting = [step for step in course.setups if _at(phases, step) < EXITED]
    if waiting:
        return Verdict(start=_unasked(waiting, phases), go=_ready(course.setups, phases))
    if course.state == states.SETTING_UP and course.runs:
        return Verdict(start=_unasked(course.runs, phases), state=states.RUNNING)
    if any(_at(phases, step) < EXITED for step in course.runs):
        start = _unasked([*course.setups, *course.runs], phases)
        return Verdict(start=start, go=_ready(course.runs, phases))
    return _closing(steps, phases, states.SUCCEEDED, "finished", course)


def _ending(course: Course, steps: List[str], phases: Mapping[str, Phase], failed: Optional[str]) -> Verdict:
    """A step failed, or the job is cancelled: everything else ends too. What a step did by itself counts."""
    live = tuple(step for step in steps if _at(phases, step) < EXITED)
    if live:
        return Verdict(stop=live)
    if failed and not (course.cancel and (phases[failed].stopped or phases[failed].unstarted)):
        state, reason = _failure(failed, phases, course)
        return _closing(steps, phases, state, reason, course)
    by_itself = not any(phases[step].stopped for step in steps)  # at the word it may well exit with 0
    if failed is None and by_itself and (course.state == states.RUNNING or not course.runs):
        return _closing(steps, phases, states.SUCCEEDED, "finished", course)
    return _closing(steps, phases, states.CANCELLED, course.cancel, course)


def _closing(
    steps: Sequence[str], phases: Mapping[str, Phase], state: str, reason: str, course: Course
) -> Verdict:
    """All scripts are over; the job ends when the last process is gone."""
    if any(_at(phases, step) < GONE for step in steps):
        return Verdict(over=True)
    codes = tuple(_told_code(phases[step], state) for step in course.runs if step in phases)
    own_codes = {phases[step].code for step in steps if not phases[step].stopped}
    last = course.cancel or any(phases[step].expired for step in steps)  # it has had all its time
    again = "" if last else _again(state, own_codes, course)
    return Verdict(state=state, again=again, reason=reason, codes=codes)


def _again(state: str, codes: Set[int], course: Course) -> str:
    """Whether the job shall be run again after an attempt that ended so."""
    recovery, may_lose = course.recovery, course.losses < MOST_LOSSES
    if state in (states.FAILED, states.FAILED_SETUP):
        if may_lose and codes.intersection(recovery.codes):
            return LOSS
        return FAILURE if course.failures < recovery.retries else ""
    return LOSS if state == states.FAILED_DRIVER and recovery.requeue and may_lose else ""


def _told_code(phase: Phase, state: str) -> int:
    """A rank that was ended because another one failed counts as killed, as in SkyPilot."""
    return SIGKILLED if state == states.FAILED and phase.stopped else phase.code


def _failure(step: str, phases: Mapping[str, Phase], course: Course) -> Tuple[str, str]:
    kind, _, number = step.partition("-")
    phase = phases[step]
    if phase.unstarted:
        # No rank runs twice: where another one had its word and ran, this is the end.
        if kind == "run" and any(step in phases and phases[step].code != UNKNOWN for step in course.runs):
            return states.FAILED_DRIVER, "rank %s never started: %s" % (number, phase.why)
        return states.PENDING, phase.why
    if phase.code == UNKNOWN:
        return states.FAILED_DRIVER, phase.why or "exit status unknown"
    words = "time limit of %s reached" % duration(course.limit) if phase.expired else code_words(phase.code)
    words += "; " + phase.why if phase.why else ""
    if kind == "setup":
        node = " on " + host_word(int(number)) if len(course.setups) > 1 else ""
        return states.FAILED_SETUP, "setup failed%s: %s" % (node, words)
    if phase.expired:
        return states.FAILED, words + _meanwhile(phases, course)
    where = "rank %s: " % number if len(course.runs) > 1 else ""
    return states.FAILED, where + words


def _meanwhile(phases: Mapping[str, Phase], course: Course) -> str:
    """Who failed by itself in a gang that reached its time limit: before that, or as others were ending."""
    for rank, step in enumerate(course.runs):
        phase = phases.get(step, Phase())
        if phase.code not in (0, UNKNOWN) and not (phase.stopped or phase.expired):
            return "; rank %d: %s" % (rank, code_words(phase.code))
    return ""


def code_words(code: int) -> str:
    """An exit code in words, with what most likely is behind it."""
    if code == SIGKILLED:
        return "exit code 137 (killed by SIGKILL: often out of memory)"
    if code == SEGFAULT:
        return "exit code 139 (likely due to Segmentation Fault)"
    if code == 127:
        return "exit code 127 (command not found)"
    if code == 126:
        return "exit code 126 (a command could not be executed)"
    if 128 < code < 128 + 65:
        return "exit code %d (killed by signal %d)" % (code, code - 128)
    return "exit code %d" % code


def _at(phases: Mapping[str, Phase], step: str) -> int:
    return phases[step].at if step in phases else ASKED


def _unasked(steps: Sequence[str], phases: Mapping[str, Phase]) -> Tuple[str, ...]:
    return tuple(step for step in steps if step not in phases)


def _ready(steps: Sequence[str], phases: Mapping[str, Phase]) -> Tuple[str, ...]:
    """Those that wait for the word to go, once no other has still to get ready."""
    if any(_at(phases, step) < PREPARED for step in steps):
        return ()
    return tuple(step for step in steps if _at(phases, step) == PREPARED)


def _first_bad(steps: Sequence[str], phases: Mapping[str, Phase]) -> Optional[str]:
    """The step to blame: one that reached its time limit, whatever it made of that, else an own failure, else
    one that couldn't start, else one that skyq stopped.
    """
    bad: Dict[Tuple[bool, bool, bool], str] = {}
    for step in steps:
        phase = phases.get(step)
        if phase and phase.at >= EXITED and (phase.code != 0 or phase.expired):
            bad.setdefault((not phase.expired, phase.stopped, phase.unstarted), step)
    return bad[min(bad)] if bad else None
