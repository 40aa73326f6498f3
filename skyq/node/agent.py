"""The node agent: skyq on a node, at the other end of the dispatcher's connection.

Single-threaded, because shims are forked from it. It may be killed at any moment: what runs is held
by the shims, and what is true stands in their run directories; the next one adopts them from there.
It ends when the connection does.
"""

from __future__ import annotations

import gc
import math
import os
import select
import signal
import time

from skyq.core import protocol
from skyq.core.errors import HostClaimed
from skyq.core.paths import ClaimDir, RunDir, Wrappers
from skyq.core.protocol import Message
from skyq.node import claim, containers, proc, shim
from skyq.node.baseenv import base_env, bash
from skyq.node.copies import Copies
from skyq.node.records import End, Key, Record, Started, fence, left_over, look, refusal, stuck
from skyq.node.tails import LOOK, Tail, Tails
from skyq.transport import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional, Set, Tuple

    from skyq.node.strangers import Lookout

LATE = 15.0  # seconds without a word from the head, after which a start request is too old to obey
POLL = 0.05  # seconds between looks at what can't be waited for
LOOKS = 10  # times that nothing of a step is found before nothing is left: who forks on may slip through one
BURIALS = 3  # times that the containers of a step are looked for whose shim was killed
ABANDONED = 60.0  # seconds without a word from the head, after which its connection is dead: it has another


class _Step:
    """One step that this agent watches."""

    def __init__(self, key: Key, run: RunDir) -> None:
        self.key = key
        self.run = run
        self.ready: Optional[Started] = None
        """Who waits for the word to go, if somebody does or did."""
        self.started: Optional[Started] = None
        self.child = 0
        """Pid of the shim if this agent forked it and it lives."""
        self.undertaker = 0
        """Pid of the process that ends its containers after its shim was killed."""
        self.why = ""
        """Why its shim started nothing, if it said so."""
        self.burials = 0
        self.looks = 0
        """How often in a row nothing of it was found after its shim was killed."""
        self.word = -1
        """A pipe on which its shim says that it is ready, or why nothing starts."""
        self.fds: List[int] = []
        self.killing_since: Optional[float] = None
        """When this agent began to kill what a killed shim left; boot time."""
        self.told_running = False
        self.told_stuck = False
        """Whether the head knows that some of it can't be killed; nothing else is awaited of the step."""
        self.exited = False
        self.going = False
        self.stop_asked = False
        self.tail: Optional[Message] = None
        """What the head wants of its log: {from, sizes}; None: nothing (more)."""


