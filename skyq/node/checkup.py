"""What a node can say of its own health: who else uses its devices, and how well it can contain a job."""

from __future__ import annotations

import os

from skyq.core.finding import Finding
from skyq.core.paths import RunDir
from skyq.core.typed import NamedTuple
from skyq.node import probe, proc
from skyq.node.records import Started
from skyq.transport import cgroup, logout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Sequence

NVIDIA = ["--query-compute-apps=gpu_uuid,pid,used_memory,process_name", "--format=csv,noheader,nounits"]
SHOWN = 10  # processes


class User(NamedTuple):
    """One process that uses a device."""

    uuid: str
    pid: int
    memory: str
    """MB, or what nvidia-smi says instead."""
    program: str


class Run(NamedTuple):
    """A step that runs here, and the devices that it holds."""

    job: int
    run: RunDir
    devices: Sequence[int]


def device_use(runs: Sequence[Run]) -> Finding:
    """Whether any process uses a device without the queue's knowledge. Raises SkyqError as the probe does."""
    program = probe.nvidia_smi()
    users = parse(probe.ask(program, NVIDIA)) if program else []
    index = {device.uuid: device.index for device in probe.devices()} if users else {}
    owners = _owners(runs)
    strangers = []
    for user in users:
        at = index.get(user.uuid)
        run = owners.get(user.pid)
        if at is not None and (run is None or at not in run.devices):
            strangers.append(_told(at, user, run))
    if not strangers:
        return Finding("use of devices", True, "by jobs only" if users else "no process uses one")
    more = ["and %d more" % (len(strangers) - SHOWN)] if len(strangers) > SHOWN else []
    return Finding(
        "use of devices",
        False,
        "\n".join(["%d outside of the queue:" % len(strangers), *sorted(strangers)[:SHOWN], *more]),
        "Jobs on these devices may lack memory: ask the owner to submit to the queue, or to end it.",
    )


def parse(text: str) -> List[User]:
    """From the lines `uuid, pid, memory, name` of nvidia-smi's CSV."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",", 3)]
        if len(fields) == 4 and fields[1].isdecimal() and len(fields[1]) < 11:
            found.append(User(fields[0], int(fields[1]), fields[2], fields[3]))
    return found


def _owners(runs: Sequence[Run]) -> Dict[int, Run]:
    """Pid → the step that it is of: a shim's descendants, whatever they did to hide."""
    found: Dict[int, Run] = {}
    for run in runs:
        started = Started.read(run.run)
        if started is not None:
            found.update({entry.pid: run for entry in proc.descendants([started.shim[0]])})
    return found


def _told(at: int, user: User, run: Optional[Run]) -> str:
    memory = ", %s MB" % user.memory if user.memory.isdigit() else ""
    name = os.path.basename(user.program) or "a process"
    whose = (
        "of job %d, which doesn't hold the device" % run.job
        if run
        else "of " + (proc.owner(user.pid) or "another container or machine")
    )
    told = "device %d: %s, pid %d, %s%s" % (at, name, user.pid, whose, memory)
    return "".join(char if char.isprintable() else "?" for char in told)[:200]


# Containment: how the processes of a job are kept together.


def containment() -> Finding:
    """Which rung each job of this machine has, and what it means."""
    why_not = cgroup.why_not(cgroup.base())
    text = contained_by("" if why_not and logout.delegates() else why_not)
    todo = logout.todo()
    if todo:
        return Finding("containment", False, "%s\nbut %s" % (text, logout.KILLS), todo)
    return Finding("containment", True, text, logout.to_delegate() if why_not else "")


def contained_by(why_not: str) -> str:
    """The rung in one line. `why_not`: why there is no cgroup for a job; "": there is."""
    if not why_not:
        return "cgroup v2: the kernel ends a job as a whole, whatever its processes do"
    return (
        "subreaper and marks: what forks or hides ends with its job, but for what takes off its mark "
        "and whose shim and node agent are both killed (no cgroup v2: %s)" % why_not
    )
