"""Runs a command, and counts or breaks the state-changing system calls of the processes that come of it.

    python tracer.py --log FILE [--role ROLE --at N [--like TEXT] --kind KIND] [--wait] -- COMMAND...
    python tracer.py --log FILE ... --attach PID

Each such call is a line of JSON in FILE: {role, n, call, what}. The N-th of ROLE, or of those of it that are
like TEXT, is not made: KIND kill ends its process there; with enospc or eio it fails, with full all after it
fail, too. FILE then has {"hit": ...}, and nothing is traced any more.

strace can't do that: with -f its `when=N` counts per thread and per call, so that it breaks the N-th fsync of
each process, the job's own included. Here the calls are counted in their order, over all processes of a role.
`--wait`: count from SIGUSR1 on. SIGTERM: let all go, and end. Linux on x86-64, standard library.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import re
import signal
import struct
import sys
from contextlib import suppress
from typing import Any, NamedTuple

CONT, DETACH, SYSCALL, SEIZE, INTERRUPT, LISTEN = 7, 17, 24, 0x4206, 0x4207, 0x4208
GETEVENTMSG, GET_SYSCALL_INFO, POKEUSER = 0x4201, 0x420E, 6
ORIG_RAX, RAX = 15 * 8, 10 * 8
OPTIONS = 1 | 2 | 4 | 8 | 16  # syscall stops are marked; forks, vforks, threads and execs are followed
BIRTHS = (1, 2, 3)
EXEC, STOP = 4, 128
O_CREAT, O_TRUNC, O_TMPFILE = 0o100, 0o1000, 0o20000000
THREAD = 0x10000
FICLONE = 0x40049409


class Call(NamedTuple):
    """How to read a system call: which arguments are paths, which one is a descriptor."""

    name: str
    paths: tuple[int, ...] = ()
    fd: int = -1


CALLS = {
    1: Call("write", fd=0),
    18: Call("pwrite64", fd=0),
    20: Call("writev", fd=0),
    16: Call("ficlone", fd=0),
    40: Call("sendfile", fd=0),
    326: Call("copy_file_range", fd=2),
    44: Call("sendto", fd=0),
    46: Call("sendmsg", fd=0),
    74: Call("fsync", fd=0),
    75: Call("fdatasync", fd=0),
    76: Call("truncate", (0,)),
    77: Call("ftruncate", fd=0),
    285: Call("fallocate", fd=0),
    82: Call("rename", (0, 1)),
    264: Call("renameat", (1, 3)),
    316: Call("renameat2", (1, 3)),
    83: Call("mkdir", (0,)),
    258: Call("mkdirat", (1,)),
    84: Call("rmdir", (0,)),
    87: Call("unlink", (0,)),
    263: Call("unlinkat", (1,)),
    86: Call("link", (0, 1)),
    265: Call("linkat", (1, 3)),
    88: Call("symlink", (0, 1)),
    266: Call("symlinkat", (0, 2)),
    2: Call("open", (0,)),
    257: Call("openat", (1,)),
    280: Call("utimensat", (1,), 0),
    57: Call("fork"),
    58: Call("vfork"),
    56: Call("clone"),
    435: Call("clone3"),
    59: Call("execve", (0,)),
    62: Call("kill"),
    424: Call("pidfd_send_signal"),
}
GROW = ("write", "pwrite64", "writev", "ficlone", "sendfile", "copy_file_range", "ftruncate", "fallocate")
NAME = ("mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat", "open", "openat")
SYNC = ("fsync", "fdatasync")
ROLES = {"_dispatcher": "dispatcher", "_node": "agent", "_courier": "courier", "_agent": "head"}
ROLES.update({"_setup": "setup", "tick": "tick"})
CHILDREN = {"agent": "shim", "shim": "script"}
"""What a child is that its parent forked and that hasn't become another program."""
JOB = "prelude.sh"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(what: int, pid: int, address: int = 0, data: Any = 0) -> int:
    """ptrace(2). OSError: most often ProcessLookupError, for a process that has just been killed."""
    found = int(_libc.ptrace(what, pid, address, data))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, "ptrace %#x: %s" % (what, os.strerror(number)))
    return found


class Tracee:
    """One thread."""

    def __init__(self, role: str, group: int) -> None:
        self.role = role
        self.group = group
        self.within = False
        """Whether it is in a call whose end will stop it too."""
        self.failure = 0
        """The errno that this call will have."""


