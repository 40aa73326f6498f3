"""What becomes of a machine at first contact, and when its cluster ends: what it is, the line in
authorized_keys by which the head reaches it, and what tells that several machines have one home.

All of it may be killed anywhere and done again.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress

from skyq.core import keylines
from skyq.core.errors import SkyqError
from skyq.core.paths import Home
from skyq.node import probe
from skyq.node.baseenv import bash
from skyq.transport import logout
from skyq.transport.aside import aside, sweep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List

TRIES = 5  # at a file that others change meanwhile
KEPT = 4  # builds that stay, however old
UNUSED = 30 * 86400  # seconds since a build came, after which one beyond KEPT goes
ABANDONED = 3600  # seconds after which nobody is still sending a file


def facts(devices: bool) -> Dict[str, Any]:
    """What this machine has; devices only where they aren't declared.

    Raises SkyqError as the probe does, where there is no bash, without which no job runs, and where jobs end
    with the login.
    """
    if not bash():
        raise SkyqError("there is no bash, which jobs run in. Install it there (apt install bash).")
    todo = logout.todo()
    if todo:
        raise SkyqError("%s. %s" % (logout.KILLS, todo))
    found = probe.devices() if devices else ()
    return {
        "devices": [[device.index, device.accelerator, device.uuid] for device in found],
        "cpus": probe.cpus(),
        "memory": probe.memory(),
    }


def home_token(home: Home) -> str:
    """A word that is the same on machines that share the home, and on no others."""
    try:
        new = aside(home.token)
        with open(new, "x") as file:
            file.write(os.urandom(16).hex())
        try:
            os.link(new, home.token)
        except FileExistsError:
            pass
        finally:
            os.unlink(new)
    except OSError:
        pass  # no links there: then it is written once, or not at all
    try:
        with open(home.token) as file:
            return file.read(64)
    except OSError:
        return os.urandom(16).hex()


def enroll(home: Home, cluster_id: str, node: str) -> None:
    """The node has its home here. Raises OSError."""
    folder = home.members(cluster_id)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, _file_name(node)), "w"):
        pass


def sign_off(home: Home, cluster_id: str, node: str, end: bool) -> bool:
    """It has it here no more; whether others of the cluster still have. `end`: of all of them."""
    folder = home.members(cluster_id)
    for name in names(folder):
        if end or name == _file_name(node):
            unlink(os.path.join(folder, name))
    others = bool(names(folder))
    for empty in () if others else (folder, os.path.dirname(folder)):
        unlink(empty)
    return others


def _file_name(node: str) -> str:
    return node.replace("/", "_")


def unlink(path: str) -> None:
    """A file, or an empty folder, if it is there."""
    try:
        os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
    except OSError:
        pass


def authorize(line: bytes) -> None:
    """Let a cluster's key in. Raises SkyqError."""
    _change_keys(lambda text: keylines.with_line(text, line))


def forbid(marker: str) -> None:
    """Take a cluster's line out. Raises SkyqError."""
    _change_keys(lambda text: keylines.without_line(text, marker.encode()))


def _change_keys(change: Callable[[bytes], bytes]) -> None:
    path = os.path.realpath(os.path.expanduser("~/.ssh/authorized_keys"))
    try:
        for _ in range(TRIES):
            before = _read(path)
            after = change(before)
            if after == before or _replaced(path, before, after):
                return
    except OSError as error:
        text = "%s can't be changed: %s. The head of a cluster needs a line there."
        raise SkyqError(text % (path, error.strerror)) from None
    raise SkyqError("%s is being changed by others all the time. Try again." % path)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _replaced(path: str, before: bytes, after: bytes) -> bool:
    """Whole or not at all; False where somebody else changed it meanwhile. It keeps its mode."""
    try:
        os.mkdir(os.path.dirname(path), 0o700)
    except FileExistsError:
        pass
    new = aside(path)
    try:
        with open(new, "xb") as file:
            os.fchmod(file.fileno(), os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o600)
            file.write(after)
            file.flush()
            os.fsync(file.fileno())
        if _read(path) != before:
            return False
        os.rename(new, path)
        return True
    finally:
        if os.path.exists(new):
            os.unlink(new)


def uninstall(home: Home, state: Home) -> None:
    """Remove what came over SSH, unless something else here needs it. This process itself lives on."""
    queues = [state.cluster(name) for name in names(state.clusters)]
    if names(state.nodes) or any(os.path.exists(q.database) or os.path.exists(q.journal) for q in queues):
        return
    for folder in (home.bin, home.app):
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        sweep(home.token)
    for name in (home.token, state.nodes, state.clusters, home.root):
        unlink(name)  # but for what holds something of the user's


def tidy(home: Home, in_use: str) -> None:
    """Remove what interrupted contacts left in ~/.skyq/bin, and builds that nobody has had for long."""
    now = time.time()
    ages = {}
    for name in names(home.bin):
        with suppress(FileNotFoundError):  # another machine with this home may rename or remove it
            ages[name] = now - os.stat(os.path.join(home.bin, name)).st_mtime
    gone = [name for name, age in ages.items() if ".pyz." in name and age > ABANDONED]
    builds = sorted((name for name in ages if name.endswith(".pyz")), key=lambda name: ages[name])
    gone += [name for name in builds[KEPT:] if ages[name] > UNUSED]
    for path in (os.path.join(home.bin, name) for name in gone):
        if path != in_use:
            with suppress(FileNotFoundError):
                os.unlink(path)


def names(folder: str) -> List[str]:
    """Of what is in it; none where it isn't there."""
    try:
        return os.listdir(folder)
    except OSError:
        return []
