"""Who uses this machine's devices without being of a job, and which are missing: nvidia-smi tells, which may
take seconds, or hang.

It runs as a child whose end a descriptor tells, so nobody waits for it. Whoever looks like a stranger is
looked for once more: what nvidia-smi tells of a process that has just ended may be old.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from skyq.core.protocol import Message
from skyq.core.typed import NamedTuple
from skyq.node import proc
from skyq.transport import cgroup, mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterable, List, Optional, Set, Tuple

APPS = ["--query-compute-apps=gpu_uuid,pid,used_memory,process_name", "--format=csv,noheader,nounits"]
DEVICES = ["--query-gpu=uuid,index,memory.used", "--format=csv,noheader,nounits"]
LIMIT = 10.0  # seconds that nvidia-smi gets
AGAIN = 1.0  # seconds until the second look
MOST = 64  # strangers that are told of
OUTPUT = 256 * 1024  # bytes that are read of it
MISSING = -1  # stands for the pid where a device is there no more
UNSEEN = 2048  # MB in use on a device on which no process is seen: somebody's of another container
SERVICES = ("nvidia-cuda-mps-server", "nvidia-cuda-mps-control", "nv-hostengine", "dcgm")
"""They serve others, and use no device for themselves."""


class Found(NamedTuple):
    """A process on a device that is of no job."""

    device: int
    pid: int
    """0: it can't be told, as of a process of another container."""
    program: str
    user: str
    memory: int
    """MB; 0: it isn't known."""

    @property
    def key(self) -> Tuple[int, int]:
        """What makes it the same one at the next look."""
        return self.device, self.pid


class _Asked:
    """One nvidia-smi that runs."""

    def __init__(self, program: str, options: List[str]) -> None:
        self.fd, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.text = bytearray()
        try:
            self.pid = os.posix_spawn(
                program,
                [program, *options],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, into, 1),
                    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
                ],
                setsigmask=(),
                setsigdef=(signal.SIGCHLD, signal.SIGPIPE),
            )
        except OSError:
            os.close(self.fd)
            raise
        finally:
            os.close(into)

    def read(self) -> bool:
        """Whether it has said all."""
        try:
            data = os.read(self.fd, OUTPUT)
        except BlockingIOError:
            return False
        self.text += data[: max(0, OUTPUT - len(self.text))]
        return not data


class Lookout:
    """One at a time; what is asked meanwhile gets the answer that is on its way."""

    def __init__(
        self,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        say: Callable[[Message], None],
        shims: Callable[[], Set[int]],
    ) -> None:
        """`watch`, `unwatch`: of descriptors, as the agent does; `shims`: the pids of those that live."""
        self._watch, self._unwatch, self._say, self._shims = watch, unwatch, say, shims
        self.children: Set[int] = set()
        """Those of its processes that have not been reaped yet."""
        self._hanging: Set[int] = set()
        """Those of them that had to be killed, and aren't dead yet."""
        self._asked: List[_Asked] = []
        self._devices: Dict[str, int] = {}
        """UUID → index, of those that are to be looked at; empty: nobody looks."""
        self._first: Optional[Set[Tuple[int, int]]] = None
        """What looked like strangers at the first look."""
        self._known: Set[Tuple[int, int]] = set()
        """Who was a stranger already when told of last."""
        self._due = 0.0
        """When the limit is reached, or the second look due; monotonic."""

    def look(self, message: Message) -> None:
        """Answer, some time, with the strangers on these devices."""
        if self._devices:
            return
        self._devices = {str(uuid): int(index) for index, uuid in message["devices"]}
        self._first = None
        self._begin()

    def patience(self) -> Optional[float]:
        """Seconds until turn() has something to do; None: for ever."""
        return max(0.0, self._due - time.monotonic()) if self._devices else None

    def turn(self) -> None:
        """See to what time tells."""
        if not self._devices or time.monotonic() < self._due:
            return
        if not self._asked:
            self._begin()
            return
        self._hanging |= self.children
        self.close()
        self._stop()
        self._answer([], {}, "nvidia-smi did not answer within %d s" % LIMIT)

    def reaped(self, pid: int) -> None:
        """A child has ended."""
        self.children.discard(pid)
        self._hanging.discard(pid)

    def close(self) -> None:
        """Nobody waits for the answer any more."""
        for child in self.children:
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)

    def _begin(self) -> None:
        from skyq.node import probe

        program = probe.nvidia_smi()
        if not program:
            self._answer([], {}, "there is no nvidia-smi")
        elif self._hanging:
            self._answer([], {}, "nvidia-smi hangs")
        else:
            try:
                for options in (APPS, DEVICES):
                    self._asked.append(_Asked(program, options))
                    self.children.add(self._asked[-1].pid)
            except OSError as error:
                self._stop()
                self._answer([], {}, "nvidia-smi can't be started: %s" % error.strerror)
                return
            self._due = time.monotonic() + LIMIT
            for asked in self._asked:
                self._watch(asked.fd, lambda asked=asked: self._hear(asked))  # type: ignore[misc]

    def _hear(self, asked: _Asked) -> None:
        if not asked.read():
            return
        self._unwatch(asked.fd)
        asked.fd = -1
        if any(each.fd >= 0 for each in self._asked):
            return
        apps, listed = (bytes(each.text).decode(errors="replace") for each in self._asked)
        self._asked.clear()
        found, gone = judge(self._devices, apps, listed, self._is_ours()), missing(self._devices, listed)
        seen = {each.key for each in found} | {(device, MISSING) for device in gone}
        if seen - self._known and self._first is None:
            self._first = seen - self._known
            self._due = time.monotonic() + AGAIN
            return
        twice = seen & (self._known | (self._first or set()))
        gone = {device: why for device, why in gone.items() if (device, MISSING) in twice}
        self._answer([each for each in found if each.key in twice], gone)

    def _stop(self) -> None:
        for asked in self._asked:
            if asked.fd >= 0:
                self._unwatch(asked.fd)
        self._asked.clear()

    def _answer(self, found: List[Found], gone: Dict[int, str], why: str = "") -> None:
        self._devices, self._first = {}, None
        self._known = {each.key for each in found} | {(device, MISSING) for device in gone}
        told = [list(each) for each in found[:MOST]]
        self._say({"is": "strangers", "found": told, "missing": sorted(map(list, gone.items())), "why": why})

    def _is_ours(self) -> Callable[[int], bool]:
        shims = self._shims()
        return lambda pid: is_of_a_job(pid, shims)


