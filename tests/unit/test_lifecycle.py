"""What a job does next, given how its steps stand; and that every history of phases comes to a right end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.core.lifecycle import (
    ASKED,
    EXITED,
    FAILURE,
    GONE,
    LIVE,
    LOSS,
    MOST_LOSSES,
    PREPARED,
    Course,
    Phase,
    Verdict,
    next_verdict,
)
from skyq.core.model import Recovery
from skyq.core.protocol import UNKNOWN
from skyq.core.states import FINAL, PENDING, RUNNING, SETTING_UP

SETUP, RUN = "setup-0", "run-0"
SHIM_KILLED = "exit status unknown: its shim was killed"

asked, prepared, live = Phase(ASKED), Phase(PREPARED), Phase(LIVE)


def exited(code: int = 0, stopped: bool = False) -> Phase:
    """The script is over, something of it lives."""
    return Phase(EXITED, code, stopped)


def gone(code: int = 0, stopped: bool = False, why: str = "") -> Phase:
    """Nothing of the step lives."""
    return Phase(GONE, code, stopped, why)


def lost() -> Phase:
    """Its shim was killed."""
    return gone(UNKNOWN, why=SHIM_KILLED)


def unstarted(why: str = "the disk is full") -> Phase:
    """The node could not start it."""
    return Phase(GONE, UNKNOWN, why=why, unstarted=True)


def setting_up(phases: dict[str, Phase], cancel: str = "") -> Verdict:
    """Of a job with setup and run that is SETTING_UP."""
    return next_verdict(Course(SETTING_UP, [SETUP], [RUN], cancel), phases)


def running(*ranks: Phase | None, setup: Phase | None = None, cancel: str = "") -> Verdict:
    """Of a RUNNING job with these ranks (None: not asked for yet)."""
    runs = ["run-%d" % rank for rank in range(len(ranks))]
    phases = {step: phase for step, phase in zip(runs, ranks) if phase is not None}
    if setup is not None:
        phases[SETUP] = setup
    return next_verdict(Course(RUNNING, [SETUP] if setup else [], runs, cancel), phases)


def after(phase: Phase, recovery: Recovery, failures: int = 0, losses: int = 0, cancel: str = "") -> Verdict:
    """Of a running job of one rank that ended so, and may be run again."""
    return next_verdict(Course(RUNNING, [], [RUN], cancel, recovery, failures, losses), {RUN: phase})


# The way that all goes well.


def test_setup_starts_first_and_alone() -> None:
    assert setting_up({}) == Verdict(start=(SETUP,))


@pytest.mark.parametrize("phase", [asked, live])
def test_what_was_asked_for_is_waited_for(phase: Phase) -> None:
    assert setting_up({SETUP: phase}) == Verdict()
    assert running(phase) == Verdict()


@pytest.mark.parametrize("setup", [exited(), gone()])
def test_run_starts_when_setups_script_is_over(setup: Phase) -> None:
    assert setting_up({SETUP: setup}) == Verdict(start=(RUN,), state="RUNNING")


def test_all_ranks_start_together() -> None:
    assert running(None, None, None) == Verdict(start=("run-0", "run-1", "run-2"))


def test_nobody_goes_before_all_are_ready() -> None:
    assert running(prepared, asked) == Verdict()
    assert running(prepared, None) == Verdict(start=("run-1",))
    assert running(prepared, prepared) == Verdict(go=("run-0", "run-1"))
    assert running(prepared, live) == Verdict(go=("run-0",))


def test_setups_go_together_too() -> None:
    course = Course(SETTING_UP, ["setup-0", "setup-1"], [RUN])
    assert next_verdict(course, {"setup-0": prepared, "setup-1": asked}) == Verdict()
    assert next_verdict(course, {"setup-0": prepared, "setup-1": prepared}).go == ("setup-0", "setup-1")


def test_who_can_not_get_ready_sends_the_whole_gang_back_to_wait() -> None:
    assert running(prepared, unstarted()) == Verdict(stop=("run-0",))
    assert running(gone(UNKNOWN, stopped=True), unstarted()).state == PENDING


def test_a_gang_ends_when_its_last_rank_does() -> None:
    assert running(gone(), live) == Verdict()
    assert running(gone(), gone()) == Verdict(state="SUCCEEDED", reason="finished", codes=(0, 0))


def test_a_task_that_is_only_a_setup_succeeds_without_codes() -> None:
    course = Course(SETTING_UP, [SETUP], [])

    assert next_verdict(course, {SETUP: gone()}) == Verdict(state="SUCCEEDED", reason="finished")


# What scripts leave behind.


@pytest.mark.parametrize("code", [0, 3])
def test_leftovers_are_told_to_go_before_the_job_is_final(code: int) -> None:
    assert running(exited(code)) == Verdict(over=True)
    assert running(gone(code), exited()) == Verdict(over=True)


def test_leftovers_of_setup_live_as_long_as_the_job() -> None:
    assert running(live, setup=exited()) == Verdict()
    assert running(gone(), setup=exited()) == Verdict(over=True)


# Failures.


def test_a_failed_setup_ends_the_job_and_run_never_starts() -> None:
    assert setting_up({SETUP: gone(2)}) == Verdict(state="FAILED_SETUP", reason="setup failed: exit code 2")


def test_of_several_setups_the_failed_ones_node_is_named() -> None:
    course = Course(SETTING_UP, ["setup-0", "setup-2"], ["run-0", "run-1"])

    verdict = next_verdict(course, {"setup-0": gone(143, stopped=True), "setup-2": gone(2)})
    assert (verdict.state, verdict.reason) == ("FAILED_SETUP", "setup failed on worker2: exit code 2")


def test_a_failed_run_has_its_exit_code() -> None:
    assert running(gone(3)) == Verdict(state="FAILED", reason="exit code 3", codes=(3,))


def test_a_failing_rank_ends_the_others_and_is_the_one_to_blame() -> None:
    assert running(live, gone(3), asked) == Verdict(stop=("run-0", "run-2"))
    assert running(gone(143, stopped=True), gone(3)) == Verdict(
        state="FAILED", reason="rank 1: exit code 3", codes=(137, 3)
    )


def test_a_lost_shim_is_no_guess() -> None:
    assert running(lost()) == Verdict(state="FAILED_DRIVER", reason=SHIM_KILLED, codes=(UNKNOWN,))
    assert setting_up({SETUP: lost()}) == Verdict(state="FAILED_DRIVER", reason=SHIM_KILLED)


def test_what_a_node_could_not_start_waits_again() -> None:
    assert running(unstarted()) == Verdict(state="PENDING", reason="the disk is full", codes=(UNKNOWN,))


@pytest.mark.parametrize("other", [gone(143, stopped=True), gone(0)], ids=["stopped", "finished"])
def test_a_gang_of_which_one_rank_never_went_fails_since_nothing_runs_twice(other: Phase) -> None:
    assert running(live, unstarted()) == Verdict(stop=("run-0",))
    ended = running(other, unstarted())
    assert (ended.state, ended.reason) == ("FAILED_DRIVER", "rank 1 never started: the disk is full")


def test_an_own_failure_counts_more_than_a_rank_that_could_not_start() -> None:
    assert running(unstarted(), gone(3)).state == "FAILED"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (126, "(a command could not be executed)"),
        (127, "(command not found)"),
        (130, "(killed by signal 2)"),
        (137, "(killed by SIGKILL: often out of memory)"),
        (139, "(likely due to Segmentation Fault)"),
    ],
)
def test_the_reason_says_what_most_likely_is_behind_a_code(code: int, words: str) -> None:
    assert running(gone(code)).reason == "exit code %d %s" % (code, words)


# Cancel.


def test_cancel_before_anything_started_forbids_the_start() -> None:
    assert setting_up({}, cancel="by me") == Verdict(stop=(SETUP,))
    assert running(None, cancel="by me") == Verdict(stop=(RUN,))
    never = gone(UNKNOWN, stopped=True, why="it never started")
    assert running(never, cancel="by me") == Verdict(state="CANCELLED", reason="by me", codes=(UNKNOWN,))


def test_cancel_during_setup_ends_it_and_run_never_starts() -> None:
    assert setting_up({SETUP: live}, cancel="by me") == Verdict(stop=(SETUP,))
    for setup in (gone(143, stopped=True), gone()):
        assert setting_up({SETUP: setup}, cancel="by me") == Verdict(state="CANCELLED", reason="by me")


def test_cancel_stops_what_lives_and_only_that() -> None:
    assert running(live, gone(), setup=exited(), cancel="by me") == Verdict(stop=("run-0",))


@pytest.mark.parametrize("code", [0, 1, 137, 143])
def test_what_skyq_stopped_is_cancelled_whatever_its_code(code: int) -> None:
    assert running(gone(code, stopped=True), cancel="by me") == Verdict(
        state="CANCELLED", reason="by me", codes=(code,)
    )


def test_cancelled_only_when_the_last_process_is_gone() -> None:
    assert running(exited(143, stopped=True), cancel="by me") == Verdict(over=True)


def test_a_result_that_a_job_reached_by_itself_outlives_a_late_cancel() -> None:
    assert running(gone(), cancel="by me").state == "SUCCEEDED"
    assert running(gone(4), cancel="by me") == Verdict(state="FAILED", reason="exit code 4", codes=(4,))
    assert setting_up({SETUP: gone(5)}, cancel="by me").state == "FAILED_SETUP"
    only_setup = Course(SETTING_UP, [SETUP], [], cancel="by me")
    assert next_verdict(only_setup, {SETUP: gone()}).state == "SUCCEEDED"


def test_a_job_that_could_not_start_and_is_cancelled_does_not_wait_again() -> None:
    assert running(unstarted(), cancel="by me").state == "CANCELLED"


def test_a_shim_lost_during_a_cancel_is_still_told() -> None:
    assert running(lost(), cancel="by me").state == "FAILED_DRIVER"


# Any history.


class World:
    """Nodes that do what they are told, at moments that the history chooses."""

    def __init__(self, setups: int, ranks: int, held: bool) -> None:
        self.setups = ["setup-%d" % number for number in range(setups)]
        self.runs = ["run-%d" % rank for rank in range(ranks)]
        self.state = SETTING_UP if setups else RUNNING
        self.cancel = ""
        self.phases: dict[str, Phase] = {}
        self.asked: list[str] = []
        self.stopping: set[str] = set()
        self.told_to_go: set[str] = set()
        self.ran: set[str] = set()
        self.held = held
        self.over = False
        self.final: Verdict | None = None

    def tick(self) -> None:
        """Do what the verdict says, as the dispatcher does."""
        verdict = next_verdict(Course(self.state, self.setups, self.runs, self.cancel), self.phases)
        for step in verdict.start:
            assert step not in self.asked, "asked twice for %s" % step
            assert step not in self.stopping, "%s starts after its stop" % step
            self.asked.append(step)
            self.phases[step] = Phase()
        for step in verdict.go:
            assert step not in self.stopping, "%s goes after its stop" % step
            self.told_to_go.add(step)
        for step in set(verdict.stop) - self.stopping:
            self.stopping.add(step)
            if step not in self.phases:
                self.phases[step] = gone(UNKNOWN, stopped=True, why="it never started")
        self.over |= verdict.over
        if verdict.state == RUNNING:
            self.state = RUNNING
        elif verdict.state:
            self.final = verdict

    def happens(self, what: str, code: int, which: int) -> None:
        """One event, where it can happen."""
        alive = [step for step in self.asked if self.phases[step].at < GONE]
        if what == "cancel":
            self.cancel = "cancelled by me"
        elif alive:
            step = alive[which % len(alive)]
            self.phases[step] = self.after(what, code, step)
            if self.phases[step].at >= LIVE and not self.phases[step].unstarted and self.may_run(step):
                self.ran.add(step)

    def may_run(self, step: str) -> bool:
        """A held one only runs when it was told to."""
        return not self.held or step in self.told_to_go

    def after(self, what: str, code: int, step: str) -> Phase:
        """How the step stands then; a phase never goes back."""
        now, stopped = self.phases[step], step in self.stopping
        if now.at == EXITED:
            return now._replace(at=GONE) if what == "gone" else now
        if what == "unstarted" and now.at < LIVE and not stopped:
            return unstarted()
        if self.held and step not in self.told_to_go and not stopped:
            return prepared
        if what == "lost":
            return lost()
        if what == "live":
            return live
        return Phase(GONE if what == "gone" else EXITED, code, stopped)

    def comes_to_an_end(self) -> None:
        """From here on each node just does its duty."""
        for _ in range(5 * (len(self.setups) + len(self.runs)) + 4):
            self.tick()
            if self.final:
                return
            for step in self.asked:
                phase = self.phases[step]
                if self.held and phase.at < PREPARED and step not in self.stopping:
                    self.phases[step] = prepared
                elif phase.at < EXITED and (self.may_run(step) or step in self.stopping):
                    self.phases[step] = exited(0, step in self.stopping)
                    self.ran |= {step} if self.may_run(step) else set()
                elif phase.at == EXITED and self.over:
                    self.phases[step] = phase._replace(at=GONE)
        raise AssertionError("it never ends: %s" % vars(self))


EVENTS = st.tuples(
    st.sampled_from(["live", "exited", "exited", "gone", "gone", "lost", "unstarted", "cancel"]),
    st.sampled_from([0, 0, 0, 1, 143]),
    st.integers(0, 9),
)


@given(st.integers(0, 2), st.integers(0, 3), st.booleans(), st.lists(EVENTS, max_size=20))
def test_every_history_starts_each_step_once_and_comes_to_the_end_that_it_deserves(
    setups: int, ranks: int, held: bool, events: list[tuple[str, int, int]]
) -> None:
    world = World(setups or not ranks, ranks, held)
    for event in events:
        world.tick()
        if world.final:
            break
        world.happens(*event)
    if not world.final:
        world.comes_to_an_end()

    assert world.final is not None
    state, phases = world.final.state, world.phases
    ended = [phases[step] for step in world.asked]
    well = all(step in phases and phases[step][:3] == (GONE, 0, False) for step in world.runs)
    assert state in FINAL or (state == PENDING and any(phase.unstarted for phase in ended))
    assert world.final.reason
    assert all(phase.at == GONE for phase in ended), "final while something lives"
    assert not any(step in world.asked for step in world.runs) or all(
        phases[step].code == 0 for step in world.setups
    ), "it ran after a setup that failed"
    assert state != PENDING or not world.ran & {*world.runs}, "it would run twice"
    assert state != "SUCCEEDED" or well
    assert state != "CANCELLED" or world.cancel
    assert state == "SUCCEEDED" or not (world.runs and well)


# Another attempt.


@pytest.mark.parametrize(
    "phase, recovery, failures, again",
    [
        (gone(3), Recovery(), 0, ""),
        (gone(3), Recovery(retries=2), 0, FAILURE),
        (gone(3), Recovery(retries=2), 1, FAILURE),
        (gone(3), Recovery(retries=2), 2, ""),
        (gone(3), Recovery(requeue=True), 0, ""),
        (gone(3), Recovery(codes=(3,)), 9, LOSS),
        (gone(4), Recovery(codes=(3,)), 0, ""),
        (gone(0), Recovery(9, (3,), True), 0, ""),
        (lost(), Recovery(retries=2), 0, ""),
        (lost(), Recovery(requeue=True), 9, LOSS),
    ],
)
def test_who_is_run_again(phase: Phase, recovery: Recovery, failures: int, again: str) -> None:
    assert after(phase, recovery, failures).again == again


def test_nothing_is_run_again_once_somebody_cancelled_it() -> None:
    for phase in (gone(3), lost(), gone(0, stopped=True)):
        assert after(phase, Recovery(9, (3,), True), cancel="cancelled by me").again == ""


def test_no_job_is_lost_for_ever() -> None:
    assert after(lost(), Recovery(requeue=True), losses=MOST_LOSSES - 1).again == LOSS
    assert after(lost(), Recovery(requeue=True), losses=MOST_LOSSES).again == ""


def test_a_rank_that_was_ended_with_the_others_does_not_ask_for_another_attempt() -> None:
    """Its code is skyq's work."""
    course = Course(RUNNING, [], ["run-0", "run-1"], recovery=Recovery(codes=(143,)))
    phases = {"run-0": gone(5), "run-1": gone(143, stopped=True)}
    assert next_verdict(course, phases).again == ""


