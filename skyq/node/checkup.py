"""What a node can say of its own health: who else uses its devices, and how well it can contain a job."""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
from typing import Dict, List, NamedTuple, Optional, Sequence

from skyq.core.finding import Finding
from skyq.core.paths import RunDir
from skyq.node import probe, proc
from skyq.node.records import Started
from skyq.transport import logout

NVIDIA = ["--query-compute-apps=gpu_uuid,pid,used_memory,process_name", "--format=csv,noheader,nounits"]
SHOWN = 10  # processes
SCOPE_PATIENCE = 3.0  # seconds for systemd to make a scope
_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000


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
    whose = "of job %d, which doesn't hold the device" % run.job if run else "of " + _account(user.pid)
    told = "device %d: %s, pid %d, %s%s" % (at, name, user.pid, whose, memory)
    return "".join(char if char.isprintable() else "?" for char in told)[:200]


def _account(pid: int) -> str:
    try:
        uid = os.stat("/proc/%d" % pid).st_uid
    except OSError:
        return "another container or machine"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "uid %d" % uid


# Containment: how the processes of a job are kept together, and what this machine offers beyond it.


def containment() -> Finding:
    """What every job has here, and what would hold it tighter."""
    offers = {
        "cgroup v2": _cgroup(),
        "systemd user scopes": _scope(),
        "user and pid namespaces": _namespaces(),
    }
    there = [name for name, why_not in offers.items() if not why_not]
    lacking = ["%s (%s)" % (name, why_not) for name, why_not in offers.items() if why_not]
    text = "each job below a subreaper, its processes marked in their environment"
    if there:
        text += "\nthis machine offers too, unused so far: " + ", ".join(there)
    if lacking:
        text += "\nnot here: " + ", ".join(lacking)
    todo = logout.todo()
    if todo:
        return Finding("containment", False, "%s\nbut %s" % (text, logout.KILLS), todo)
    return Finding("containment", True, text)


def _cgroup() -> str:
    """Why no group of ours can be made; "" if one can."""
    group = next((line[3:].strip() for line in _lines("/proc/self/cgroup") if line.startswith("0::")), None)
    mounts = [line.split() for line in _lines("/proc/self/mountinfo")]
    root = next((fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"), None)
    if group is None or root is None:
        return "not mounted"
    path = os.path.join(root + group.rstrip("/"), "skyq-doctor-%d" % os.getpid())
    try:
        os.mkdir(path)
    except OSError as error:
        return "not delegated to this account" if error.errno in (1, 13, 30) else str(error.strerror)
    try:
        return "" if os.path.exists(os.path.join(path, "cgroup.kill")) else "too old to kill a group"
    finally:
        os.rmdir(path)


def _scope() -> str:
    """Why systemd makes no scope of ours; "" if it does."""
    bus = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/run/user/%d" % os.getuid(), "bus")
    if not os.path.exists(bus):
        return "no session of systemd's"
    env = {**os.environ, "XDG_RUNTIME_DIR": os.path.dirname(bus)}
    words = ["systemd-run", "--user", "--scope", "--quiet", "true"]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=SCOPE_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "systemd-run doesn't work"
    if done.returncode:
        return "systemd-run failed"
    lingers = os.path.exists("/var/lib/systemd/linger/" + pwd.getpwuid(os.getuid()).pw_name)
    return "" if lingers else "they end at logout: loginctl enable-linger"


def _namespaces() -> str:
    """Why this account can't have namespaces of its own; "" if it can."""
    child = os.fork()
    if child == 0:
        os._exit(1 if ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWPID) else 0)
    _, status = os.waitpid(child, 0)
    return "forbidden here" if status else ""


def _lines(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []
