"""The parent of one step's processes: one forked child of the node agent, alone after that.

Order: take `alive` → record who started, durably → let the script run → record how it ended,
durably → see every descendant off → exit, which frees `alive`. Everything the step ever started is
below this process, because it is a subreaper. It knows three words, all signals:

SIGUSR2  go: where the spec says `hold`, everything is ready and waits for it before the start goes on record.
SIGTERM  stop: TERM to every process, `grace` seconds, KILL.
SIGUSR1  over: the job has ended, so the leftovers of the script may go too.

Where the spec has a `limit`, the script is stopped after so many seconds without a word: this process counts
them, whoever else is killed or cut off. Its clock can't be set, and rests while the machine sleeps.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import signal
import time

from skyq.core.paths import RunDir
from skyq.node import containers, proc
from skyq.transport import cgroup, mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, NoReturn, Optional, Tuple, TypeAlias

LEFTOVER_GRACE = 2.0  # seconds between TERM and KILL for what the script left behind
RECORD_SIZE = 512  # bytes: one disk sector, more than any record has
CLEANUP = 2.0  # seconds that an engine's processes get between the KILL of their containers and their own
KILL_AGAIN = 0.05  # seconds between two rounds of KILL: a fork may win one round
STUCK = 30.0  # seconds of that after which who still lives can't be killed: it waits in the kernel
STUCK_AGAIN = 1.0  # seconds between two rounds from then on
FULL = 1024 * 1024  # bytes free, below which a disk is full for most purposes
FULL_DISK = 1.0  # seconds between two tries to write the exit record
READY = b"!"
NAMED = 10  # processes
NOTE_SIZE = 500  # bytes

REFUSED = 75  # exit status: nothing was started (sysexits' EX_TEMPFAIL); `refusal` tells why
ALREADY = 76  # exit status: someone else has started this step, or fenced it

WORDS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}

Spec: TypeAlias = "Dict[str, Any]"


def reserve(path: str) -> None:
    """Take the space that `write_durably` will need, so that a full disk later can't lose the record."""
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b" " * RECORD_SIZE)
    finally:
        os.close(fd)


def write_durably(path: str, record: Dict[str, Any]) -> None:
    """A small file that is there whole or not at all, and still there after a power cut."""
    aside = path + ".new"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, json.dumps(record).encode().ljust(RECORD_SIZE))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(aside, path)
    fsync_dir(os.path.dirname(path))


