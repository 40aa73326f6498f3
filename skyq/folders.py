# ruff: noqa: I002
"""Where unpacked code may lie, and which Python and platform it is for.

The top of skyq.pyz's main module: build_zipapp.py puts this file into boot.py, see there. It parses on
every Python since 2.7.
"""

import os
import stat
import sys


def places():
    # type: () -> list[str]
    """Where unpacked folders may lie, best first; the first is skyq.core.paths.Home.app."""
    home = os.environ.get("SKYQ_HOME") or os.path.expanduser("~/.skyq")
    cache = os.environ.get("XDG_CACHE_HOME", "")
    user = "skyq-%d" % os.geteuid()
    found = [os.path.join(home, "app"), os.path.join(cache, "skyq")]
    return [place for place in found if os.path.isabs(place)] + ["/var/tmp/" + user, "/tmp/" + user]


def mine(path):
    # type: (str) -> os.stat_result | None
    """What stat says of a folder that only this user can have filled, or None: code comes from no other."""
    try:
        seen = os.lstat(path)
        if stat.S_ISLNK(seen.st_mode) and seen.st_uid == os.geteuid():
            seen = os.stat(path)
    except OSError:
        return None
    safe = stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() and not seen.st_mode & 0o022
    return seen if safe else None


def platform():
    # type: () -> str
    """What a compiled library is built for besides the Python: linux-x86_64, darwin-arm64."""
    machine = os.uname()[4]
    if "musl" in getattr(getattr(sys, "implementation", None), "_multiarch", ""):
        machine += "-musl"
    if sys.maxsize < 2**32:
        machine += "-32"
    return "%s-%s" % (sys.platform.rstrip("23"), machine)


def tag():
    # type: () -> str
    """The Python and platform that runs this, as build_zipapp.py names them: cpython-311-linux-x86_64."""
    free_threaded = "t" if "t" in sys.abiflags else ""
    return "%s%s-%s" % ((sys.implementation.cache_tag or "").rstrip("t"), free_threaded, platform())


def keep_compiled():
    # type: () -> None
    """Have Python keep what it compiles. The environment may forbid that; it means the user's own folders."""
    sys.dont_write_bytecode = False
    sys.pycache_prefix = None
