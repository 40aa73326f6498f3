"""What the head can say of its own health: state, disk, cron, clock, dispatcher. Nothing is changed."""

from __future__ import annotations

import math
import os
import stat
import time

from skyq.core.finding import Finding
from skyq.core.paths import ClusterDir
from skyq.core.words import duration
from skyq.head import cron, wake
from skyq.head.head import Head
from skyq.store.place import file_system, home_root
from skyq.transport.parcel import disk_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

GB = 1024**3
LOW = 1 * GB  # bytes; less makes submits and logs fail soon
LOW_FILES = 1000
CRON_SEEN = 150.0  # seconds since cron's last tick, after which it isn't sure that it still ticks
AHEAD = 60.0  # seconds that a recorded time may lie in the future: machines that share a disk differ a little
LAST_WORDS = 3  # lines of dispatcher.log
FLEETING = ("tmpfs", "ramfs")


def findings(head: Head) -> List[Finding]:
    """Everything that this module looks at, in the order to show it."""
    return [
        state(head),
        disk(head.where),
        use(head.where),
        cron_job(head),
        clock(head),
        dispatcher(head),
    ]


def state(head: Head) -> Finding:
    """Where the queue is: private, on a disk of this machine, and open to submits."""
    where = head.where
    kind = file_system(where.root)
    mode = stat.S_IMODE(os.stat(where.root).st_mode)
    text = "%s (%04o), on %s" % (short(where.root), mode, kind or "an unknown file system")
    if os.environ.get("SKYQ_STATE_DIR"):
        text += ", as SKYQ_STATE_DIR says"
    elif not where.root.startswith(home_root() + os.sep):
        text += "; %s is on %s, which other machines may share" % (
            short(home_root()),
            file_system(home_root()),
        )
    weak = _weak_folder(os.path.realpath(where.root))
    if weak:
        todo = "Take the right to write there from others (chmod o-w %s), or set SKYQ_HOME elsewhere." % weak
        return Finding("state", False, "%s; but others can replace it in %s" % (text, weak), todo)
    if head.is_closed():
        todo = "If no `skyq down` is at work: type `skyq down %s`, and answer no to take it back."
        text += "; it takes no jobs, because of `skyq down`"
        return Finding("state", False, text, todo % head.cluster)
    if kind in FLEETING:
        todo = "Set SKYQ_HOME or SKYQ_STATE_DIR to a folder on a disk."
        return Finding("state", False, "%s, which a reboot empties" % text, todo)
    return Finding("state", True, text)


def _weak_folder(path: str) -> str:
    """The folder on the way to a path in which another account could put its own in place; "" if none."""
    while path != "/":
        found = os.stat(path)
        open_to_all = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if open_to_all or found.st_uid not in (0, os.getuid()):
            return path
        path = os.path.dirname(path)
    return ""


def disk(where: ClusterDir) -> Finding:
    """Room for the queue, the logs and the copies of workdirs."""
    found = os.statvfs(where.root)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    text = "%.1f of %.1f GB free for queue, logs and copies" % (free / GB, total / GB)
    if free < LOW or (found.f_files > 0 and found.f_favail < LOW_FILES):
        if free >= LOW:
            text += ", but only %d more files fit" % found.f_favail
        return Finding("disk", False, text, "Make room: `skyq clean` removes what ended jobs left.")
    return Finding("disk", True, text)


def use(where: ClusterDir) -> Finding:
    """What takes that room."""
    parts = [("logs", where.logs), ("copies of workdirs", where.workdirs), ("run directories", where.runs)]
    words = ["%s %.1f MB" % (name, disk_use(path) / 1024**2) for name, path in parts]
    return Finding("use", True, ", ".join(words) + " (`skyq clean` removes what ended jobs left)")


def cron_job(head: Head) -> Finding:
    """Whether jobs that a reboot interrupts would go on by themselves."""
    if cron.is_off():
        return Finding("cron", True, "switched off by SKYQ_CRON; " + _WITHOUT)
    found = cron.view(head.store.get("cluster_id"))
    trouble = found.trouble or ("" if found.installed else head.store.get(cron.TROUBLE))
    if trouble:
        return Finding("cron", False, "can't be used: %s; %s" % (trouble, _WITHOUT), _todo(trouble))
    seen = _since_tick(head.where)
    if found.running is False and seen > CRON_SEEN:
        todo = "Have it started (root: systemctl enable --now cron), or type any skyq command after a reboot."
        return Finding("cron", False, "no cron runs here; " + _WITHOUT, todo)
    if not found.installed:
        return Finding("cron", True, "not needed yet: asked to tick once work lasts over 5 seconds")
    if seen > CRON_SEEN and time.clock_gettime(time.CLOCK_BOOTTIME) > CRON_SEEN:
        text = "asked to tick every minute, but last did %s ago" % duration(seen)
        todo = "Look again in a minute, then into cron's log (root: journalctl -u cron)."
        return Finding("cron", False, text, todo)
    return Finding("cron", True, "ticks every minute")


_WITHOUT = "after a reboot, what waits starts with the next skyq command"


def _todo(trouble: str) -> str:
    if trouble.startswith("there is no"):
        return "Have cron installed (root: apt install cron), or type any skyq command after a reboot."
    if "not allowed" in trouble:
        return "Ask for cron (root: cron.allow, cron.deny), or type any skyq command after a reboot."
    return "Try `crontab -l` by hand; without it, type any skyq command after a reboot."


def _since_tick(where: ClusterDir) -> float:
    """Seconds since cron was here."""
    try:
        return max(0.0, time.time() - os.stat(where.ticked).st_mtime)
    except OSError:
        return math.inf


def clock(head: Head) -> Finding:
    """Whether the wall clock was set back. No decision depends on it, but people read it."""
    now = time.time()
    for job in head.jobs(None, unfinished=False):
        ahead = max(job.submitted_at, job.started_at or 0.0, job.ended_at or 0.0) - now
        if ahead > AHEAD:
            text = "was set back: job %d is %s in the future; the order of jobs doesn't depend on it"
            return Finding("clock", False, text % (job.id, duration(ahead)), "Check it: timedatectl")
    return Finding("clock", True, time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now)))


def dispatcher(head: Head) -> Finding:
    """Whether somebody works on what is unfinished, and what it last complained of."""
    alive, work = wake.knock(head.where), head.store.has_unfinished()
    said = "".join("\n" + line for line in _last_words(head.where.dispatcher_log))
    if alive:
        return Finding("dispatcher", True, "runs" + (", and said:" + said if said else ""))
    if not work:
        return Finding("dispatcher", True, "none, since there is no work")
    text = "none, though jobs are unfinished" + (". The last one said:" + said if said else "")
    todo = "Any skyq command starts one: skyq queue. If none stays: %s" % head.where.dispatcher_log
    return Finding("dispatcher", False, text, todo)


def _last_words(path: str) -> List[str]:
    """What the last dispatcher and its node agents said, besides hello."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    hello = [number for number, line in enumerate(lines) if ": dispatcher of " in line]
    said = lines[hello[-1] + 1 :] if hello else lines
    return [_plain(line) for line in said[-LAST_WORDS:]]


def _plain(line: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in line[:200])


def short(path: str) -> str:
    """With ~ for the home folder."""
    home = os.path.expanduser("~")
    return "~" + path[len(home) :] if path.startswith(home + os.sep) else path