def is_of_a_job(pid: int, shims: Iterable[int]) -> bool:
    """Whether a process is of a step: by its cgroup, its mark, its environment, or who is above it."""
    if cgroup.is_of_a_step(pid) or mark.is_borne(pid):
        return True
    if any(word.startswith(b"SKYQ_STEP_ID=") for word in proc.environ(pid)):
        return True
    above, seen = proc.stat(pid), 0
    while above is not None and above.pid > 1 and seen < 1000:
        if above.pid in shims or proc.is_skyq(above.pid):
            return True
        above, seen = proc.stat(above.parent), seen + 1
    return False


def judge(devices: Dict[str, int], apps: str, listed: str, ours: Callable[[int], bool]) -> List[Found]:
    """The strangers on these devices, by nvidia-smi's `uuid, pid, memory, name` and `uuid, index, memory`."""
    found: Dict[Tuple[int, int], Found] = {}
    seen: Set[int] = set()
    for fields in _rows(apps, 4):
        device = devices.get(fields[0])
        if device is None or os.path.basename(fields[3]) in SERVICES:
            continue
        seen.add(device)
        pid = _number(fields[1])
        if pid and ours(pid):
            continue
        account = proc.owner(pid)[:40] if pid else ""
        stranger = Found(device, pid, _program(pid, fields[3]), account, _number(fields[2]))
        found.setdefault(stranger.key, stranger)
    for uuid, _, used in _rows(listed, 3):
        device = devices.get(uuid)
        if device is not None and device not in seen and _number(used) >= UNSEEN:
            found[device, 0] = Found(device, 0, "", "", _number(used))
    return [found[key] for key in sorted(found)]


def missing(devices: Dict[str, int], listed: str) -> Dict[int, str]:
    """Which of these devices nvidia-smi doesn't list under their numbers, and what it says: one that fell off
    the bus, all after the driver was replaced while it ran, or the ones behind one that a boot did not find.

    Where it says nothing at all, nothing is known.
    """
    now = {uuid: index for uuid, index, _ in _rows(listed, 3)}
    said = [line for line in map(str.strip, listed.splitlines()) if line.partition(",")[0] not in now]
    why = "nvidia-smi says: " + _plain(said[0])[:120] if said else "nvidia-smi doesn't list it"
    found = {}
    for uuid, device in devices.items() if listed.strip() else ():
        if uuid not in now:
            found[device] = why
        elif now[uuid] != str(device):
            found[device] = "nvidia-smi lists it as device " + _plain(now[uuid])[:20]
    return found


def _rows(text: str, fields: int) -> Iterable[List[str]]:
    for line in text.splitlines():
        row = [field.strip() for field in line.split(",", fields - 1)]
        if len(row) == fields:
            yield row


def _number(text: str) -> int:
    """0 for what is none: [N/A], [Not Found]."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _program(pid: int, told: str) -> str:
    name = os.path.basename(told) if told and not told.startswith("[") else ""
    known = proc.name(pid) if pid and not name else name
    return _plain(known)[:40]


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
