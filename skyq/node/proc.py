"""Processes of this machine: identity that outlives pid reuse, descendants, safe signals.

A pid alone names nothing: (boot id, pid namespace, start of pid 1, pid, start time) does. The start
of pid 1 is there for containers, which keep the host's boot id when they are restarted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from typing import Container, Dict, Iterable, List, NamedTuple, Optional, Tuple

_libc = ctypes.CDLL(None, use_errno=True)
_PIDFD_OPEN = 434  # the same number on every architecture
_PIDFD_SEND_SIGNAL = 424
_PR_SET_CHILD_SUBREAPER = 36


class Stat(NamedTuple):
    """What /proc/PID/stat tells, as far as it is needed."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start: int
    """Clock ticks since boot."""


def stat(pid: int) -> Optional[Stat]:
    """Of one process; None when there is none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name in parentheses may hold anything, parentheses and spaces too: what follows the last one counts.
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def boot() -> str:
    """This boot of this machine or container."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot_id = file.read().strip()
    namespace = os.stat("/proc/self/ns/pid").st_ino
    first = stat(1)
    return "%s.%d.%d" % (boot_id, namespace, first.start if first else 0)


def lives(pid: int, start: int) -> bool:
    """Whether that very process does; zombies don't."""
    found = stat(pid)
    return found is not None and found.start == start and found.state not in "ZX"


def become_subreaper() -> None:
    """Orphans among this process's descendants become its children: a double fork doesn't hide."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pidfd(pid: int, start: int) -> int:
    """A descriptor that becomes readable when that very process ends.

    Raises ProcessLookupError if it is gone; returns -1 where the kernel has no pidfds (before 5.3).
    """
    fd = int(_libc.syscall(_PIDFD_OPEN, pid, 0))
    if fd < 0:
        if ctypes.get_errno() == errno.ESRCH:
            raise ProcessLookupError(pid)
        return -1
    os.set_inheritable(fd, False)
    found = stat(pid)
    if found is None or found.start != start:
        os.close(fd)
        raise ProcessLookupError(pid)
    return fd


def send_signal(pid: int, start: int, number: int) -> bool:
    """Signal that very process, never one that has got its pid since. False when it is gone."""
    try:
        fd = pidfd(pid, start)
    except ProcessLookupError:
        return False
    if fd < 0:
        return _kill_by_pid(pid, start, number)
    try:
        return int(_libc.syscall(_PIDFD_SEND_SIGNAL, fd, number, None, 0)) == 0
    finally:
        os.close(fd)


def _kill_by_pid(pid: int, start: int, number: int) -> bool:
    found = stat(pid)
    if found is None or found.start != start:
        return False
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def all_stats() -> List[Stat]:
    """Every process that /proc shows."""
    found = (stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [entry for entry in found if entry is not None]


def descendants(roots: Iterable[int], but: Container[int] = ()) -> List[Stat]:
    """The living processes below (not among) the given pids, parents before children; without those `but`."""
    children: Dict[int, List[Stat]] = {}
    for entry in all_stats():
        children.setdefault(entry.parent, []).append(entry)
    found: List[Stat] = []
    todo = list(roots)
    while todo:
        below = [entry for entry in children.pop(todo.pop(0), []) if entry.pid not in but]
        found += below
        todo += [entry.pid for entry in below]
    return [entry for entry in found if entry.state not in "ZX"]


def is_skyq(pid: int) -> bool:
    """Whether it is a dispatcher, a node agent, or a shim, which has the agent's command line."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return words[-3:-2] in ([b"_dispatcher"], [b"_node"])


def signal_all(targets: Iterable[Stat], number: int) -> int:
    """Signal each of them; how many took it. A stopped process takes a TERM only once it goes on."""
    sent, groups = 0, set()
    for entry in targets:
        sent += send_signal(entry.pid, entry.start, number)
        if number == signal.SIGTERM:
            send_signal(entry.pid, entry.start, signal.SIGCONT)
        elif number == signal.SIGKILL:
            groups.add(entry.group)
    # The kernel kills a group at once: who forks faster than /proc can be read doesn't get away. The groups
    # of a step's processes are the step's own, since its script leads a session.
    for group in groups - {0, os.getpgrp()}:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass  # it is gone
    return sent


def strays(cookie: bytes, out: str, session: int, since: int) -> List[Stat]:
    """What a step left when its shim was killed: known by its environment, its log or its session.

    `cookie` is NAME=value as it stands in the environment, `session` the pid of its script, `since`
    that script's start in clock ticks: nothing older can be of the step.
    """
    try:
        log = os.stat(out)
        log_id: Optional[Tuple[int, int]] = (log.st_dev, log.st_ino)
    except OSError:
        log_id = None
    leader = stat(session)
    if leader is not None and leader.start != since:
        session = -1  # its pid was given to another process, which may have made a session of its own
    own = os.getpid()
    return [
        entry
        for entry in all_stats()
        if entry.pid != own
        and entry.start >= since
        and entry.state not in "ZX"
        and (entry.session == session or _has_cookie(entry.pid, cookie) or _writes(entry.pid, log_id))
    ]


def _has_cookie(pid: int, cookie: bytes) -> bool:
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            return cookie in file.read().split(b"\0")
    except OSError:
        return False


def _writes(pid: int, log_id: Optional[Tuple[int, int]]) -> bool:
    """Whether it has the log open as the script's output; who only reads it is a person's `tail -f`."""
    if log_id is None:
        return False
    try:
        for name in os.listdir("/proc/%d/fd" % pid):
            found = os.stat("/proc/%d/fd/%s" % (pid, name))
            if (found.st_dev, found.st_ino) == log_id and _appends(pid, name):
                return True
    except OSError:
        pass
    return False


def _appends(pid: int, fd: str) -> bool:
    with open("/proc/%d/fdinfo/%s" % (pid, fd)) as file:
        flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
    return bool(flags & os.O_APPEND)
