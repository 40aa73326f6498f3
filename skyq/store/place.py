"""Where state may live: a private folder on a local file system of this machine."""

from __future__ import annotations

import os
import stat

from skyq.core.errors import StoreError
from skyq.core.paths import ClusterDir, Home

# SQLite's locks and shared memory don't hold across machines, and a run directory must be the node's own.
SHARED = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "glusterfs")
)


def home_root() -> str:
    """SKYQ_HOME, or ~/.skyq."""
    return os.path.abspath(os.environ.get("SKYQ_HOME") or os.path.expanduser("~/.skyq"))


def state_home() -> Home:
    """The root for state: SKYQ_HOME, or a folder of this machine's own where that is on shared storage."""
    root = home_root()
    kind = _shared_file_system(root)
    if not kind and not os.environ.get("SKYQ_STATE_DIR"):
        return Home(root)
    import hashlib

    base = os.environ.get("SKYQ_STATE_DIR") or "/var/tmp/skyq-%d" % os.getuid()
    return Home(os.path.join(base, hashlib.sha256(root.encode()).hexdigest()[:12]))


def has_queue(where: ClusterDir) -> bool:
    """Whether there is a queue, be its database damaged or gone."""
    return os.path.exists(where.database) or os.path.exists(where.journal)


def make_private(path: str) -> None:
    """A folder that only this account can enter. Raises StoreError where it is another's or can't be made."""
    try:
        refuse_planted(path)  # the kernel may refuse to follow a link there, and that says less
        private_folders(path)
        refuse_planted(path)
        found = os.stat(path)
        if found.st_uid != os.getuid():
            raise StoreError("%s belongs to another account. Set SKYQ_HOME to a folder of your own." % path)
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        raise StoreError(
            "%s can't be used: %s. Set SKYQ_HOME to a folder that you can write." % (path, error.strerror)
        ) from None


def refuse_planted(path: str) -> None:
    """Raise StoreError where another account has put something on the way: in /var/tmp anybody may be first.

    Who owns a folder on the way can put another in place of what is below it. May raise OSError.
    """
    above = os.path.dirname(path)
    if above == path:
        return
    refuse_planted(above)
    try:
        owner = os.lstat(path).st_uid
    except FileNotFoundError:
        return
    if os.stat(above).st_mode & stat.S_IWOTH and owner not in (0, os.getuid()):
        raise StoreError(
            "%s was put there by another account (uid %d), which could change your queue in it.\n"
            "Have it removed, or set SKYQ_STATE_DIR to a folder of your own." % (path, owner)
        )


def private_folders(path: str) -> None:
    """Make what is missing of the path, each folder for this account only: os.makedirs minds the last one."""
    if not os.path.isdir(os.path.dirname(path)):
        private_folders(os.path.dirname(path))
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass


def leave_trace(path: str) -> None:
    """Give a private file the time of now, if that can be had."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        os.utime(path)
    except OSError:
        pass  # a full disk


def file_system(path: str) -> str:
    """The type of the file system that a path is, or would be, on; "" where that can't be told."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    device = os.stat(path).st_dev
    name, kind = "%d:%d" % (os.major(device), os.minor(device)), ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.split()
            if fields[2] == name:
                kind = fields[fields.index("-") + 1]
    return kind


def _shared_file_system(path: str) -> str:
    """The type of the file system if several machines may see it, else ""."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    if os.major(os.stat(path).st_dev) != 0:
        return ""  # a disk of this machine
    kind = file_system(path)
    return kind if kind in SHARED or kind.startswith("fuse.") else ""
