"""A damaged or deleted queue, made anew of its journal. What runs goes on: its nodes tell of it."""

from __future__ import annotations

import os
import signal
import socket
import struct

from skyq.core.errors import SkyqError
from skyq.core.paths import ClusterDir
from skyq.core.typed import NamedTuple
from skyq.store import rebuild
from skyq.store.lock import tick_lock
from skyq.transport.aside import short_name

LOCK_WAIT = 10.0  # seconds for the lock of a dispatcher that was killed


class Recovered(NamedTuple):
    """What was found and done."""

    damage: str
    """What was wrong; "": nothing, and nothing was done."""
    kept: str = ""
    """Where the damaged database is now; "": there was none."""


def recover(where: ClusterDir) -> Recovered:
    """Have a whole queue there. Raises SkyqError where that can't be; then nothing was changed."""
    damage = rebuild.damage(where.database, where.journal)
    if not damage:
        return Recovered("")
    if not os.path.exists(where.journal):
        raise SkyqError("%s\nThere is no %s, of which it could be made anew." % (damage, where.journal))
    _end_dispatcher(where)
    with tick_lock(where.tick_lock, wait=LOCK_WAIT) as held:
        if not held:
            raise SkyqError("A dispatcher holds %s and doesn't end. Nothing was changed." % where.tick_lock)
        return Recovered(damage, rebuild.rebuild(where.database, where.journal))


def _end_dispatcher(where: ClusterDir) -> None:
    """It has the old file open. Like every kill of it, this harms no job."""
    size = struct.calcsize("3i")
    try:
        with socket.socket(socket.AF_UNIX) as line, short_name(where.socket) as name:
            line.connect(name)
            pid, _, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass  # there is none
