"""cron as the safety net: a line in the user's crontab ticks every minute, so that a reboot loses nobody.

Jobs never depend on it: without cron the dispatcher stays while anything is unfinished, and each command
starts one. What goes wrong here is remembered for `skyq doctor`, and no error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import subprocess
import sys
import threading

from skyq.core import crontab
from skyq.core.errors import SkyqError
from skyq.core.paths import ClusterDir
from skyq.core.typed import NamedTuple
from skyq.head import launcher
from skyq.store.place import leave_trace
from skyq.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Optional

PATIENCE = 10.0  # seconds for crontab(1), which may ask an account server
OFF = "off"
TROUBLE = "cron_trouble"  # the setting that remembers why the last try to install failed

_FOLDERS = ("/usr/bin", "/bin", "/usr/local/bin", "/run/current-system/sw/bin")
_DAEMONS = {"cron", "crond", "cronie", "fcron", "dcron", "bcron-sched"}
_PID_FILES = ("/run/crond.pid", "/run/cron.pid", "/var/run/crond.pid")


class NoCron(Exception):
    """The crontab can't be read or written; the text says why, in cron's own words where it has some."""


class View(NamedTuple):
    """What there is of cron here."""

    installed: bool = False
    """Whether the crontab has lines of the cluster."""
    trouble: str = ""
    """Why the crontab can't be used; empty: it can."""
    running: Optional[bool] = None
    """Whether a daemon runs; None: other accounts' processes can't be seen."""


def is_off() -> bool:
    """Whether the user wants nothing to do with cron. Then no crontab is even read."""
    return os.environ.get("SKYQ_CRON", "") == OFF


def install(cluster: str, cluster_id: str) -> bool:
    """See to it that cron ticks for the cluster; whether it didn't yet.

    Raises NoCron; then the crontab is as it was.
    """
    try:
        words = ["/bin/sh", launcher.write(), "tick", cluster]
        with _turn():
            before = _read()
            after = crontab.with_block(before, cluster_id, words)
            if after != before:
                _write(after)
            return after != before
    except (OSError, KeyError, SkyqError, crontab.NoLine) as error:
        raise NoCron(str(error)) from error


def remove(cluster_id: str) -> None:
    """Take the cluster's lines out of the crontab. Raises NoCron; then they are still there."""
    try:
        with _turn():
            before = _read()
            after = crontab.without_block(before, cluster_id)
            if after != before:
                _write(after)
    except (OSError, KeyError) as error:
        raise NoCron(str(error)) from error


def view(cluster_id: str) -> View:
    """What there is of cron here; changes nothing."""
    try:
        text = _read()
    except NoCron as error:
        return View(trouble=str(error), running=_running())
    return View(installed=crontab.without_block(text, cluster_id) != text, running=_running())


def install_aside(where: ClusterDir, cluster: str) -> Optional[threading.Thread]:
    """Install in a thread: crontab(1) may take seconds, and who calls this has jobs to see to."""
    if is_off():
        return None
    thread = threading.Thread(target=_install_and_remember, args=(where, cluster), daemon=True)
    thread.start()
    return thread


def _install_and_remember(where: ClusterDir, cluster: str) -> None:
    trouble = ""
    try:
        store = Store.of(where)
        try:
            if install(cluster, store.get("cluster_id")):
                leave_trace(where.ticked)  # from now on it is expected
        except NoCron as error:
            trouble = str(error)
            print("cron: %s" % trouble, file=sys.stderr, flush=True)
        if store.get(TROUBLE) != trouble:
            with store.transaction():
                store.set(TROUBLE, trouble)
        store.close()
    except SkyqError as error:
        print(error, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """One skyq of this account at a time: a crontab is read and then written as a whole."""
    home = os.open(pwd.getpwuid(os.getuid()).pw_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(home, fcntl.LOCK_EX)
        yield
    finally:
        os.close(home)


def _program() -> str:
    chosen = os.environ.get("SKYQ_CRON", "")
    for path in [chosen] if chosen else [os.path.join(folder, "crontab") for folder in _FOLDERS]:
        if os.access(path, os.X_OK):
            return path
    raise NoCron("there is no %s" % (chosen or "crontab command"))


def _read() -> bytes:
    done = _run("-l", b"")
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.decode(errors="replace")
    # Only what surely says that there is none may be taken for an empty one: it will be overwritten.
    if "no crontab for" in said or ("can't open" in said and "No such file" in said):
        return b""
    raise NoCron(_sentence(said) or "`crontab -l` failed with exit code %d" % done.returncode)


def _write(text: bytes) -> None:
    done = _run("-", text)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace")
        raise NoCron(_sentence(said) or "`crontab -` failed with exit code %d" % done.returncode)


def _run(option: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
    env = {"PATH": os.defpath, "HOME": os.environ.get("HOME", "/"), "LC_ALL": "C", "CRONTAB_NOHEADER": "Y"}
    try:
        return subprocess.run(
            [_program(), option], input=text, capture_output=True, env=env, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoCron("`crontab %s` did not end within %d s" % (option, PATIENCE)) from None


def _sentence(said: str) -> str:
    return " ".join(said.split())[:300]


def _running() -> Optional[bool]:
    """Whether a cron daemon runs, by its name among the processes, or by its pid file."""
    for path in _PID_FILES:
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            if os.path.exists("/proc/%d" % int(file.read().split()[0])):
                return True
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open("/proc/%s/comm" % pid) as file:
            if file.read().strip() in _DAEMONS:
                return True
    return False if os.path.exists("/proc/1/comm") else None
