"""The files that go along with a job: its workdir, and at `launch` its file_mounts."""

from __future__ import annotations

import os
import shutil
import sys

from skyq.cli.parser import confirm
from skyq.cli.progress import Progress, size_text
from skyq.cli.render import Style
from skyq.cli.taskargs import warn
from skyq.client.files import Entry, Listing, list_files
from skyq.core.errors import SkyqError, StoreError, TaskError
from skyq.core.logtext import plain
from skyq.core.model import Git, Task
from skyq.head import workdirs
from skyq.head.head import Head

SHOW_ABOVE = 256 * 1024**2  # bytes
ASK_ABOVE = 10 * 1024**3  # bytes
SPARE = 64 * 1024**2  # bytes that must stay free on the state's disk


def prepare(head: Head, task: Task, uuid: str, yes: bool) -> workdirs.Copy:
    """The job's own folder, whole, for a task that brings files.

    Raises TaskError for what can't be read, StoreError when there is no room; then nothing is left.
    """
    style = Style.of(sys.stdout.isatty(), os.environ)
    print(style.started("Syncing files."))
    sources: list[tuple[str, Listing]] = []  # (where below the copy, what)
    if task.workdir is not None:
        sources.append(("", _workdir(task.workdir)))
        print("  Syncing workdir (to %d node%s): %s -> ~/sky_workdir" % (*_nodes(head), plain(task.workdir)))
    if task.git is not None:
        where = task.git.url.rpartition("@")[2] + (" (%s)" % task.git.ref if task.git.ref else "")
        print("  Syncing workdir (to %d node%s): %s -> ~/sky_workdir" % (*_nodes(head), plain(where)))
    inside = [target for target in task.file_mounts if not _is_outside(target)]
    sources += [(_below(target), _mount(task.file_mounts[target])) for target in inside]
    mounts = {
        os.path.abspath(os.path.expanduser(target)): _mount(source)
        for target, source in task.file_mounts.items()
        if _is_outside(target)
    }
    for target in mounts:
        workdirs.check_mount(head.where, target)
    _check_size(head, [*(listing for _, listing in sources), *mounts.values()], yes)
    copy = _copy(head, uuid, task.git, sources, mounts)
    print(
        style.finished(
            "Synced file_mounts." if task.workdir is None and task.git is None else "Synced workdir."
        )
    )
    return copy


def _nodes(head: Head) -> tuple[int, str]:
    count = len(head.nodes())
    return count, "" if count == 1 else "s"


def _workdir(given: str) -> Listing:
    path = os.path.realpath(os.path.expanduser(given))
    if not os.path.isdir(path):
        raise TaskError(
            "Workdir must be a valid directory (or a symlink to one): %s. Create it, or name another."
            % plain(given)
        )
    return _listed(path)


def _listed(path: str) -> Listing:
    listing = list_files(path)
    if listing.left_out:
        first = ", ".join(plain(name) for name in listing.left_out[:3])
        warn("not copied, because neither file, folder nor link: %s" % first)
    return listing


def _copy(
    head: Head, uuid: str, git: Git | None, sources: list[tuple[str, Listing]], mounts: dict[str, Listing]
) -> workdirs.Copy:
    base = workdirs.adopt(head.where)
    listings = [*(listing for _, listing in sources), *mounts.values()]
    progress = Progress(sum(listing.size for listing in listings))
    try:
        with workdirs.Copy(head.where, uuid) as copy:
            if git is not None:
                copy.fetch(git.url, git.ref)
            for below, listing in sources:
                copy.fill((listing.root, listing.entries), below, progress)
            copy.keep(base)
        for number, (target, listing) in enumerate(mounts.items()):
            with workdirs.Copy(head.where, "%s-mount-%d" % (uuid, number)) as mount:
                mount.fill((listing.root, listing.entries), workdirs.MOUNT, progress)
                mount.keep("", target)
                mount.show_at(target)
    except OSError as error:
        raise StoreError(
            "The job's copy of its files can't be made: %s: %s. Nothing was submitted."
            % (error.filename or head.where.workdirs, error.strerror)
        ) from None
    finally:
        progress.end()
    return copy


def _check_size(head: Head, listings: list[Listing], yes: bool) -> None:
    size = sum(listing.size for listing in listings)
    if size > SHOW_ABOVE:
        largest = [pair for listing in listings for pair in listing.largest(5)]
        lines = ["    %s  %s" % (size_text(weight), plain(name)) for name, weight in largest]
        print(
            "  %s in %d files; the largest:" % (size_text(size), sum(len(each.entries) for each in listings))
        )
        print("\n".join(lines) + "\n  Name what isn't needed in .skyignore or .gitignore.")
    free = shutil.disk_usage(head.where.root).free
    if size + SPARE > free:
        raise StoreError(
            "No room for the job's copy of its files: %s needed, %s free under %s. Nothing was submitted.\n"
            "Leave files out by .skyignore, or make room: skyq clean."
            % (size_text(size), size_text(free), head.where.root)
        )
    if size > ASK_ABOVE and not yes and not confirm("Copy %s for this job?" % size_text(size), default=False):
        raise SkyqError("Aborted!")


# file_mounts.


def _is_outside(target: str) -> bool:
    return target.startswith(("/", "~"))


def _below(target: str) -> str:
    """A file_mount below the workdir is part of the job's own copy."""
    path = os.path.normpath(target)
    if path.startswith("..") or path == ".":
        raise TaskError("file_mounts: %s leads out of the workdir. Name a path below it." % plain(target))
    return path


def _mount(source: str) -> Listing:
    path = os.path.realpath(os.path.expanduser(source))
    if os.path.isdir(path):
        return _listed(path)
    try:
        seen = os.stat(path)
    except OSError:
        raise TaskError(
            "File mount source '%s' does not exist locally. Create it, or remove it." % plain(source)
        ) from None
    return Listing(path, (Entry("", seen.st_mode, seen.st_size, seen.st_mtime_ns),), ())
