"""Waiting for what other processes do: never a sleep for an outcome, and evidence when it doesn't come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")

PATIENCE = 60.0  # seconds; only a failing test waits as long, and a busy machine is no failure
VANISHED = psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2  # seconds


def wait_until(
    condition: Callable[[], T],
    what: str,
    within: float = PATIENCE,
    evidence: Callable[[], str] = lambda: "",
    longest_pause: float = LONGEST_PAUSE,
) -> T:
    """What the condition returns once that is true.

    AssertionError when it never is, with the evidence of that moment. A condition that sees that it can't
    become true any more raises one itself. One that lists processes or files is asked again if some of them
    end or go while it looks.
    """
    deadline = time.monotonic() + within
    pause = FIRST_PAUSE
    while True:
        last_look = time.monotonic() > deadline  # a look after the deadline: the machine may have slept
        try:
            found = condition()
            if found:
                return found
        except VANISHED:
            if last_look:
                raise
        if last_look:
            raise AssertionError("not within %g s: %s\n%s" % (within, what, evidence()))
        time.sleep(pause)
        pause = min(pause * 1.5, longest_pause)