class Agent:
    """What a node does for the dispatcher. `runs`: where run directories are; `shared`: the claim's place."""

    def __init__(self, runs: str, shared: ClaimDir) -> None:
        self.runs = runs
        self.shared = shared
        self.boot = proc.boot()
        self.groups = cgroup.base()
        """Where each step gets a cgroup; "": nowhere."""
        self.no_groups = cgroup.why_not(self.groups)
        """Why not, if so."""
        self.base = base_env()
        self.bash = bash() or "/bin/bash"
        self.steps: Dict[Key, _Step] = {}
        self.waiting: Dict[Key, _Step] = {}
        """Steps that must be looked at again soon: no descriptor tells when."""
        self.watched: Dict[int, Callable[[], None]] = {}
        self.poll = select.poll()
        self.heard = _now()
        self.shims = -1
        self.outbox = bytearray()
        """What the connection didn't take yet."""
        self.tails = Tails()
        self.copies = Copies(runs, self.say)
        self.lookout: Optional[Lookout] = None
        """Who sees to strangers on devices, once somebody wants to know."""
        self.do: Dict[str, Callable[[Message], None]] = {
            **{what: self.copies.hear for what in self.copies.do},
            "start": self.start,
            "go": self.go,
            "tail": self.tail,
            "enter": self.enter,
            "look": self.look,
            "list": self.list_remains,
            "remove": self.remove_remains,
            "stop": self.stop,
            "over": self.over,
            "claim": self.claim,
            "release": self.release,
            "ping": self.ping,
        }

    def serve(self) -> None:
        """Obey until the connection ends."""
        os.umask(0o077)
        os.makedirs(self.runs, mode=0o700, exist_ok=True)
        try:
            containers.install(self.runs)
        except OSError:
            pass  # a full disk, most likely: jobs then find docker itself
        proc.become_subreaper()
        cgroup.sweep(self.groups)
        children = _child_ends()
        os.set_blocking(1, False)
        self.outbox += protocol.greeting()
        self.say(
            {
                "is": "hello",
                "boot": self.boot,
                "alive": [list(key) for key in left_over(self.runs)],
                "ungrouped": self.no_groups,
                "ssh": os.environ.get("SSH_CONNECTION", ""),
                "lists": True,
            }
        )
        decoder = protocol.Decoder()
        self.watch(children, lambda: self.reap(children))
        if self.tails.fd >= 0:
            self.watch(self.tails.fd, self.tails.grown)
        self.poll.register(0, select.POLLIN)
        shim.changed_signals()
        gc.freeze()  # shims share these pages for as long as nobody touches them
        while self.turn(decoder):
            pass
        if self.lookout is not None:
            self.lookout.close()

    def turn(self, decoder: protocol.Decoder) -> bool:
        """Wait for something, and see to it; whether the connection lives."""
        crowded = self.outbox or self.tails.fresh
        self.poll.register(1, select.POLLOUT if crowded else 0)
        for fd, event in self.poll.poll(self.patience() * 1000):
            if fd == 0:
                before = _now()  # the process may stand still at any line
                data = _read(0)
                if data == b"":
                    return False
                self.hear(list(decoder.feed(data or b"")))
                if data is None or len(data) < protocol.FRAME_LIMIT:
                    self.heard = before  # nothing older lies in the pipe
            elif fd == 1:
                self.send(event)
            elif fd in self.watched:
                self.watched[fd]()
        for step in list(self.waiting.values()):
            self.look_at(step)
        if self.lookout is not None:
            self.lookout.turn()
        return _now() - self.heard < ABANDONED

    def patience(self) -> float:
        """Seconds until something must be looked at that no descriptor tells of."""
        if self.waiting:
            return POLL
        left = self.lookout.patience() if self.lookout is not None else None
        return min(LOOK if self.tails.look_at_unwatched() else LATE, LATE if left is None else left)

    def say(self, message: Message) -> None:
        """One message to the head, ahead of all logs."""
        self.outbox += protocol.encode(message)
        self.send()

    def send(self, event: int = select.POLLOUT) -> None:
        """Write what the connection takes: messages first; when there are none, a piece of a log."""
        if not event & select.POLLOUT:
            raise BrokenPipeError  # nobody will read it
        if not self.outbox:
            self.outbox += self.tails.frame()
        try:
            while self.outbox:
                del self.outbox[: os.write(1, self.outbox)]
        except BlockingIOError:
            pass

    def hear(self, messages: List[Message]) -> None:
        """Obey, but never a start that lay about while the head may have given this node up."""
        late = _now() - self.heard > LATE
        for message in messages:
            what = str(message.get("do"))
            if what in ("start", "go") and late:
                self.say({**_name(_key(message)), "is": "late"})
            elif what in self.do:
                self.do[what](message)

    # What the head can ask for.

    def start(self, message: Message) -> None:
        """Start the step, or attach to it, or say how it ended."""
        key = _key(message)
        run = RunDir.of(self.runs, *key)
        step = self.steps.setdefault(key, _Step(key, run))
        step.told_running = step.told_stuck = False
        step.tail = message["spec"].get("tail")
        try:
            try:
                os.mkdir(run.root, 0o700)
                fresh = True
            except FileExistsError:
                fresh = not step.child and look(run) is Record.FRESH
            why = self.why_never(message["spec"]) if fresh else ""
            if why:
                self.refuse(step, why)
            elif fresh:
                self.fork(step, message["spec"])
            else:
                self.look_at(step)
        except OSError as error:
            self.refuse(step, "%s: %s" % (error.strerror, run.root))

    def why_never(self, spec: Message) -> str:
        """Why a step can't be started that isn't here; "" where it can."""
        lacks = spec.get("copy") and not os.path.isdir(self.copies.path(spec["copy"]))
        return str(spec.get("never", "")) or ("its folder is no longer on this node" if lacks else "")

    def go(self, message: Message) -> None:
        """Let a prepared step run."""
        step = self.steps.get(_key(message))
        if step is not None and step.ready is not None:
            step.going = True
            proc.send_signal(*step.ready.shim, signal.SIGUSR2)
            self.waiting[step.key] = step

    def tail(self, message: Message) -> None:
        """Send the log of a step that is gone, from an offset on."""
        key = _key(message)
        self.send_log(_Step(key, RunDir.of(self.runs, *key)), message)
        self.tails.over(key)

    def enter(self, message: Message) -> None:
        """Be the line to the terminal of a step, and nothing else any more."""
        from skyq.node import terminal

        try:
            line = terminal.connect(RunDir.of(self.runs, *_key(message)))
        except OSError as error:
            self.say({"is": "not-entered", "why": error.strerror or str(error)})
            return
        self.say({"is": "entered"})
        os.set_blocking(1, True)
        self.send()
        terminal.lend(line)
        os._exit(0)

    def look(self, message: Message) -> None:
        """Tell, some time, who uses devices without being of a job."""
        if self.lookout is None:
            from skyq.node.strangers import Lookout

            self.lookout = Lookout(self.watch, self.unwatch, self.say, self.living_shims)
        self.lookout.look(message)

    def list_remains(self, _: Message) -> None:
        """Tell what jobs left here."""
        from skyq.node import remains

        for name, size in remains.found(self.runs):
            self.say({"is": "left", "name": name, "size": size})
        self.say({"is": "left", "last": True})

    def remove_remains(self, message: Message) -> None:
        """Remove some of that."""
        from skyq.node import remains

        for name in remains.remove(self.runs, map(str, message["names"])):
            self.say({"is": "removed", "name": name})
        self.say({"is": "removed", "last": True})

    def living_shims(self) -> Set[int]:
        """Their pids."""
        found = {step.child for step in self.steps.values() if step.child}
        return found | {step.started.shim[0] for step in self.steps.values() if step.started}

    def send_log(self, step: _Step, wish: Message) -> None:
        """Send the step's log, for as long as it grows."""
        started = step.started or Started.read(step.run)
        path = started.log if started else step.run.out
        self.tails.add(step.key, Tail(_name(step.key), path, int(wish["from"]), bool(wish.get("sizes"))))

    def stop(self, message: Message) -> None:
        """End the step; if it never started, see to it that it never will."""
        key = _key(message)
        step = self.steps.setdefault(key, _Step(key, RunDir.of(self.runs, *key)))
        step.stop_asked, step.told_stuck = True, False
        try:
            os.makedirs(step.run.root, 0o700, exist_ok=True)
        except OSError:
            pass  # then nothing can start either
        self.look_at(step)

    def over(self, message: Message) -> None:
        """The job has ended: what its steps left may go."""
        for step in self.steps.values():
            if step.key[:2] == (message["job"], message["attempt"]):
                self.tell(step, signal.SIGUSR1)

    def claim(self, message: Message) -> None:
        """Claim this machine for the cluster, before its first job here."""
        try:
            claim.take(self.shared, {name: message[name] for name in ("cluster", "id", "head", "state_dir")})
            if self.shims < 0:
                self.shims = claim.hold_shims_lock(self.shared)
        except (HostClaimed, OSError) as error:
            self.say({"is": "refused", "why": str(error)})
        else:
            self.say({"is": "claimed"})

    def release(self, message: Message) -> None:
        """Give this machine back. Not while some job's processes can't be killed: it isn't free for others,
        but for this queue.
        """
        if not any(step.told_stuck for step in self.steps.values()):
            claim.release(self.shared, message["id"])

    def ping(self, message: Message) -> None:
        """Tell that this end lives; and see to what nobody tells of."""
        for step in list(self.steps.values()):
            if step.told_stuck and not step.fds and not step.child:
                self.look_at(step)
            else:
                self.tell_stuck(step)
        if self.shims >= 0:
            claim.keep(self.shared)
        self.say({"is": "pong"})

    # What becomes of a step.

    def fork(self, step: _Step, spec: Message) -> None:
        """Start a shim. Its signals are blocked from birth, so that no word is lost."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, shim.WORDS)
        step.word, word = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if spec.get("hold") else (-1, -1)
        pid = os.fork()
        if pid == 0:
            shim.main(step.run, self.complete(step, spec), self.boot, self.shims, word)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        step.child = pid
        self.waiting[step.key] = step
        if word >= 0:
            os.close(word)
            self.watch(step.word, lambda: self.prepared(step))

    def prepared(self, step: _Step) -> None:
        """A new shim says that all is ready, or why nothing starts, or is dead."""
        why = self.hear_shim(step)
        if self.steps.get(step.key) is step:
            step.why = why
            self.look_at(step)

    def hear_shim(self, step: _Step) -> str:
        """Why it starts nothing, if it has said so and nobody heard it yet."""
        said = (step.word >= 0 and _read(step.word)) or b""
        self.unwatch(step.word)
        step.word = -1
        return "" if said == shim.READY else said.decode(errors="replace")

    def complete(self, step: _Step, spec: Message) -> Message:
        """The spec with what only the node knows."""
        env = {**spec["env"], "SKYQ_STEP_ID": os.path.basename(step.run.root)}
        wrappers = Wrappers.beside(self.runs).root
        if spec.get("copy"):
            spec = {**spec, "cwd": os.path.realpath(self.copies.path(spec["copy"]))}
        groups = "" if self.no_groups else self.groups
        own = {"env": env, "base": self.base, "shell": self.bash, "wrappers": wrappers, "groups": groups}
        return {**spec, **own}

    def look_at(self, step: _Step) -> None:
        """Report what the run directory says now; wait for what it doesn't say yet."""
        try:
            record = look(step.run)
        except OSError:
            self.waiting[step.key] = step  # no room on the disk, too many open files: that may pass
            return
        if record is Record.ALIVE:
            self.attach(step)
        elif record is Record.ENDED:
            self.gone(step, End.read(step.run))
        elif record is Record.LEFT:
            self.bury(step, End.read(step.run))
        elif record is Record.LOST:
            self.bury(step, End(protocol.UNKNOWN, False, "exit status unknown: its shim was killed"))
        elif step.child and not step.stop_asked:
            self.waiting[step.key] = step  # its shim is between fork and lock, or not reaped yet
        else:
            self.refuse(step, step.why or self.hear_shim(step) or refusal(step.run))

    def refuse(self, step: _Step, why: str) -> None:
        """Nothing of the step was started: see to it that nothing will be, then say so."""
        try:
            fenced = fence(step.run)
        except OSError:
            fenced = True  # there is no directory, or no room for a lock: nobody has it
        if fenced:
            self.gone(step, End(protocol.UNKNOWN, step.stop_asked, why), unstarted=not step.stop_asked)
        else:
            self.waiting[step.key] = step

    def attach(self, step: _Step) -> None:
        """Its shim lives: learn who it is, then wait for it to end, and for the script to."""
        self.waiting[step.key] = step
        if step.started is None:
            step.started = Started.read(step.run)
            if step.started is None:
                self.hold(step)
                return
            if not step.child and step.ready is None:
                self.watch_process(step, step.started.shim)
            if step.started.linger:
                self.watch_process(step, step.started.main)
        if not step.told_running:
            step.told_running = True
            self.say({**_name(step.key), "is": "running", "pid": step.started.main[0], **_left(step.started)})
        if step.tail:
            self.send_log(step, step.tail)
            step.tail = None
        if step.stop_asked:
            step.stop_asked = False
            self.tell(step, signal.SIGTERM)
        if step.started.linger and not step.exited and os.path.exists(step.run.exit):
            step.exited = True
            self.say({**_name(step.key), "is": "exited", **End.read(step.run)._asdict()})
        self.tell_stuck(step)
        expected = (not step.child) + (step.started.linger and not step.exited)
        if len(step.fds) >= expected:
            self.waiting.pop(step.key, None)  # a descriptor will tell

    def hold(self, step: _Step) -> None:
        """Its shim lives and has started nothing: it is getting ready, or is, and waits for the word."""
        if step.ready is None:
            ready = Started.ready(step.run)
            if ready is None or ready.boot != self.boot or not proc.lives(*ready.shim):
                return  # it's still getting ready; a shim that was killed may have left such a record, too
            step.ready = ready
            if not step.child:
                self.watch_process(step, step.ready.shim)
        if step.stop_asked:
            proc.send_signal(*step.ready.shim, signal.SIGTERM)
        elif not step.going:
            self.say({**_name(step.key), "is": "prepared"})
            if step.child or step.fds:
                self.waiting.pop(step.key, None)  # its end or the word will tell

    def watch_process(self, step: _Step, process: Tuple[int, int]) -> None:
        """Look at the step again when that process ends."""
        try:
            fd = proc.pidfd(*process)
        except ProcessLookupError:
            self.waiting[step.key] = step
            return
        if fd >= 0:
            step.fds.append(fd)
            self.watch(fd, lambda: self.ended(step, fd))

    def ended(self, step: _Step, fd: int) -> None:
        """A process of the step ended: drop its descriptor, and look."""
        self.unwatch(fd)
        step.fds.remove(fd)
        self.waiting[step.key] = step
        self.look_at(step)

    def bury(self, step: _Step, end: End) -> None:
        """Its shim was killed: kill what that left, then say how the script ended, as far as it is known."""
        if self.undertake(step):
            return
        started = step.started or Started.read(step.run)
        if started is not None and started.boot == self.boot:
            # Orphans have a new parent only once the shim is dead; its lock is free a moment earlier.
            dying = proc.lives(*started.shim)
            left = [] if dying else self.kill_leftovers(step, started)
            step.looks = 0 if dying or left or cgroup.lives(started.group) else step.looks + 1
            if step.looks < (1 if started.group else LOOKS):
                self.wait_for(step, left, end)
                return
        elif end.code == protocol.UNKNOWN:
            why = "node rebooted" if started else "exit status unknown: its record is damaged"
            end = end._replace(why=why)
        self.gone(step, end)

    def undertake(self, step: _Step) -> bool:
        """Whether containers of the step must end first: a process of its own sees to that, and may wait."""
        if step.undertaker or not containers.used(step.run) or step.burials >= BURIALS:
            return step.undertaker > 0
        started = step.started or Started.read(step.run)
        step.burials += 1
        step.undertaker = os.fork()
        if step.undertaker == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                shim.close_all_but(self.shims)
                containers.bury(step.run, started.log if started else step.run.out)
            finally:
                os._exit(0)
        return True

    def wait_for(self, step: _Step, left: List[proc.Stat], end: End) -> None:
        """Until what was killed just now is dead. Who doesn't die is told of."""
        step.killing_since = step.killing_since or _now()
        if _now() > step.killing_since + shim.STUCK and not step.told_stuck:
            shim.note_stuck(step.run, [entry for entry in left if entry.lives])
        self.tell_stuck(step, end)
        if step.told_stuck:
            self.waiting.pop(step.key, None)  # each ping looks
        else:
            self.waiting[step.key] = step

    def tell_stuck(self, step: _Step, end: Optional[End] = None) -> None:
        """If some processes of a step can't be killed: nothing else of it lives. `end`: of the script."""
        if step.told_stuck or not os.path.exists(step.run.stuck):
            return
        found = stuck(step.run)
        if found:
            if end is None:
                ended = os.path.exists(step.run.exit)
                end = End.read(step.run) if ended else End(protocol.UNKNOWN, True, "it can't be killed")
            self.say({**_name(step.key), "is": "gone", **end._asdict(), "stuck": found})
            step.told_stuck = True

    def kill_leftovers(self, step: _Step, started: Started) -> List[proc.Stat]:
        """Kill what a dead shim left: a group of the kernel's, orphans that come to this agent, and what is
        known by what it carries. Returns what that was: none of it may live any more.
        """
        grouped = cgroup.pids(started.group) if cgroup.kill(started.group) else []
        shims = {other.child for other in self.steps.values() if other.child}
        shims |= self.lookout.children if self.lookout is not None else set()
        everybody = proc.all_stats()
        children = [s.pid for s in everybody if s.parent == os.getpid()]
        orphans = [pid for pid in children if pid not in shims and not proc.is_skyq(pid)]
        adopted = [s for s in map(proc.stat, orphans) if s is not None]  # zombies too: see shim._children
        left = {entry.pid: entry for entry in [*adopted, *map(proc.stat, grouped)] if entry is not None}
        proc.signal_all(adopted, signal.SIGKILL)
        for entry in proc.strays(os.path.basename(step.run.root), started.log, *started.main):
            proc.signal_all([entry], signal.SIGKILL)
            left[entry.pid] = entry
        below = proc.descendants(left, among=everybody)
        proc.signal_all(below, signal.SIGKILL)
        return [*left.values(), *below]

    def gone(self, step: _Step, end: End, unstarted: bool = False) -> None:
        """No process of the step lives: the last word about it."""
        for fd in step.fds:
            self.unwatch(fd)
        self.steps.pop(step.key, None)
        self.waiting.pop(step.key, None)
        # A quick script may be over before anybody saw it run: its pid stands in front of its log too.
        started = step.started or Started.read(step.run)
        pid = {"pid": started.main[0]} if started else {}
        if not self.no_groups or (started and started.group):
            cgroup.remove((started and started.group) or os.path.join(self.groups, shim.group_name(step.run)))
        if step.tail:
            self.send_log(step, step.tail)
        self.tails.over(step.key)
        if len(self.outbox) < protocol.FRAME_LIMIT:
            self.outbox += self.tails.rest(step.key)
        try:
            os.unlink(step.run.script)  # nothing of it lives: whoever looks next needn't see to that
        except OSError:
            pass
        self.say({**_name(step.key), "is": "gone", **end._asdict(), **pid, "unstarted": unstarted})

    def tell(self, step: _Step, word: int) -> None:
        """Signal the step's shim, if it is that very process."""
        if step.started is not None:
            proc.send_signal(*step.started.shim, word)

    # Waiting.

    def watch(self, fd: int, then: Callable[[], None]) -> None:
        """Call `then` when `fd` becomes readable."""
        self.watched[fd] = then
        self.poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Stop watching, and close."""
        if self.watched.pop(fd, None):
            self.poll.unregister(fd)
            os.close(fd)

    def reap(self, children: int) -> None:
        """Collect ended children: own shims, and orphans that a killed shim left to this subreaper."""
        os.read(children, 4096)
        shims = {step.child: step for step in self.steps.values() if step.child}
        undertakers = {step.undertaker: step for step in self.steps.values() if step.undertaker}
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in shims:
                shims[pid].child = 0
                self.look_at(shims[pid])
            elif pid in undertakers:
                undertakers[pid].undertaker = 0
                self.look_at(undertakers[pid])
            elif self.lookout is not None:
                self.lookout.reaped(pid)


def _child_ends() -> int:
    """A descriptor that becomes readable when a child ends."""
    out, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return out


def _now() -> float:
    """Seconds that also count while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(fd: int) -> Optional[bytes]:
    """What there is; b"" at the end, None where there is nothing now."""
    try:
        return os.read(fd, protocol.FRAME_LIMIT)
    except BlockingIOError:
        return None


def _left(started: Started) -> Message:
    """What is left of its time limit, if it has one."""
    if started.ends is None:
        return {}
    return {"left": max(0, math.ceil(started.ends - time.monotonic()))}


def _key(message: Message) -> Key:
    return Key(str(message["job"]), int(message["attempt"]), str(message["step"]))


def _name(key: Key) -> Message:
    return {"job": key.job, "attempt": key.attempt, "step": key.step}