def fsync_dir(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def try_lock(path: str) -> Optional[int]:
    """The descriptor that holds the lock on `path`, or None when another process does."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def fence(run: RunDir) -> None:
    """Forbid the start for ever; for who holds `alive`. An exit record without a start is a fence.

    It is made by a rename, which a full disk allows too.
    """
    os.rename(run.alive, run.exit)
    try:
        os.unlink(run.script)
    except FileNotFoundError:
        pass


def _insist_on_lock(path: str) -> Optional[int]:
    """Who only looks holds the lock for microseconds, who fences for a few fsyncs; a shim for its life."""
    for _ in range(40):
        lock = try_lock(path)
        if lock is not None:
            return lock
        time.sleep(0.005)
    return None


def main(run: RunDir, spec: Spec, boot: str, shims: int, agent: int = -1) -> NoReturn:
    """The whole life of a shim, right after the fork; `shims` is held, shared, while it lives.

    `agent`: a pipe on which the node agent waits to hear READY, or why nothing starts; -1: it doesn't.
    All signals are blocked here, and were in the parent before the fork: none gets lost.
    """
    status = REFUSED
    try:
        status = _Shim(run, spec, boot).live(shims, agent)
    except OSError as error:
        _note(run, agent, "%s: %s" % (error.strerror, error.filename or run.root))
    except BaseException as error:
        _note(run, agent, "%s: %s" % (type(error).__name__, error))
    finally:
        os._exit(status)


def _note(run: RunDir, agent: int, why: str) -> None:
    """Why nothing was started, for the node agent, or the next one; a full disk takes no note."""
    try:
        if agent >= 0:
            os.write(agent, why.encode()[:NOTE_SIZE])
    except OSError:
        pass  # it is gone
    try:
        with open(run.refusal, "w") as file:
            file.write(why)
    except OSError:
        pass


class _Shim:
    def __init__(self, run: RunDir, spec: Spec, boot: str) -> None:
        self.run = run
        self.spec = spec
        self.boot = boot
        self.main_pid = 0
        self.group = ""
        """The cgroup of all that the script starts, itself included; "": it has none."""
        self.code: Optional[int] = None
        self.stopped = False
        self.expired = False
        """Whether the time limit ended the script."""
        self.ends: Optional[float] = None
        """When the time limit is reached; monotonic. None: there is none."""
        self.warn_at: Optional[float] = None
        """When the script gets its signal; None: it gets none, or has it."""
        self.over = not spec["linger"]
        self.oom_kills = 0
        """Of this machine, before the script's end."""
        self.deadline: Optional[float] = None
        self.killing_since: Optional[float] = None
        self.stuck = False
        self.containers = containers.Containers(run, spec["log"] or run.out)

    def live(self, shims: int, agent: int) -> int:
        """Returns the exit status of the shim."""
        os.setsid()
        proc.become_subreaper()
        close_all_but(shims, agent)
        lock = _insist_on_lock(self.run.alive)
        if lock is None or os.path.exists(self.run.started) or os.path.exists(self.run.exit):
            return ALREADY
        if not self._start(agent):
            return REFUSED
        while True:
            self._reap()
            if self.code is not None and self._alone() and self._contained():
                cgroup.remove(self.group)
                os.unlink(self.run.script)  # tells that nothing of the step lives
                return 0
            self._keep_time()
            self._pursue()
            self._listen()

    def _start(self, agent: int) -> bool:
        """Fork the script's process, record it durably, and only then let it go. Whether it went."""
        with open(self.run.script, "w", encoding="utf-8", newline="") as file:
            file.write(self.spec["script"])
        gate_out, gate_in = os.pipe()
        log = os.open(
            self.spec["log"] or self.run.out,
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY,
            0o600,
        )
        self.main_pid = self._fork()
        if self.main_pid == 0:
            os.close(gate_in)
            _become_script(self.run, self.spec, gate_out, log)
        os.close(gate_out)
        os.close(log)
        me, script = proc.stat(os.getpid()), proc.stat(self.main_pid)
        record = {
            "boot": self.boot,
            "shim": [os.getpid(), me.start if me else 0],
            "main": [self.main_pid, script.start if script else 0],
            "log": self.spec["log"] or self.run.out,
            "linger": self.spec["linger"],
            "group": self.group,
        }
        reserve(self.run.exit)
        if self.spec.get("hold") and not self._may_go(record, agent):
            os.close(gate_in)  # its reader leaves
            os.waitpid(self.main_pid, 0)
            cgroup.remove(self.group)
            fence(self.run)
            return False
        if self.spec.get("limit"):
            self.ends = record["ends"] = time.monotonic() + self.spec["limit"]
            self.warn_at = self.ends - self.spec["before"] if self.spec["signal"] else None
        write_durably(self.run.started, record)
        fsync_dir(os.path.dirname(self.run.root))
        os.write(gate_in, b"!")
        os.close(gate_in)
        self.oom_kills = _oom_kills()  # only now: every millisecond before the gate is one of an idle device
        return True

    def _fork(self) -> int:
        """The script's process: in a group of its own, where this machine lets us make one."""
        if self.spec.get("groups"):
            try:
                self.group = cgroup.make(self.spec["groups"], group_name(self.run))
                return cgroup.fork(self.group)
            except OSError:
                cgroup.remove(self.group)
                self.group = ""
        return os.fork()

    def _may_go(self, record: Dict[str, Any], agent: int) -> bool:
        """Say that all is ready, and wait for the word. Nothing of this must outlive a reboot."""
        with open(self.run.prepared + ".new", "w") as file:
            json.dump(record, file)
        os.rename(self.run.prepared + ".new", self.run.prepared)
        if agent >= 0:
            os.write(agent, READY)
        deadline = time.monotonic() + self.spec["hold"]
        while True:
            found = signal.sigtimedwait(WORDS, max(0.0, deadline - time.monotonic()))
            if found is None:
                _note(self.run, agent, "the word to go did not come within %d s" % self.spec["hold"])
                return False
            if found.si_signo == signal.SIGTERM:
                return False
            if found.si_signo == signal.SIGUSR2:
                return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.main_pid:
                self._record(status)

    def _record(self, status: int) -> None:
        """The script is over: say so on disk before anyone is told, whatever the disk is like."""
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        self.code = 128 + ended_by if ended_by else os.WEXITSTATUS(status)
        record = {
            "code": self.code,
            "stopped": self.stopped,
            "why": self._why() if self.code else "",
            "expired": self.expired,
        }
        while True:
            try:
                write_durably(self.run.exit, record)
                break
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                time.sleep(FULL_DISK)  # some file systems need room even to write over a reserved record
        if self.over and self.deadline is None and (containers.used(self.run) or not self._alone()):
            self._end(LEFTOVER_GRACE)

    def _why(self) -> str:
        """What a bare exit code doesn't tell, if anything is known."""
        if self.spec.get("terminal"):
            try:
                with open(self.run.parting) as file:
                    return file.read(200)
            except OSError:
                pass  # it ended by itself
        return self._suspicion()

    def _suspicion(self) -> str:
        """What the machine knows about a failure: the cause that the exit code doesn't tell; or nothing."""
        if not (self.stopped or self.expired) and _oom_kills() > self.oom_kills:
            if self.code == 128 + signal.SIGKILL:
                return "out of memory: the kernel killed a process to get some"
            return "meanwhile the kernel killed a process of this machine to get memory"
        for path in (
            self.spec["log"] or self.run.out,
            os.path.join(self.spec["cwd"] or self.spec["base"]["HOME"], ""),
        ):
            if _free(os.path.dirname(path)) < FULL:
                return "the disk of %s is full" % path[:200]
        return ""

    def _alone(self) -> bool:
        """Whether nothing of the step lives: orphans below a subreaper become its children."""
        alone = _no_children() or all(map(self._lodges, _children()))
        return alone and not cgroup.lives(self.group)

    def _contained(self) -> bool:
        """Whether no container of the step lives either; what is left of them ends here, after all else."""
        if not containers.used(self.run):
            return True
        if self.deadline is None:
            return False  # a rank's container may serve the others
        late = time.monotonic() >= self.deadline
        if self.containers.tell(signal.SIGKILL if late else signal.SIGTERM):
            self.containers.close()
            return True
        return False

    def _lodges(self, child: int) -> bool:
        """Whether a child isn't the step's: where there was no dispatcher, a skyq command in the script has
        started one, which serves other jobs and outlives this one; with it come node agents and shims.
        """
        return child != self.main_pid and proc.is_skyq(child)

    def _tell_all(self, number: int) -> None:
        lodgers = set(filter(self._lodges, _children()))
        proc.signal_all(proc.descendants([os.getpid()], but=lodgers), number)

    def _keep_time(self) -> None:
        """At the time limit the script ends as at a stop; some time before it gets the signal."""
        if self.ends is None or self.code is not None or self.deadline is not None:
            return
        if self.warn_at is not None and time.monotonic() >= self.warn_at:
            self.warn_at = None
            self._warn(getattr(signal, "SIG" + self.spec["signal"]))
        if time.monotonic() >= self.ends:
            self.expired = True
            self._end(float(self.spec["grace"]))

    def _warn(self, number: int) -> None:
        """Signal those that expect it: it ends nobody who doesn't."""
        lodgers = set(filter(self._lodges, _children()))
        everybody = proc.descendants([os.getpid()], but=lodgers)
        proc.signal_all([entry for entry in everybody if proc.expects(entry.pid, number)], number)

    def _time_left(self) -> Optional[float]:
        """Seconds until the next thing to do that nobody tells of; None: there is none."""
        if self.deadline is not None:
            left = max(STUCK_AGAIN if self.stuck else KILL_AGAIN, self.deadline - time.monotonic())
            # No signal tells of the end of a container.
            return min(left, containers.AGAIN) if containers.used(self.run) else left
        if self.ends is None or self.code is not None:
            return None
        next_at = self.ends if self.warn_at is None else self.warn_at
        return max(0.0, next_at - time.monotonic())

    def _pursue(self) -> None:
        """Past the grace time everything is killed, round by round until nothing is left."""
        if self.deadline is None or time.monotonic() < self.deadline:
            return
        if containers.used(self.run) and self.containers.killing_since is None:
            self.containers.tell(signal.SIGKILL)
            self.deadline = time.monotonic() + CLEANUP
        else:
            self.killing_since = self.killing_since or time.monotonic()
            cgroup.kill(self.group)
            self._tell_all(signal.SIGKILL)
            if not self.stuck and time.monotonic() > self.killing_since + self.spec.get("stuck", STUCK):
                self._give_up()

    def _give_up(self) -> None:
        """Some don't die: say which, and go on trying."""
        lodgers = set(filter(self._lodges, _children()))
        found = proc.descendants([os.getpid()], but=lodgers)
        known = {entry.pid for entry in found}
        others = [proc.stat(pid) for pid in cgroup.pids(self.group) if pid not in known]
        self.stuck = note_stuck(self.run, [*found, *(s for s in others if s is not None and s.lives)])

    def _listen(self) -> None:
        """Wait for a child's end, a word from the node agent, or the time to do something."""
        left = self._time_left()
        found = signal.sigwaitinfo(WORDS) if left is None else signal.sigtimedwait(WORDS, left)
        word = found.si_signo if found else 0
        if word == signal.SIGTERM and not (self.stopped or self.expired):
            self.stopped = self.code is None
            self._end(float(self.spec["grace"]))
        elif word == signal.SIGUSR1 and not self.over:
            self.over = True
            if self.code is not None:
                self._end(LEFTOVER_GRACE)

    def _end(self, grace: float) -> None:
        self.over = True
        if self.deadline is None:
            self.deadline = time.monotonic() + grace
        self._tell_all(signal.SIGTERM)


def note_stuck(run: RunDir, them: List[proc.Stat]) -> bool:
    """Name the processes that can't be killed, for every node agent; whether there are any."""
    if them:
        with open(run.stuck + ".new", "w", encoding="utf-8") as file:
            json.dump([[entry.pid, entry.start, proc.name(entry.pid)] for entry in them[:NAMED]], file)
        os.rename(run.stuck + ".new", run.stuck)
    return bool(them)


def group_name(run: RunDir) -> str:
    """Of the cgroup of a step."""
    return cgroup.PREFIX + os.path.basename(run.root)


def _no_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _free(folder: str) -> int:
    """Bytes; plenty where it can't be told."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return FULL
    return disk.f_bavail * disk.f_frsize


def _oom_kills() -> int:
    """How often this machine's kernel has killed a process for memory since its boot."""
    try:
        with open("/proc/vmstat", "rb") as file:
            return int(file.read().partition(b"\noom_kill ")[2].split(b"\n", 1)[0])
    except (OSError, ValueError):
        return 0


def _children() -> List[int]:
    """Zombies count: what one of them forked a moment ago may not be in this list yet."""
    return [s.pid for s in proc.all_stats() if s.parent == os.getpid()]


@functools.lru_cache(maxsize=None)
def changed_signals() -> Tuple[int, ...]:
    """Those that this process, Python or who started it doesn't leave at their default. Asked once, by the
    node agent before it forks: to set all 60 of them costs each start half a millisecond."""
    numbers = [n for n in signal.valid_signals() if n not in (signal.SIGKILL, signal.SIGSTOP)]
    return tuple(n for n in numbers if signal.getsignal(n) is not signal.SIG_DFL)


def close_all_but(*keep: int) -> None:
    """Only what is needed stays open: a channel or lock inherited here would outlive its owner's kill -9."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the descriptor of the listing itself


def _become_script(run: RunDir, spec: Spec, gate: int, log: int) -> NoReturn:
    """In the script's own process: the fixed environment, then bash, once the gate opens."""
    try:
        os.setsid()  # its own session and group: `kill 0` in a script must not reach the shim
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.umask(0o022)
        mark.bear(os.path.basename(run.root))
        for number in changed_signals():
            signal.signal(number, signal.SIG_DFL)
        if os.read(gate, 1) != b"!":
            os._exit(REFUSED)  # the shim died before the start was on record
        os.chdir(_directory(spec))
        _environment_as_fd_9(spec["env"])
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        prelude = os.path.join(os.path.dirname(os.path.abspath(__file__)), "prelude.sh")
        env = {**spec["base"], **spec["env"]}
        words = ["bash", "--noprofile", "--norc", prelude, run.script, spec["wrappers"]]
        if spec.get("terminal"):
            from skyq.node import terminal

            os._exit(
                terminal.hold(
                    run, spec["terminal"], lambda more: os.execve(spec["shell"], words, {**env, **more})
                )
            )
        os.execve(spec["shell"], words, env)
    except BaseException as error:
        os.write(2, ("skyq: this step could not start: %s\n" % error).encode())
    os._exit(126)


def _directory(spec: Spec) -> str:
    if spec["cwd"]:
        return str(spec["cwd"])
    default = os.path.join(spec["base"]["HOME"], "sky_workdir")
    if os.path.islink(default) and not os.path.exists(default) and "skyq" in os.readlink(default):
        os.unlink(default)  # the copy of a former cluster was removed
    os.makedirs(default, exist_ok=True)
    return default


def _environment_as_fd_9(env: Dict[str, str]) -> None:
    """The environment as a nameless file that bash reads: values meet neither a shell line nor a disk."""
    text = b"".join(os.fsencode("%s=%s" % pair) + b"\0" for pair in env.items())
    fd = _nameless_file()
    with open(fd, "wb", closefd=False) as file:
        file.write(text)
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 9)


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("skyq-env")
    # conda's Python is built against a C library without memfd_create: a file on a tmpfs instead.
    return os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
