"""The launcher: a small script by whose name cron starts skyq, whichever version is in use.

What it starts lies in a folder that is named by its content: an upgrade makes another one, and old ones are
collected. The launcher's name stays, and where its folder is gone it takes the newest that is there.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex

from skyq import __version__, folders, program
from skyq.core.paths import Home
from skyq.core.versions import order
from skyq.store.place import home_root, private_folders
from skyq.transport.aside import sweep, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Sequence

_NEEDED = ("SKYQ_STATE_DIR", "SKYQ_CLAIM_DIR", "SKYQ_CRON")

_SCRIPT = """\
#!/bin/sh
# What cron and the heads of clusters start of skyq. Written by skyq %(version)s: a newer one replaces it.
%(exports)spython=%(python)s
main=%(main)s
[ -x "$python" ] || python=python3
%(fallbacks)sexec "$python" %(options)s "$main" "$@"
"""
_FALLBACKS = """\
if %(safe)s; then
    [ -e "$main" ] || main=$(ls -td %(place)s/*/skyq/__main__.py 2>/dev/null | head -n 1)
    [ -e "$main" ] || main=%(pyz)s
else  # another account's folder lies in its place
    main=%(pyz)s
fi
"""


def text(argv: Sequence[str], exports: Dict[str, str], pyz: str) -> str:
    """The script that starts `argv` (python, options, what to run) with its own words after it.

    Where what to run is gone, the newest of those beside it is taken, else the file that all came from.
    """
    place, fallbacks = os.path.dirname(os.path.dirname(os.path.dirname(argv[-1]))), ""
    if program.DEPS and argv[-1] == program.SCRIPT:
        quoted = shlex.quote(place)
        in_public = place in folders.places()[-2:]  # /tmp and its like: emptied some day, and then anybody's
        fallbacks = _FALLBACKS % {
            "safe": "[ -O %s ]" % quoted + (" && [ ! -L %s ]" % quoted if in_public else ""),
            "place": quoted,
            "pyz": shlex.quote(pyz),
        }
    return _SCRIPT % {
        "version": __version__,
        "exports": "".join("export %s=%s\n" % (n, shlex.quote(v)) for n, v in sorted(exports.items())),
        "python": shlex.quote(argv[0]),
        "main": shlex.quote(argv[-1]),
        "fallbacks": fallbacks,
        "options": " ".join(argv[1:-1]),
    }


def write(libraries: bool = True) -> str:
    """Let the launcher start this very program; its path. Raises OSError, or SkyqError without libraries.

    A worker needs no `libraries`, and has none. Where it starts a newer skyq that is there, it stays: who is
    older here is a dispatcher that was upgraded under its feet, say, and shall not undo that.
    """
    home = Home(home_root())
    if _starts_newer(_read(home.launcher)):
        return home.launcher
    argv = program.argv() if libraries else program.bare_argv()
    wanted = os.fsencode(text(argv, environment(), program.archive()))
    if _read(home.launcher) == wanted:
        sweep(home.launcher)
        return home.launcher
    private_folders(os.path.dirname(home.launcher))
    write_whole(home.launcher, wanted, 0o700)
    return home.launcher


def _starts_newer(script: bytes) -> bool:
    version = re.search(rb"^# .* Written by skyq ([\d.]+): ", script, re.MULTILINE)
    main = re.search(rb"^main=(.*)$", script, re.MULTILINE)
    if not version or not main or order(version[1].decode()) <= order(__version__):
        return False
    return all(map(os.path.exists, shlex.split(os.fsdecode(main[1]))))


def remove() -> None:
    """No cluster needs it any more."""
    home = Home(home_root())
    for name in (home.launcher, os.path.dirname(home.launcher)):
        try:
            os.rmdir(name) if os.path.isdir(name) else os.unlink(name)
        except OSError:
            pass  # it isn't there; or the folder holds something of the user's


def environment() -> Dict[str, str]:
    """What cron's environment lacks to find the same queue, and to be the same person there."""
    account = pwd.getpwuid(os.getuid()).pw_dir
    found = {name: os.environ[name] for name in _NEEDED if os.environ.get(name)}
    if os.environ.get("HOME", account) != account:
        found["HOME"] = os.environ["HOME"]
    if home_root() != os.path.join(found.get("HOME", account), ".skyq"):
        found["SKYQ_HOME"] = home_root()
    return found


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
