"""Whether there can be a lab on this machine."""

from __future__ import annotations

import functools
import os
import subprocess

from tests.machine import PATH, which

PROGRAMS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "pivot_root": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "awk": "mawk",
}
TRIAL = """\
set -e
ip link add bridge type bridge
ip link add one type veth peer name two
mount --rbind / /mnt
mount -o remount,bind,ro /mnt
mount -t tmpfs tmpfs /mnt/run
mount -t devpts -o newinstance devpts /mnt/dev/pts
mount -t proc proc /mnt/proc
mount --bind /dev/null /mnt/proc/sys/kernel/random/boot_id
"""


@functools.cache
def why_not() -> str:
    """Why not; empty: it can."""
    if os.geteuid() != 0:
        return "only root can make machines within this one"
    missing = [name for name in PROGRAMS if not which(name)]
    if missing:
        packages = " ".join(sorted({PROGRAMS[name] for name in missing}))
        return "missing here: %s (apt install %s)" % (", ".join(missing), packages)
    namespaces = ["--pid", "--net", "--mount", "--uts", "--ipc", "--mount-proc", "--fork", "--kill-child"]
    tried = subprocess.run(
        [which("unshare"), *namespaces, "sh", "-c", TRIAL],
        env={"PATH": PATH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return "root may not do it here: " + tried.stderr.strip() if tried.returncode else ""
