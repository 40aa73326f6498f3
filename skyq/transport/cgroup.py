"""Groups of processes that nothing leaves by forking: cgroup v2, where this account may make some.

A group lies below the one of the process that makes it, and takes no controller: processes and groups may
lie side by side. Nothing is assumed of a machine: each call says by an error, or by "", what can't be had.
Standard library of Python 3.8.
"""

from __future__ import annotations

import ctypes
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List

PREFIX = "skyq."
PROBE = PREFIX + "probe."
_libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock: the child needn't take it again
_CLONE3 = 435  # the same number on every architecture
_CLONE_INTO_CGROUP = 0x200000000


def own() -> str:
    """The folder of this process's own group; "" where no cgroup v2 is in sight."""
    group = next((line[3:-1] for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "")
    for line in _lines("/proc/self/mountinfo"):
        fields = line.split()
        root, mount, kind = fields[3].rstrip("/"), fields[4], fields[fields.index("-") + 1]
        if kind == "cgroup2" and (group + "/").startswith(root + "/") and ".." not in group:
            return (mount + group[len(root) :]).rstrip("/")
    return ""


def base() -> str:
    """Where this process may try to make groups; "": nowhere. Not in a step's own: that is killed with it."""
    found = own()
    return "" if os.path.basename(found).startswith(PREFIX) else found


def why_not(where: str) -> str:
    """Why no group in `where` can be made and killed; "" if one can: a real one was."""
    if not where:
        return "not mounted"
    try:
        group = make(where, PROBE + str(os.getpid()))
    except OSError as error:
        return "not delegated to this account" if error.errno in (1, 13, 30) else str(error.strerror)
    pid = 0
    try:
        pid = fork(group)
        if pid == 0:
            while True:
                signal.pause()
        kill(group)
        _, status = os.waitpid(pid, 0)
        return "" if os.WIFSIGNALED(status) else "a group could not be killed"
    except OSError as error:
        return "nothing can be started in a group: %s" % error.strerror
    finally:
        remove(group)


def make(where: str, name: str) -> str:
    """A new group, or the one of that name. OSError if that can't be."""
    group = os.path.join(where, name)
    try:
        os.mkdir(group)
    except FileExistsError:
        pass
    return group


def fork(group: str) -> int:
    """As os.fork(), for a process of one thread, with the child in the group from its first instruction on.

    To move a process there later takes as long as all processors need to notice: 15 ms and more.
    """
    folder = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        words = (ctypes.c_uint64 * 11)(_CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, folder)
        pid = int(_libc.syscall(_CLONE3, ctypes.byref(words), ctypes.sizeof(words)))
        if pid < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return pid
    finally:
        os.close(folder)


def lives(group: str) -> bool:
    """Whether a process of the group lives, in groups below it too; False for "" and for one that is gone."""
    try:
        with open(group + "/cgroup.events", "rb", buffering=0) as file:
            return b"populated 1\n" in file.read(4096)
    except OSError:
        return False


def kill(group: str) -> bool:
    """SIGKILL to all of it at once; whether any lives, or lived a moment ago."""
    if not lives(group):
        return False
    if _write(group, "cgroup.kill", "1"):
        # The kernel (6.18) passes over a process whose first thread has ended while others go on.
        _kill_each(pid for pid in pids(group) if _is_zombie(pid))
    else:
        _kill_frozen(group)
    return True


def _kill_frozen(group: str) -> None:
    """Before Linux 5.14. Who is frozen forks no more, but takes a KILL."""
    _write(group, "cgroup.freeze", "1")
    _kill_each(pids(group))
    _write(group, "cgroup.freeze", "0")


def _kill_each(them: Iterable[int]) -> None:
    for pid in them:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # it is gone


def _is_zombie(pid: int) -> bool:
    return any(line.startswith("State:\tZ") for line in _lines("/proc/%d/status" % pid))


def pids(group: str) -> List[int]:
    """Of those that live in it or below; [] for "" and for one that is gone."""
    found: List[int] = []
    for folder, _, _ in os.walk(group) if group else ():
        found += [int(line) for line in _lines(os.path.join(folder, "cgroup.procs"))]
    return [pid for pid in found if pid]  # 0: of a pid namespace that this process doesn't see


def remove(group: str) -> None:
    """And those below it; what still has processes stays."""
    try:
        os.rmdir(group)  # mostly there are none below
        return
    except OSError:
        pass
    for folder, _, _ in os.walk(group, topdown=False) if group else ():
        try:
            os.rmdir(folder)
        except OSError:
            pass  # somebody lives in it


def sweep(where: str) -> None:
    """Remove the groups in which nobody lives: their shims were killed."""
    try:
        names = os.listdir(where) if where else []
    except OSError:
        return
    for name in names:
        if name.startswith(PREFIX):
            remove(os.path.join(where, name))


def is_of_a_step(pid: int) -> bool:
    """Whether a process is in the group of some step, or below one."""
    return any("/" + PREFIX in line for line in _lines("/proc/%d/cgroup" % pid) if line.startswith("0::"))


def leave() -> None:
    """Out of a step's group, for who serves others too: it is killed as a whole when the step ends."""
    found = own()
    if os.path.basename(found).startswith(PREFIX):
        _write(os.path.dirname(found), "cgroup.procs", "0")


def _write(group: str, name: str, text: str) -> bool:
    try:
        with open(os.path.join(group, name), "w") as file:
            file.write(text)
    except OSError:
        return False
    return True


def _lines(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []
