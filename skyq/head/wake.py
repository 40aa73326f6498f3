"""Waking the dispatcher, or starting one.

A wake-up counts only when a dispatcher acknowledged it: it answers first and re-reads the store after
that. Whoever gets no answer starts a dispatcher, which waits for the lock if another holds it.
"""

from __future__ import annotations

import os
import socket
import time

from skyq import program
from skyq.core.paths import ClusterDir
from skyq.transport.aside import short_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict

OUTSIDE = b"outside"
ESCAPE = 10.0  # seconds for a new dispatcher to leave this login
ANSWER = 2.0  # seconds that a dispatcher may take to answer
LOG_LIMIT = 1024 * 1024  # bytes of dispatcher.log that are kept when the next dispatcher starts, twice
_FOLDERS = ("SKYQ_HOME", "SKYQ_STATE_DIR", "SKYQ_CLAIM_DIR")
_KEPT = ("HOME", *_FOLDERS, "SKYQ_CRON", "SKYQ_DEBUG")


def knock(where: ClusterDir) -> bool:
    """Whether a dispatcher acknowledged; then it re-reads the store after now."""
    try:
        with socket.socket(socket.AF_UNIX) as line, short_name(where.socket) as name:
            line.settimeout(ANSWER)
            line.connect(name)
            return line.recv(1) == b"!"
    except OSError:
        return False


def ready() -> None:
    """See to it that a dispatcher could be started. Raises SkyqError where its libraries can't be had."""
    program.argv()


def wake(where: ClusterDir, cluster: str) -> None:
    """See to it that a dispatcher reads the store after now."""
    if not knock(where):
        _spawn(where, [*program.argv(), "_dispatcher", cluster])


def _spawn(where: ClusterDir, argv: list[str]) -> None:
    """Start it as nobody's child, with nothing of this process: it outlives the shell, the ssh, the cron."""
    # Else it is no login of systemd-logind's; and who sits at a terminal doesn't leave within a moment.
    hasty = bool(os.environ.get("XDG_SESSION_ID")) and not os.isatty(0)
    out, into = os.pipe() if hasty else (-1, -1)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        if hasty:
            os.close(into)
            _see_it_off(where, out)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            _become(where, argv, into)
    finally:
        os._exit(1)


def _see_it_off(where: ClusterDir, out: int) -> None:
    """Where the end of this login would kill it: wait until it runs outside of that."""
    with open(out, "rb") as file:
        outside = file.read() == OUTSIDE
    deadline = time.monotonic() + ESCAPE
    while outside and not knock(where) and time.monotonic() < deadline:
        time.sleep(0.02)


def _become(where: ClusterDir, argv: list[str], into: int) -> None:
    from skyq.transport import cgroup, mark

    cgroup.leave()  # of the job that this is in, if it is in one
    mark.shed()
    environment, inside = _environment(), argv
    if os.environ.get("XDG_SESSION_ID"):
        from skyq.transport import logout

        if into >= 0 and not logout.kills():
            os.close(into)  # nobody need wait until it is outside, if it goes there at all
            into = -1
        argv = logout.escape(argv, environment)
    if into >= 0 and argv is not inside:
        os.write(into, OUTSIDE)
    null = os.open("/dev/null", os.O_RDONLY)
    if os.path.exists(where.dispatcher_log) and os.path.getsize(where.dispatcher_log) > LOG_LIMIT:
        os.rename(where.dispatcher_log, where.dispatcher_log + ".1")
    log = os.open(where.dispatcher_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, 1024)
    os.chdir("/")
    os.execve(argv[0], argv, environment)


def _environment() -> Dict[str, str]:
    """What doesn't depend on who came first, which may be a job: a dispatcher serves everybody's jobs."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    kept.update({name: os.path.abspath(kept[name]) for name in _FOLDERS if kept.get(name)})
    return {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONUTF8": "1", **kept}
