"""Which cluster owns this machine: one small file that all accounts can read.

One queue per host is what keeps a device from being given twice. The claim is free only when it was
removed on this machine; and the next claimer first sees that no shim of the former one lives: each
holds a shared lock on one file for its life.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import time
from contextlib import suppress

from skyq.core.errors import HostClaimed
from skyq.core.paths import ClaimDir
from skyq.transport.aside import aside, sweep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, TypeAlias

# Other accounts may put anything there: a link, or a pipe that would let us wait for a writer.
_CAREFUL = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Claim: TypeAlias = "Dict[str, Any]"
"""cluster, id (of the cluster's state directory), head, state_dir, node (its name there), since; owner from
the file."""


def read(where: ClaimDir) -> Optional[Claim]:
    """The claim on this machine, its owner as the file system says; None when it is free."""
    try:
        fd = os.open(where.claim, os.O_RDONLY | _CAREFUL)
    except FileNotFoundError:
        return None
    with open(fd, encoding="utf-8", errors="replace") as file:
        owner = os.fstat(fd).st_uid
        text = file.read(4096)
    try:
        claim = json.loads(text)
    except (ValueError, RecursionError):
        claim = {}
    if not isinstance(claim, dict):
        claim = {}
    return {"cluster": "?", "id": "", "head": "?", "state_dir": "", **claim, "uid": owner}


def refusal(where: ClaimDir, cluster_id: str, state_dir: str) -> Optional[str]:
    """Why this machine is not for the cluster of that id, whose state is there; None: it is, or is free."""
    claim = read(where)
    if claim is None or (claim["id"] == cluster_id and claim["uid"] == os.getuid()):
        return None
    former = claim["state_dir"] if claim["uid"] == os.getuid() else ""
    if former and (former == state_dir or not os.path.isdir(former)):
        return None  # its queue was deleted: nobody will ever give it back
    owner = account(claim["uid"])
    return (
        "This machine belongs to cluster '%s' of %s (head: %s): one queue per machine, so that no "
        "device is given twice.\nSubmit there, or end that queue first; if it is gone for good: rm %s"
        % (_plain(claim["cluster"]), owner, _plain(claim["head"]), where.claim)
    )


def take(where: ClaimDir, claim: Claim) -> None:
    """Claim this machine, or keep the claim. Raises HostClaimed with the owner's name."""
    os.makedirs(where.root, exist_ok=True)
    sweep(where.claim)
    why = refusal(where, claim["id"], claim["state_dir"])
    if why:
        raise HostClaimed(why)
    found = read(where)
    if found is not None and found["id"] == claim["id"]:
        if claim.get("node", "") not in ("", found.get("node")):
            _rename(where, {**found, "node": claim["node"]})
        keep(where)
        return
    shims = _open_shims(where)
    try:
        fcntl.flock(shims, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of several claimers, one at a time
        why = refusal(where, claim["id"], claim["state_dir"])
        if why:
            raise HostClaimed(why)
        if read(where) is not None:
            os.unlink(where.claim)
        _create(where, claim)
    except BlockingIOError:
        raise HostClaimed(
            "Processes of this machine's former queue still run; its devices aren't free yet."
        ) from None
    finally:
        os.close(shims)


def keep(where: ClaimDir) -> None:
    """Keep the claim's files young: temporary files are cleaned up by their age, 30 days here and there."""
    for path in (where.claim, where.shims):
        try:
            os.utime(path)
        except OSError:
            pass  # another account made it


def release(where: ClaimDir, cluster_id: str) -> None:
    """Give the machine back, if it is claimed by that cluster."""
    found = read(where)
    if found is not None and found["id"] == cluster_id and found["uid"] == os.getuid():
        os.unlink(where.claim)


def hold_shims_lock(where: ClaimDir) -> int:
    """A descriptor that tells other claimers that a shim lives, for as long as any process has it."""
    fd = _open_shims(where)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def _open_shims(where: ClaimDir) -> int:
    """Only read access is needed to lock it, so another account's file serves as well as an own one."""
    try:
        return os.open(where.shims, os.O_RDONLY | _CAREFUL)
    except FileNotFoundError:
        fd = os.open(where.shims, os.O_RDONLY | os.O_CREAT | _CAREFUL, 0o644)
        os.fchmod(fd, 0o644)  # whatever the umask is
        return fd


def _rename(where: ClaimDir, claim: Claim) -> None:
    """Its own claim says what the machine is called from now on."""
    new = aside(where.claim)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFUL, 0o644)
    with open(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, 0o644)
        json.dump({name: value for name, value in claim.items() if name != "uid"}, file)
    os.rename(new, where.claim)


def _create(where: ClaimDir, claim: Claim) -> None:
    """Whole or not at all, and never over another's: written aside, then linked to its name."""
    new = aside(where.claim)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFUL, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, json.dumps({**claim, "since": time.time()}).encode())
        os.fsync(fd)
        os.link(new, where.claim)
    except FileExistsError:
        raise HostClaimed(
            refusal(where, claim["id"], claim["state_dir"]) or "This machine was claimed a moment ago."
        ) from None
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):  # once it is linked, others may sweep it
            os.unlink(new)


def account(uid: int) -> str:
    """The name of an account; "uid 1717" where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "uid %d" % uid


def _plain(text: object) -> str:
    """Another account wrote it: nothing in it may reach the terminal as a control."""
    return "".join(char if char.isprintable() else "?" for char in str(text)[:80])
