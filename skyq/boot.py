# ruff: noqa: I002
"""Where skyq.pyz starts: finds its own code unpacked, and hands over to it.

build_zipapp.py makes this file the `__main__.py` of skyq.pyz. A zip's main module is compiled anew at each
start, so it is small and imports nothing; what only a first start needs is in unpack.py. It parses on every
Python since 2.7, which is why types are comments here: an old one shall read a sentence, not a SyntaxError.
"""

import os
import stat
import sys

CODE = ""  # filled in by build_zipapp.py: the id of the code in the file, and the name of its folder


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


def run():
    # type: () -> None
    """Start skyq from its unpacked code, which is unpacked now if this is the first start."""
    pyz = os.path.abspath(os.path.dirname(__file__))
    if sys.version_info < (3, 10):
        from skyq import pythons

        pythons.replace_this_one(pyz)
    for place in places():
        root = os.path.join(place, CODE)
        if mine(root) and mine(place):
            break
    else:
        from skyq import unpack

        root = unpack.code(pyz, CODE)
        # What was imported so far came from the zip, which may be replaced while this process lives.
        for name in [name for name in sys.modules if name.partition(".")[0] == "skyq"]:
            del sys.modules[name]
    sys.path[0] = root
    keep_compiled()
    from skyq import entry

    entry.start(pyz)


if __name__ == "__main__":
    run()
