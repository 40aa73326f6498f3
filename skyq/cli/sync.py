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
from skyq.transport.parcel import MOUNT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head import workdirs
    from skyq.head.head import Head

SHOW_ABOVE = 256 * 1024**2  # bytes
ASK_ABOVE = 10 * 1024**3  # bytes
SPARE = 64 * 1024**2  # bytes that must stay free on the state's disk


def prepare(head: Head, task: Task, uuid: str, yes: bool) -> workdirs.Copy:
    """The job's own folder, whole, for a task that brings files.

    Raises TaskError for what can't be read, StoreError when there is no room; then nothing is left.
    """
    from skyq.head import workdirs

    style = Style.of(sys.stdout.isatty(), os.environ)
    print(style.started("Syncing files."))
    sources: list[tuple[str, Listing]] = []  # (where below the copy, what)
    if task.workdir is not None:
        sources.append(("", workdir_listing(task.workdir)))
        print(
            "  Syncing workdir (to %d node%s): %s -> ~/sky_workdir" % (*nodes_text(head), plain(task.workdir))
        )
    if task.git is not None:
        where = task.git.url.rpartition("@")[2] + (" (%s)" % task.git.ref if task.git.ref else "")
        print("  Syncing workdir (to %d node%s): %s -> ~/sky_workdir" % (*nodes_text(head), plain(where)))
    inside = [target for target in task.file_mounts if not is_outside(target)]
    sources += [(below(target), mount_listing(task.file_mounts[target])) for target in inside]
    mounts = {
        outside(target): mount_listing(source)
        for target, source in task.file_mounts.items()
        if is_outside(target)
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


def not_made(head: Head, error: OSError) -> StoreError:
    """What went wrong, in a sentence."""
    return StoreError(
        "The job's copy of its files can't be made: %s: %s. Nothing was submitted."
        % (error.filename or head.where.workdirs, error.strerror)
    )


def nodes_text(head: Head) -> tuple[int, str]:
    """For "to %d node%s"."""
    count = len(head.nodes())
    return count, "" if count == 1 else "s"


def workdir_listing(given: str) -> Listing:
    """What a workdir brings. TaskError where it is none."""
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
    from skyq.head import workdirs

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
                mount.fill((listing.root, listing.entries), MOUNT, progress)
                mount.keep("", target)
                mount.show_at(target)
    except OSError as error:
        raise not_made(head, error) from None
    finally:
        progress.end()
    return copy


def _check_size(head: Head, listings: list[Listing], yes: bool) -> None:
    tell_size(listings)
    check_room(head, sum(listing.size for listing in listings))
    ask_about_size(listings, yes)


def tell_size(listings: list[Listing]) -> None:
    """What is large is said before it is copied."""
    size = sum(listing.size for listing in listings)
    if size > SHOW_ABOVE:
        largest = [pair for listing in listings for pair in listing.largest(5)]
        lines = ["    %s  %s" % (size_text(weight), plain(name)) for name, weight in largest]
        print(
            "  %s in %d files; the largest:" % (size_text(size), sum(len(each.entries) for each in listings))
        )
        print("\n".join(lines) + "\n  Name what isn't needed in .skyignore or .gitignore.")


def ask_about_size(listings: list[Listing], yes: bool) -> None:
    """What is very large is asked about. SkyqError unless the answer is yes."""
    size = sum(listing.size for listing in listings)
    if size > ASK_ABOVE and not yes and not confirm("Copy %s for this job?" % size_text(size), default=False):
        raise SkyqError("Aborted!")


def check_room(head: Head, size: int) -> None:
    """StoreError where the state's disk has none; what broken connections left gives way first."""
    free = shutil.disk_usage(head.where.root).free
    if size + SPARE > free and os.path.isdir(head.where.workdirs):
        from skyq.head import workdirs

        workdirs.collect_parts(head.where.workdirs)
        free = shutil.disk_usage(head.where.root).free
    if size + SPARE > free:
        raise StoreError(
            "No room for the job's copy of its files: %s needed, %s free under %s. Nothing was submitted.\n"
            "Leave files out by .skyignore, or make room: skyq clean."
            % (size_text(size), size_text(free), head.where.root)
        )


# file_mounts.


def is_outside(target: str) -> bool:
    """Whether a file_mount is beside the job's folder, not in it."""
    return target.startswith(("/", "~"))


def outside(target: str) -> str:
    """Where it is on this machine."""
    return os.path.abspath(os.path.expanduser(target))


def below(target: str) -> str:
    """A file_mount below the workdir is part of the job's own copy."""
    path = os.path.normpath(target)
    if path.startswith("..") or path == ".":
        raise TaskError("file_mounts: %s leads out of the workdir. Name a path below it." % plain(target))
    return path


def mount_listing(source: str) -> Listing:
    """What a file_mount brings. TaskError where that isn't there."""
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
