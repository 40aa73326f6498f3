"""This program itself: what it may import, and how it is started again.

From skyq.pyz and from the unpacked folder, it sees its own code, the libraries that skyq.pyz carries, and
the standard library: neither site-packages nor PYTHONPATH, so that what runs is what was built. Standard
library and Python 3.8 only: nodes start here too.
"""

from __future__ import annotations

import os
import sys
import time

from skyq import folders

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself costs milliseconds of each start
    from typing import Any

DEPS = ""  # filled in by build_zipapp.py: the id of the libraries; empty in a source checkout
LIBRARIES = frozenset(
    ["yaml", "pydantic", "pydantic_core", "filelock", "fabric", "paramiko", "invoke", "pathspec"]
)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, "skyq", "__main__.py")
DAY = 86400  # seconds

_archive = ""  # the skyq.pyz that this process was started from, if it was
_ready = not DEPS  # whether the libraries can be imported


def begin(pyz: str) -> None:
    """Before anything else is imported: see only what was built. `pyz`: the file this came from, or ""."""
    global _archive
    _archive = pyz
    if DEPS:
        _use_only_what_was_built()


def argv() -> list[str]:
    """What starts this very program again, whatever becomes of skyq.pyz: for what outlives a command.

    Raises SkyqError where the libraries can't be had: the process would fail on them unseen.
    """
    if not DEPS:
        return [sys.executable, SCRIPT]
    python = sys.executable
    if not _unpacked(folders.tag()):
        from skyq import unpack

        try:
            unpack.libraries(archive(), DEPS, folders.tag())
        except unpack.NotHeld as error:
            python, its_tag = _fitting_python(error)
            if not _unpacked(its_tag):
                unpack.libraries(archive(), DEPS, its_tag)
    return [python, *bare_argv()[1:]]


def bare_argv() -> list[str]:
    """The same for a program that needs no libraries."""
    if not DEPS:
        return [sys.executable, SCRIPT]
    return [sys.executable, "-I", "-S", SCRIPT if os.path.exists(SCRIPT) else ROOT]


def need_libraries() -> None:
    """Have the libraries importable. Importing one does this too; call it before what can't be done twice.

    Where skyq.pyz holds none for this Python but for another one on PATH, the command line starts again under
    that one: standard input that was read before is lost then.
    """
    global _ready
    if _ready:
        return
    from skyq import unpack

    try:
        sys.path.append(unpack.libraries(archive(), DEPS, folders.tag()))
    except unpack.NotHeld as error:
        from skyq import pythons

        pythons.become(_fitting_python(error)[0], _archive or SCRIPT)
    _ready = True


def mended() -> str:
    """After an ImportError: put back what somebody has deleted of the unpacked folders; "": nothing was, else
    the sentence to leave with. Cleaners of /var/tmp do that, and an `rm -r` that was interrupted.
    """
    pyz, libraries = archive(), _unpacked(folders.tag())
    if not DEPS or os.path.isfile(ROOT):
        return ""
    own = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "skyq"}
    for name in own:
        del sys.modules[name]
    sys.path.insert(0, pyz)  # what puts it back may have been deleted, too
    back: list[str] = []
    try:
        from skyq import unpack

        unpack.code(pyz, os.path.basename(ROOT), back)
        if libraries:
            unpack.libraries(pyz, DEPS, folders.tag(), back)
    except (Exception, SystemExit):
        pass  # the file has gone, or is another one: the ImportError tells what lacks
    finally:
        sys.path.remove(pyz)
        sys.modules.update(own)
    return "skyq: files of it were deleted in %s. They are back: try again." % ROOT if back else ""


class _Libraries:
    """The last finder on sys.meta_path where the libraries weren't unpacked at the start: unpacks them."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        """Find one of the libraries, in the folder that is made for it."""
        if name not in LIBRARIES:
            return None
        need_libraries()
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, path, target)


def _use_only_what_was_built() -> None:
    """Set sys.path to own code, the standard library and, once they are unpacked, the libraries."""
    global _ready
    standard = os.path.dirname(os.__file__)
    archive = "python%d%d.zip" % sys.version_info[:2]
    sys.path[:] = [ROOT] + [
        path for path in sys.path if path == standard or os.path.basename(path) in ("lib-dynload", archive)
    ]
    _keep(ROOT)
    libraries = _unpacked(folders.tag())
    if libraries:
        sys.path.append(libraries)
        _keep(libraries)
        _ready = True
    else:
        sys.meta_path.append(_Libraries)


def _unpacked(tag: str) -> str:
    """The folder with the libraries for a Python, or '' where there is none yet."""
    name = DEPS + "-" + tag
    for place in [os.path.dirname(ROOT), *folders.places()]:
        folder = os.path.join(place, name)
        if folders.mine(folder) and folders.mine(place):
            return folder
    return ""


def _keep(folder: str) -> None:
    """Mark a folder as used today: unpack.py collects those that nobody starts from any more."""
    try:
        if time.time() - os.stat(folder).st_mtime > DAY and os.path.isdir(folder):
            os.utime(folder)
    except OSError:
        pass  # a read-only place is never collected either


def archive() -> str:
    """The skyq.pyz that the libraries can come from: this process's, or the one its folder came from."""
    if _archive:
        return _archive
    try:
        with open(os.path.join(ROOT, "unpacked-from")) as note:
            return note.read()
    except OSError:
        return ROOT


def _fitting_python(error: Any) -> tuple[str, str]:
    """A Python on PATH that the file holds libraries for, with its tag; or SkyqError."""
    from skyq import pythons
    from skyq.core.errors import SkyqError

    found = pythons.fitting(error.held)
    if not found:
        raise SkyqError(str(error)) from None
    return found
