"""The environment that every script starts from: fixed, whoever started the dispatcher, cron or a shell.

What `ssh host env` would show of the account, no more.
"""

from __future__ import annotations

import os
import pwd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def base_env() -> Dict[str, str]:
    """HOME USER LOGNAME SHELL LANG PATH."""
    account = pwd.getpwuid(os.getuid())
    machine = _assignments("/etc/environment")
    return {
        "HOME": os.environ.get("HOME") or account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/bash",
        "LANG": _assignments("/etc/default/locale").get("LANG", machine.get("LANG", "C.UTF-8")),
        "PATH": machine.get("PATH", DEFAULT_PATH),
    }


def bash() -> str:
    """Where bash is; "" if it isn't."""
    for folder in DEFAULT_PATH.split(":") + os.environ.get("PATH", "").split(":"):
        if os.access(os.path.join(folder, "bash"), os.X_OK):
            return os.path.join(folder, "bash")
    return ""


def _assignments(path: str) -> Dict[str, str]:
    """NAME=value lines as pam_env reads them; a missing file has none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
