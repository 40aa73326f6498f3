"""Processes that try to get away from their job, each in another way."""

from __future__ import annotations

from pathlib import Path

KINDS = {
    "background": "sleep 600 & echo $! >> %s",
    "nohup": "nohup sleep 600 >/dev/null 2>&1 & echo $! >> %s",
    "session": "setsid bash -c 'echo $$ >> %s; exec sleep 600' &",
    "silent session": "setsid bash -c 'echo $$ >> %s; exec sleep 600' </dev/null >/dev/null 2>&1 &",
    "no environment": "env -i setsid bash -c 'echo $$ >> %s; exec sleep 600' &",
    "orphan, silent, no environment": (
        "(env -i bash -c 'echo $$ >> %s; exec sleep 600' </dev/null >/dev/null 2>&1 &)"
    ),
    "ignores TERM": "bash -c 'trap \"\" TERM; echo $$ >> %s; while :; do sleep 1; done' &",
    "stopped": "bash -c 'echo $$ >> %s; kill -STOP $$' &",
}
_DAEMON = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2):
            os.dup2(os.open("/dev/null", os.O_RDWR), fd)
        print(os.getpid(), file=open(%r, "a"), flush=True)
        os.execve("/bin/sleep", ["sleep", "600"], %s)
"""
SIZE = len(KINDS) + 2
"""How many processes a zoo has: one of each kind, a daemon, and the script."""


def zoo(pids: Path, daemon: Path, known_to_its_parent_only: bool = True) -> str:
    """A script that starts one process of each kind, all of which write their pids.

    The daemon is a double fork in a session of its own without open files. Without an environment too
    it is known only to who inherits it: its shim, or after that the node agent.
    """
    daemon.write_text(_DAEMON % (str(pids), "{}" if known_to_its_parent_only else "os.environ"))
    lines = [line % pids for line in KINDS.values()]
    return "\n".join([*lines, "python3 %s" % daemon, "echo $$ >> %s" % pids, "sleep 600"])
