"""What this machine has: devices, CPUs, memory; as far as this process may use them."""

from __future__ import annotations

import os
import re
import subprocess

from skyq.core import accelerators
from skyq.core.errors import SkyqError
from skyq.core.model import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple

PATIENCE = 60.0  # seconds; nvidia-smi takes several on large machines without persistence mode
NVIDIA = ["--query-gpu=index,uuid,name", "--format=csv,noheader"]
_INDEX = re.compile("[0-9]{1,4}")
_UUID = re.compile("[A-Za-z0-9./-]{1,100}")
"""It goes into variables and command lines of container engines."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATH += ":/usr/local/nvidia/bin:/opt/bin:/usr/lib/wsl/lib"


def devices() -> Tuple[Device, ...]:
    """The accelerators, in index order; none where the vendor's tool is missing.

    Raises SkyqError when the tool is there but fails: a queue without its devices would mislead.
    """
    program = nvidia_smi()
    return parse_nvidia(ask(program, NVIDIA)) if program else ()


def nvidia_smi() -> str:
    """Where it is; "" if it isn't."""
    path = os.environ.get("PATH", "") + os.pathsep + _PATH
    return next((p for p in (os.path.join(d, "nvidia-smi") for d in path.split(os.pathsep)) if _runs(p)), "")


def ask(program: str, options: List[str]) -> str:
    """What nvidia-smi answers; "" where there is no device. Raises SkyqError where it fails."""
    try:
        done = subprocess.run(
            [program, *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _broken(program, str(error)) from None
    text = done.stdout.decode(errors="replace")
    if done.returncode == 6 or "No devices were found" in text:
        return ""
    if done.returncode != 0:
        raise _broken(program, (text + done.stderr.decode(errors="replace")).strip())
    return text


def parse_nvidia(text: str) -> Tuple[Device, ...]:
    """From the lines `index, uuid, name` of nvidia-smi's CSV; what is no such line is passed over."""
    found: Dict[int, Device] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",", 2)]
        if len(fields) == 3 and _INDEX.fullmatch(fields[0]):
            uuid = fields[1] if _UUID.fullmatch(fields[1]) else ""
            name = accelerators.canonical(fields[2][:200])
            found.setdefault(int(fields[0]), Device(int(fields[0]), name, uuid))
    return tuple(found[index] for index in sorted(found))


def _runs(path: str) -> bool:
    return os.path.isabs(path) and os.access(path, os.X_OK)


def _broken(program: str, said: str) -> SkyqError:
    return SkyqError(
        "The devices of this machine can't be read: %s said: %s\n"
        "Mend it, or declare them in pools.yaml (README, Inventory)." % (program, said[:500] or "nothing")
    )


def cpus() -> int:
    """Milli-CPUs: by affinity, and by the cgroup's quota where there is one."""
    usable = len(os.sched_getaffinity(0)) * 1000
    quota = _cpu_quota()
    return usable if quota is None else max(100, min(usable, quota))


def memory() -> int:
    """MB: what the machine has, and what the cgroup allows where it does."""
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) // 1024
    limits = [_number(_read(path)) for path in _cgroup_files("memory.max", "memory", "memory.limit_in_bytes")]
    return min([total, *(limit // 1024**2 for limit in limits if limit)])


def _cpu_quota() -> Optional[int]:
    quotas = []
    for path in _cgroup_files("cpu.max", "cpu", "cpu.cfs_quota_us"):
        words = _read(path).split()
        if path.endswith("cpu.max"):
            quota, period = ([*words, "100000"])[:2] if words else ("max", "100000")
        else:
            quota, period = words[0] if words else "-1", _read(os.path.dirname(path) + "/cpu.cfs_period_us")
        if quota.isdigit() and _number(period):
            quotas.append(int(quota) * 1000 // (_number(period) or 1))
    return min(quotas, default=None)


def _cgroup_files(unified: str, controller: str, legacy: str) -> List[str]:
    """The files that limit this process: of its group and of each group above, v2 and v1."""
    found: List[str] = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        root, file = ("/sys/fs/cgroup/" + controller, legacy) if names else ("/sys/fs/cgroup", unified)
        while True:
            found.append(root + group.rstrip("/") + "/" + file)
            if group in ("", "/"):
                break
            group = os.path.dirname(group)
    return found


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _number(text: str) -> Optional[int]:
    return int(text) if text.isdigit() else None
