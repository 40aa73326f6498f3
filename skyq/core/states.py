"""The states of a job, their edges, and the named groups of them.

        ┌──────────────► CANCELLED ◄─────────┐
    PENDING ──► SETTING_UP ──► RUNNING ──────┤
        │            │            ├────► SUCCEEDED
        └──► FAILED ◄┴────────────┤
                  FAILED_SETUP ◄──┤  FAILED_DRIVER: the exit status can't be known
                 FAILED_DRIVER ◄──┘
    SETTING_UP | RUNNING ──► PENDING only by a requeue, which adds an attempt

The words, and the exit codes in EXIT_CODE, are SkyPilot's (sky/skylet/job_lib.py).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, FrozenSet

PENDING = "PENDING"
SETTING_UP = "SETTING_UP"
RUNNING = "RUNNING"
SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"
FAILED_SETUP = "FAILED_SETUP"
FAILED_DRIVER = "FAILED_DRIVER"
CANCELLED = "CANCELLED"

WAITING: FrozenSet[str] = frozenset({PENDING})
ACTIVE: FrozenSet[str] = frozenset({SETTING_UP, RUNNING})
"""These hold resources."""
FINAL: FrozenSet[str] = frozenset({SUCCEEDED, FAILED, FAILED_SETUP, FAILED_DRIVER, CANCELLED})
"""These are never left."""

EDGES: Dict[str, FrozenSet[str]] = {
    PENDING: frozenset({SETTING_UP, RUNNING, CANCELLED, FAILED}),
    SETTING_UP: FINAL | {RUNNING, PENDING},
    RUNNING: FINAL | {PENDING},
    **{state: frozenset() for state in FINAL},
}

EXIT_OK = 0
EXIT_FAILED = 100
EXIT_NOT_FINISHED = 101
EXIT_NOT_FOUND = 102
EXIT_CANCELLED = 103

EXIT_CODE: Dict[str, int] = {
    PENDING: EXIT_NOT_FINISHED,
    SETTING_UP: EXIT_NOT_FINISHED,
    RUNNING: EXIT_NOT_FINISHED,
    SUCCEEDED: EXIT_OK,
    FAILED: EXIT_FAILED,
    FAILED_SETUP: EXIT_FAILED,
    FAILED_DRIVER: EXIT_FAILED,
    CANCELLED: EXIT_CANCELLED,
}
"""What `logs`, `logs --status` and an attached `exec` or `launch` exit with."""
