"""Another account of this machine, and a place that all accounts share."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another account")


def as_nobody(what: Callable[[], str]) -> str:
    """What a function returns in a process of another account."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(into, what().encode())
        except BaseException:
            os.write(into, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(into)
    os.waitpid(pid, 0)
    with open(out, encoding="utf-8") as file:
        return file.read()


def let_others_in(folder: Path) -> None:
    """What makes a folder of a test private is its own mode, not that of those above it."""
    for each in (folder, *folder.parents):
        if each.stat().st_uid == os.getuid() and len(each.parts) > 2:
            each.chmod(each.stat().st_mode | 0o011)


def sticky(folder: Path) -> Path:
    """A folder like /var/tmp."""
    let_others_in(folder)
    place = folder / "shared"
    place.mkdir()
    place.chmod(0o1777)
    return place