class Tracer:
    """All that comes of one command, or of one process."""

    def __init__(self, log: int, role: str, at: int, like: str, kind: str) -> None:
        self.log = log
        self.role, self.at, self.like, self.kind = role, at, like, kind
        self.counts = True
        """Whether calls count already."""
        self.left = at
        """How many calls of the kind that is looked for are still to come."""
        self.over = False
        self.full = False
        """Whether all that needs room fails from now on."""
        self.root = 0
        self.code = 0
        self.tracees: dict[int, Tracee] = {}
        self.early: set[int] = set()
        """Children that stopped before their parent told of them."""
        self.made: dict[str, int] = {}
        """Role → calls so far."""

    def command(self, argv: list[str]) -> None:
        """Start it, with the environment and the streams of this process."""
        out, into = os.pipe()
        self.root = os.fork()
        if self.root == 0:
            os.close(into)
            os.read(out, 1)
            os.close(out)
            for number in (signal.SIGUSR1, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(argv[0], argv)
        self.attach(self.root)
        os.close(out)
        os.close(into)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):  # who reads what the command says sees its end
            os.dup2(null, number)

    def attach(self, pid: int) -> None:
        """Trace a process that runs."""
        ptrace(SEIZE, pid, 0, OPTIONS)
        self.tracees[pid] = Tracee("", pid)
        ptrace(INTERRUPT, pid)

    def say(self, **what: Any) -> None:
        """One line to the log."""
        os.write(self.log, (json.dumps(what) + "\n").encode())

    def done(self) -> bool:
        """Whether nothing will come any more that anybody wants to know."""
        return not self.tracees or (self.over and self.root not in self.tracees)

    def serve(self) -> None:
        """Until the tree is gone, or the point was met and the command has ended."""
        while not self.done():
            try:
                pid, status = os.waitpid(-1, 0x40000000)  # __WALL
            except ChildProcessError:
                return
            with suppress(ProcessLookupError):
                self.see(pid, status)

    def see(self, pid: int, status: int) -> None:
        """One report of the kernel's."""
        if not os.WIFSTOPPED(status):
            self.tracees.pop(pid, None)
            if pid == self.root:
                self.code = os.waitstatus_to_exitcode(status)
                self.say(ended=self.code)
            return
        number, event = os.WSTOPSIG(status), status >> 16
        if pid not in self.tracees:
            self.early.add(pid)
            return
        if number == signal.SIGTRAP | 0x80:
            self.call(pid, self.tracees[pid])
            return
        deliver = 0
        if event in BIRTHS:
            self.born(pid)
        elif event == EXEC:
            self.became(pid)
            return
        elif event == STOP and number != signal.SIGTRAP:
            ptrace(LISTEN, pid)
            return
        elif not event:
            deliver = number
        self.go_on(pid, deliver)

    def go_on(self, pid: int, deliver: int = 0) -> None:
        """Up to its next call, or on without stops where its calls are nobody's concern."""
        tracee = self.tracees[pid]
        mine = tracee.role == self.role or (tracee.role and not self.role)
        wanted = tracee.role if self.full else mine and not self.over
        ptrace(SYSCALL if wanted or tracee.within else CONT, pid, 0, deliver)

    def born(self, parent: int) -> None:
        """A fork, or a thread."""
        number = ctypes.c_ulong()
        ptrace(GETEVENTMSG, parent, 0, ctypes.byref(number))
        child, its = number.value, self.tracees[parent]
        group = _group(child)
        role = its.role if group != child else CHILDREN.get(its.role, its.role)
        self.tracees[child] = Tracee(role, group)
        if child in self.early:
            self.early.discard(child)
            with suppress(ProcessLookupError):
                self.go_on(child)

    def became(self, pid: int) -> None:
        """Another program."""
        words = _read("/proc/%d/cmdline" % pid).decode(errors="replace").split("\0")
        # Of several threads the one that called execve goes on under the number of the first.
        former = ctypes.c_ulong()
        ptrace(GETEVENTMSG, pid, 0, ctypes.byref(former))
        if former.value != pid:
            self.tracees.pop(former.value, None)
        its = self.tracees[pid]
        if any(word.endswith(JOB) for word in words):
            del self.tracees[pid]  # the user's own
            ptrace(DETACH, pid)
            return
        its.role, its.within = _role(words), True
        self.go_on(pid)

    def call(self, pid: int, its: Tracee) -> None:
        """It makes a system call, or comes back from one."""
        info = ctypes.create_string_buffer(88)
        ptrace(GET_SYSCALL_INFO, pid, 88, ctypes.addressof(info))
        its.within = info.raw[0] == 1
        if its.within:
            number, *args = struct.unpack_from("<7Q", info.raw, 24)
            self.entered(pid, its, number, args)
        elif its.failure:
            ptrace(POKEUSER, pid, RAX, -its.failure)
            its.failure = 0
        self.go_on(pid)

    def entered(self, pid: int, its: Tracee, number: int, args: list[int]) -> None:
        """Count the call if it changes anything, and break it if it is the one."""
        if (self.over and not self.full) or not self.counts or number not in CALLS:
            return
        call = CALLS[number]
        what = _told(pid, call, args)
        if what is None:
            return
        if self.full:
            self.fail(pid, its, errno.ENOSPC if needs_room(call.name, what) else 0)
            return
        n = self.made[its.role] = self.made.get(its.role, 0) + 1
        here = {"role": its.role, "n": n, "call": call.name, "what": what}
        if not self.role:
            self.say(**here)
        if its.role == self.role and self.like in ("", likeness(call.name, what)):
            self.left -= 1
        if not self.role or self.left:
            return
        self.over = True
        self.say(hit=here)
        if self.kind == "kill":
            os.kill(its.group, signal.SIGKILL)
        else:
            self.full = self.kind == "full"
            self.fail(pid, its, errno.EIO if self.kind == "eio" else errno.ENOSPC)

    def fail(self, pid: int, its: Tracee, number: int) -> None:
        """The call that it makes isn't made, and fails so; 0: it is made."""
        if number:
            its.failure = number
            ptrace(POKEUSER, pid, ORIG_RAX, -1)