# Time limits.

ONCE = Recovery()


def expired(code: int = 143, at: int = GONE) -> Phase:
    """Its time limit ended it."""
    return Phase(at, code, expired=True)


def limited(*ranks: Phase, recovery: Recovery = ONCE, cancel: str = "") -> Verdict:
    """Of a running job of these ranks with a limit of 90 minutes."""
    runs = ["run-%d" % rank for rank in range(len(ranks))]
    return next_verdict(Course(RUNNING, [], runs, cancel, recovery, limit=5400), dict(zip(runs, ranks)))


@pytest.mark.parametrize("code", [0, 1, 137, 143])
def test_whoever_reaches_its_limit_has_failed_whatever_its_code(code: int) -> None:
    ended = limited(expired(code))
    assert ended == Verdict(state="FAILED", reason="time limit of 1h 30m reached", codes=(code,))


def test_one_rank_at_its_limit_ends_all() -> None:
    assert limited(live, expired(at=EXITED)) == Verdict(stop=("run-0",))
    ended = limited(gone(0, stopped=True), expired())
    assert (ended.reason, ended.codes) == ("time limit of 1h 30m reached", (137, 143))


def test_who_failed_as_others_reached_their_limit_is_named_too() -> None:
    ended = limited(gone(1), expired())
    assert (ended.reason, ended.codes) == ("time limit of 1h 30m reached; rank 0: exit code 1", (1, 143))


def test_who_has_had_its_time_is_not_run_again() -> None:
    for recovery in (Recovery(retries=3), Recovery(codes=(143,)), Recovery(requeue=True)):
        assert (limited(expired(), recovery=recovery).state, limited(expired()).again) == ("FAILED", "")


def test_a_setup_has_its_limit_too() -> None:
    ended = next_verdict(Course(SETTING_UP, [SETUP], [RUN], limit=60), {SETUP: expired()})
    assert (ended.state, ended.reason) == ("FAILED_SETUP", "setup failed: time limit of 1m reached")


def test_a_cancel_after_the_limit_comes_too_late() -> None:
    assert limited(expired(), cancel="cancelled by me").reason == "time limit of 1h 30m reached"
    assert limited(gone(143, stopped=True), cancel="cancelled by me").state == "CANCELLED"
