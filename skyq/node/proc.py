"""Processes of this machine: identity that outlives pid reuse, descendants, safe signals.

A pid alone names nothing: (boot id, pid namespace, start of pid 1, pid, start time) does. The start
of pid 1 is there for containers, which keep the host's boot id when they are restarted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

from skyq.core.typed import NamedTuple
from skyq.node.claim import account
from skyq.transport import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Container, Dict, Iterable, Iterator, List, Optional

_libc = ctypes.CDLL(None, use_errno=True)
_PIDFD_OPEN = 434  # the same number on every architecture
_PIDFD_SEND_SIGNAL = 424
_PR_SET_CHILD_SUBREAPER = 36
_DEAD = "ZX"


class Stat(NamedTuple):
    """What /proc/PID/stat tells, as far as it is needed."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start: int
    """Clock ticks since boot."""
    threads: int = 1

    @property
    def lives(self) -> bool:
        """Zombies don't, but for those of which only the first thread has ended."""
        return self.state not in _DEAD or (self.state == "Z" and self.threads > 1)


def stat(pid: int) -> Optional[Stat]:
    """Of one process; None when there is none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name in parentheses may hold anything, parentheses and spaces too: what follows the last one counts.
    fields = text[text.rindex(b")") + 2 :].split()
    numbers = [int(fields[at]) for at in (1, 2, 3, 19, 17)]
    return Stat(pid, fields[0].decode(), *numbers)


def name(pid: int) -> str:
    """What its program is called, as it says itself; printable. "?" if it is gone."""
    try:
        with open("/proc/%d/comm" % pid, encoding="utf-8", errors="replace") as file:
            return "".join(char if char.isprintable() else "?" for char in file.read().strip("\n"))
    except OSError:
        return "?"


def owner(pid: int) -> str:
    """The account of a process; "" if it is gone, or can't be seen from here."""
    try:
        return account(os.stat("/proc/%d" % pid).st_uid)
    except OSError:
        return ""


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
    return found is not None and found.start == start and found.lives


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
    return list(_stats())


def _stats() -> Iterator[Stat]:
    """The newest first: who forks and ends, again and again, is met before it has done so."""
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    last = _last_pid()
    for pid in sorted(pids, key=lambda pid: (pid <= last, pid), reverse=True):  # above it: before the wrap
        found = stat(pid)
        if found is not None:
            yield found


def _last_pid() -> int:
    """The one that was given away last; they begin anew at the top."""
    try:
        with open("/proc/loadavg") as file:
            return int(file.read().split()[4])
    except (OSError, ValueError, IndexError):
        return 1 << 30


def descendants(
    roots: Iterable[int], but: Container[int] = (), among: Optional[List[Stat]] = None
) -> List[Stat]:
    """The living processes below (not among) the given pids, parents before children; without those `but`.

    `among`: everybody, as it was before some of them were killed.
    """
    children: Dict[int, List[Stat]] = {}
    for entry in all_stats() if among is None else among:
        children.setdefault(entry.parent, []).append(entry)
    found: List[Stat] = []
    todo = list(roots)
    while todo:
        below = [entry for entry in children.pop(todo.pop(0), []) if entry.pid not in but]
        found += below
        todo += [entry.pid for entry in below]
    return [entry for entry in found if entry.lives]


def is_skyq(pid: int) -> bool:
    """Whether it is a dispatcher, a node agent, or a shim, which has the agent's command line."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return words[-3:-2] in ([b"_dispatcher"], [b"_node"])


def expects(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, or keeps it back to look for it: it won't die of it.
    (Who sits in sigwait() for it can't be told from who would die.)
    """
    return in_mask(pid, number, b"SigCgt:", b"SigBlk:")


def in_mask(pid: int, number: int, *masks: bytes) -> bool:
    """Whether a signal is in one of these masks of a process, as /proc names them. False if it is gone."""
    try:
        with open("/proc/%d/status" % pid, "rb") as file:
            found = [int(line.split()[1], 16) for line in file if line.startswith(masks)]
    except OSError:
        return False
    return any(mask >> (number - 1) & 1 for mask in found)


def signal_all(targets: Iterable[Stat], number: int) -> None:
    """Signal each of them. A stopped process takes a TERM only once it goes on."""
    them = list(targets)
    if number == signal.SIGKILL:
        # The kernel kills a group at once: who forks faster than /proc can be read doesn't get away, and no
        # script goes on with its next line since what it waited for was killed first. The groups of a step's
        # processes are the step's own, since its script leads a session.
        for group in {entry.group for entry in them} - {0, os.getpgrp()}:
            try:
                os.killpg(group, signal.SIGKILL)
            except OSError:
                pass  # it is gone
    for entry in them:
        send_signal(entry.pid, entry.start, number)
        if number == signal.SIGTERM:
            send_signal(entry.pid, entry.start, signal.SIGCONT)


def strays(step: str, out: str, session: int, since: int) -> Iterator[Stat]:
    """What a step left when its shim was killed: known by its mark, its environment, its log or its session.

    `step` is its value of SKYQ_STEP_ID, `session` the pid of its script, `since` that script's start in clock
    ticks: nothing older can be of the step. Each is told of when it is met, so that it can be killed at once.
    """
    cookie = b"SKYQ_STEP_ID=" + step.encode()
    log = os.path.realpath(out)
    leader = stat(session)
    if leader is not None and leader.start != since:
        session = -1  # its pid was given to another process, which may have made a session of its own
    own = os.getpid()
    for entry in _stats():
        if entry.pid == own or entry.start < since or not entry.lives:
            continue
        if (
            entry.session == session
            or mark.bears(entry.pid, step)
            or cookie in environ(entry.pid)
            or _writes(entry.pid, log)
        ):
            yield entry


def environ(pid: int) -> List[bytes]:
    """NAME=value, each; none of a process that is gone, or another account's."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _writes(pid: int, log: str) -> bool:
    """Whether it has the log open as the script's output; who only reads it is a person's `tail -f`.

    By the names of its files: to ask for one of a file system that hangs would never end.
    """
    try:
        for name in os.listdir("/proc/%d/fd" % pid):
            if os.readlink("/proc/%d/fd/%s" % (pid, name)) == log and _appends(pid, name):
                return True
    except OSError:
        pass
    return False


def _appends(pid: int, fd: str) -> bool:
    with open("/proc/%d/fdinfo/%s" % (pid, fd)) as file:
        flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
    return bool(flags & os.O_APPEND)
