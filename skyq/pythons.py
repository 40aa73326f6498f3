# ruff: noqa: I002, RUF005
"""Finds a Python that can run skyq where the one that started can't. Parses on 2.7, like boot.py."""

import json
import os
import subprocess
import sys
import zipimport

from skyq.folders import platform

NEWEST, OLDEST = 14, 10  # of the 3.x that skyq is built for
ASK = "import sys; print(sys.implementation.cache_tag.rstrip('t') + sys.abiflags.strip('dm'))"


def fitting(tags):
    # type: (list[str] | None) -> tuple[str, str] | None
    """The newest Python on PATH whose tag is among the tags (None: any): its path and its tag."""
    for python in _on_path():
        found = _tag_of(python)
        if found and (tags is None or found in tags):
            return python, found
    return None


def replace_this_one(pyz):
    # type: (str) -> None
    """Start again with a newer Python, if possible one that the file holds libraries for; or say why not."""
    held = json.loads(zipimport.zipimporter(pyz).get_data("deps/index.json").decode())["targets"]
    found = fitting(list(held)) or fitting(None)
    if found:
        become(found[0], pyz)
    sys.exit(
        "skyq: Python %s is too old: skyq needs 3.%d or newer, and PATH has none. Install one, or start skyq "
        "with it by name: python3.12 %s" % (".".join(map(str, sys.version_info[:3])), OLDEST, pyz)
    )


def become(python, program):
    # type: (str, str) -> None
    """Run the same command line under another Python, in place of this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(python, [python, "-I", "-S", program] + sys.argv[1:])


def _on_path():
    # type: () -> list[str]
    """What on PATH is called like a Python, newest names first."""
    names = ["python3.%d" % minor for minor in range(NEWEST, OLDEST - 1, -1)] + ["python3", "python"]
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = [os.path.join(folder, name) for name in names for folder in folders]
    return [python for python in found if os.access(python, os.X_OK)]


def _tag_of(python):
    # type: (str) -> str | None
    """The tag of a Python that is new enough. It's asked: the python3.12 on PATH may be a shim of none."""
    try:
        asked = subprocess.Popen(
            [python, "-I", "-S", "-c", ASK], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError:
        return None
    answer = asked.communicate()[0].decode("ascii", "replace").strip()
    minor = answer.rstrip("t").partition("cpython-3")[2]
    return "%s-%s" % (answer, platform()) if minor.isdigit() and int(minor) >= OLDEST else None