def likeness(call: str, what: str) -> str:
    """What a call has in common with the same one of another run: all but numbers and random names."""
    what = re.sub(r"/tmp(/tmp|/)[a-z0-9_]{8}(?=$|[/ ])", r"/tmp/#", what)
    return call + " " + re.sub(r"[0-9a-f]{4,}|\d+", "#", what)


def needs_room(call: str, what: str) -> bool:
    """Whether a full disk refuses it. What a test itself reads is on another disk."""
    own = what.endswith(("/out", "/err", ".log")) or what.startswith(("/memfd:", "/dev/"))
    return call in GROW + NAME and what.startswith("/") and not own


def _role(words: list[str]) -> str:
    """Of a program by its words; "": none of skyq's."""
    for word in words[1:]:
        if word in ROLES:
            return ROLES[word]
    if any(os.path.basename(word) == "skyq" or word.endswith((".pyz", "skyq/__main__.py")) for word in words):
        return "command"
    return "landing" if "-c" in words and "python" in os.path.basename(words[0]) else ""


def _told(pid: int, call: Call, args: list[int]) -> str | None:
    """What a call concerns; None: it changes nothing."""
    unlike = {
        "open": lambda: not args[1] & O_CREAT,
        "openat": lambda: not args[2] & O_CREAT,
        "ficlone": lambda: args[1] != FICLONE,
        "clone": lambda: args[0] & THREAD,
        "clone3": lambda: struct.unpack("<Q", _memory(pid, args[0], 8))[0] & THREAD,
        "kill": lambda: not args[1],
    }
    if call.name in unlike and unlike[call.name]():
        return None
    named = [_path(pid, args[place]) for place in call.paths if args[place]]
    if call.fd >= 0 and not named:
        with suppress(OSError):
            named = [os.readlink("/proc/%d/fd/%d" % (pid, args[call.fd]))]
    if named and _changes_nothing(pid, call, args, named):
        return None
    return " ".join(named)


def _changes_nothing(pid: int, call: Call, args: list[int], named: list[str]) -> bool:
    """Whether it will fail, or is none of this program's matter."""
    path = named[0]
    if path.startswith(("/dev/", "/proc/", "anon_inode:")) or "__pycache__" in path:
        return True
    if not path.startswith("/"):
        return False
    there = os.path.lexists("/proc/%d/root%s" % (pid, path))
    if call.name in ("open", "openat"):
        return there and not args[call.paths[0] + 1] & O_TRUNC
    if call.name in ("mkdir", "mkdirat"):
        return there
    return call.name in ("unlink", "rmdir", "rename", "execve") and not there


def _path(pid: int, address: int) -> str:
    """A string in the memory of a process, up to the end of its page and the next one."""
    text = b""
    while b"\0" not in text and len(text) < 4096:
        part = _memory(pid, address + len(text), 256 - (address + len(text)) % 256)
        if not part:
            break
        text += part
    return text.split(b"\0")[0].decode(errors="replace")


def _memory(pid: int, address: int, size: int) -> bytes:
    try:
        with open("/proc/%d/mem" % pid, "rb", 0) as file:
            file.seek(address)
            return file.read(size)
    except OSError:
        return b""


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _group(pid: int) -> int:
    """The process that a thread is of."""
    found = _read("/proc/%d/status" % pid).partition(b"\nTgid:")[2].split(b"\n")[0]
    return int(found or pid)


def main() -> int:
    """The exit code of the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--role", default="")
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--like", default="")
    parser.add_argument("--kind", default="kill")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--attach", type=int, default=0)
    parser.add_argument("command", nargs="*")
    found = parser.parse_args()
    log = os.open(found.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    tracer = Tracer(log, found.role, found.at, found.like, found.kind)
    tracer.counts = not found.wait

    def count(*_: object) -> None:
        tracer.counts = True

    signal.signal(signal.SIGUSR1, count)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the kernel lets all go on
    if found.attach:
        tracer.attach(found.attach)
    else:
        tracer.command(found.command)
    tracer.say(ready=os.getpid())
    tracer.serve()
    return tracer.code if tracer.code >= 0 else 128 - tracer.code


if __name__ == "__main__":
    sys.exit(main())
