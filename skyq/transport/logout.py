"""Out of a login, into a scope of the user's own manager, if that lingers: where it outlives the login, and
where cgroups may be made.

With KillUserProcesses=yes all of a login's scope is killed at its end, whatever forked or called setsid. And
the cgroup of a login is root's. Standard library of Python 3.8.
"""

from __future__ import annotations

import os
import pwd
import subprocess

from skyq.transport import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional

PATIENCE = 5.0  # seconds for systemd to answer
KILLS = "the end of a login kills all that it started, jobs too (KillUserProcesses=yes in logind.conf)"
LINGERING = "/var/lib/systemd/linger"
"""A folder with a file for each account that does."""
_FOLDERS = "/usr/local/bin:/usr/bin:/bin"


def escape(argv: List[str], env: Dict[str, str]) -> List[str]:
    """A command line that starts `argv` outside of this login; the same where that isn't needed, or can't be.

    `env` is what it will be started with; it gets what is needed for that.
    """
    if not (kills() or _may_delegate()) or _lacking():
        return argv
    env["XDG_RUNTIME_DIR"] = _runtime_dir()
    env.pop("XDG_SESSION_ID", None)
    return [*_scope(), *argv]


def todo() -> str:
    """What to do where jobs would end together with this login, since it KILLS; "" where they wouldn't."""
    return _lacking() if kills() else ""


def delegates() -> bool:
    """Whether what escapes this login may make cgroups, and what stays in it may not."""
    return bool(os.environ.get("XDG_SESSION_ID")) and _may_delegate() and not _lacking()


def to_delegate() -> str:
    """What to do for cgroups, for an account that may make none; "" where nothing is to be done."""
    has_manager = os.path.exists(os.path.join(_runtime_dir(), "bus"))
    if not (os.getuid() and cgroup.own() and has_manager) or _lingers():
        return ""
    words = "For cgroup v2 from the next dispatcher on, type there: loginctl enable-linger (root: %s %s)"
    return words % ("loginctl enable-linger", _account())


def _may_delegate() -> bool:
    """Cheaply: a lingering user's manager has a cgroup of its own, where this process's is root's."""
    own = cgroup.own()
    return bool(own) and _lingers() and not os.access(own, os.W_OK)


def _lingers() -> bool:
    return os.path.exists(os.path.join(LINGERING, _account()))


def kills() -> bool:
    """Whether this process is of a login whose end is its own."""
    if not os.environ.get("XDG_SESSION_ID"):
        return False
    names = ("KillUserProcesses", "KillOnlyUsers", "KillExcludeUsers")
    found = _properties("show-session", *names)
    account = _account()
    only, excluded = found.get(names[1], "").split(), found.get(names[2], "").split()
    return found.get(names[0]) == "yes" and account not in excluded and (not only or account in only)


def _lacking() -> str:
    """What to do for a scope of this user's to outlive the login; "" if it would."""
    if _properties("show-user", "Linger", of=str(os.getuid())).get("Linger") != "yes":
        return (
            "Type there: loginctl enable-linger (or have root type: loginctl enable-linger %s)." % _account()
        )
    done = _run([*_scope(), "true"])
    if done is None or done.returncode:
        return "Mend there: systemd-run --user --scope true. Or have KillUserProcesses set to no."
    return ""


def _account() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _scope() -> List[str]:
    return [_program("systemd-run"), "--user", "--scope", "--property=Delegate=yes", "--quiet", "--"]


def _properties(verb: str, *names: str, of: str = "") -> Dict[str, str]:
    """What loginctl tells; nothing where there is no systemd."""
    options = [word for name in names for word in ("-p", name)]
    done = _run([_program("loginctl"), verb, *([of] if of else []), *options])
    lines = done.stdout.decode(errors="replace").splitlines() if done and not done.returncode else []
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _program(name: str) -> str:
    paths = [os.path.join(folder, name) for folder in _FOLDERS.split(":")]
    return next((path for path in paths if os.access(path, os.X_OK)), name)


def _run(words: List[str]) -> Optional[subprocess.CompletedProcess[bytes]]:
    env = {"PATH": _FOLDERS, "LC_ALL": "C", "XDG_RUNTIME_DIR": _runtime_dir()}
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _runtime_dir() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or "/run/user/%d" % os.getuid()
