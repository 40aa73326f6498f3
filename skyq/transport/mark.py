"""What every process of a step inherits: a mark, whatever it does to hide, and its turn when memory ends.

The mark is a limit that limits nothing, RLIMIT_LOCKS: every child inherits it, with an empty environment and
in a session of its own too, /proc shows it to everybody, and no kernel since Linux 2.4 obeys it. Only its
soft value is set, which needs no rights. Standard library of Python 3.8.
"""

from __future__ import annotations

import resource
from binascii import crc32

OOM_SCORE = 200  # of 1000: under memory pressure the kernel takes the job before its shim
_LIMIT = 10
_TITLE = b"\nMax file locks "


def bear(step: str) -> None:
    """From now on this process and all that it starts are of that step."""
    _set(_of(step))
    _add_to_oom_score(OOM_SCORE)


def shed() -> None:
    """This process, which serves others too, is of no step."""
    soft, hard = resource.getrlimit(_LIMIT)
    if soft != hard:
        _set(hard)
        _add_to_oom_score(-OOM_SCORE)


def bears(pid: int, step: str) -> bool:
    """Whether a process is of that step."""
    return _borne_by(pid) == _of(step)


def is_borne(pid: int) -> bool:
    """Whether a process is of some step."""
    return _borne_by(pid) >> 61 == 1


def _borne_by(pid: int) -> int:
    """Its limit; 0: it is unlimited, or the process is gone."""
    try:
        with open("/proc/%d/limits" % pid, "rb") as file:
            soft = file.read().partition(_TITLE)[2].split(None, 1)[:1]
    except OSError:
        return 0
    return int(soft[0]) if soft and soft[0].isdigit() else 0


def _of(step: str) -> int:
    """A number that no limit has by chance."""
    text = step.encode()
    return 1 << 61 | crc32(text) << 29 | crc32(text[::-1]) >> 3


def _set(soft: int) -> None:
    try:
        resource.setrlimit(_LIMIT, (soft, resource.getrlimit(_LIMIT)[1]))
    except (OSError, ValueError):
        pass  # a hard limit that is lower, or a kernel that only resembles Linux: then there is no mark


def _add_to_oom_score(more: int) -> None:
    """To that of who starts it: a container may have given all in it a high one."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            score = int(file.read()) + more
            file.seek(0)
            file.write(str(max(-1000, min(1000, score))))
    except OSError:
        pass  # a container may forbid it
