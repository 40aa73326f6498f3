"""The folders that jobs run in, on this machine.

A job with a workdir has its own writable copy, made at submit: a queued job keeps the files of its
submission. `~/sky_workdir` is a link to the copy that was made last, so that a job without a workdir
runs in what the last launch left, setup's files included. A new copy shows, by links, what jobs added
to the one before it (a .venv): it was there for SkyPilot's jobs, and copying it would take minutes.

A copy is made aside and renamed when it is whole: a killed copy is never anybody's folder. What a broken
connection left of one stays for a day, so that the next try need not bring it again.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time

from skyq.core.errors import StoreError, TaskError
from skyq.core.paths import ClusterDir
from skyq.core.typed import Protocol
from skyq.store.place import make_private
from skyq.transport.parcel import (
    MOUNT,
    PART,
    Parcel,
    clone,
    grew,
    remove_tree,
    rests_for,
    show_additions,
    turn_link,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple, TypeAlias

JUST_BEGUN = 60.0  # seconds


class Item(Protocol):
    """One file, folder or link to copy (client.files.Entry)."""

    @property
    def path(self) -> str:
        """Relative."""

    @property
    def mode(self) -> int:
        """With the type."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def mtime_ns(self) -> int:
        """Kept in the copy."""


_NOTHING: Dict[str, Any] = {"shows": [], "paths": [], "whole": [], "files": {}, "shown_at": ""}
FORMER = "before-the-first-copy"
"""The name of the folder that `~/sky_workdir` was."""

Source: TypeAlias = "Tuple[str, Iterable[Item]]"
"""(root, what of it)"""


class Copy:
    """A job's folder while it is being made. Use as a context: what wasn't kept is removed.

    Only what came of a parcel stays when its connection breaks. The same one may come again while this
    process still waits for more: whoever is first to have all keeps it.
    """

    def __init__(self, where: ClusterDir, uuid: str) -> None:
        self.path = where.workdir(uuid)
        self.part = "%s.%s%s" % (self.path, os.urandom(4).hex(), PART)
        self.sent: Set[str] = set()
        """What came from the workdir itself, not from a file_mount."""
        self.files: Dict[str, List[int]] = {}
        """Size and time of what came as files, so that they needn't come again."""
        self._lock = -1
        self._fetched = False
        self._parcel: Optional[Parcel] = None
        self._came: Optional[Set[str]] = None
        """All that is in it, where that is known without looking."""
        self._rests: Dict[str, int] = {}
        """What may be gone on with, and its lock; -1: another process has it, for this same copy."""

    def __enter__(self) -> Copy:
        make_private(os.path.dirname(self.path))
        collect_parts(os.path.dirname(self.path), rests_for())
        os.mkdir(self.part, 0o700)
        self._lock = os.open(self.part, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # who collects garbage sees that it isn't any
        return self

    def __exit__(self, kind: Optional[type], *_: object) -> None:
        if self._parcel is not None:
            self._parcel.abandon()
        broken = kind is not None and not issubclass(kind, Exception)
        if self._parcel is None or not broken:
            remove_tree(self.part)
        os.close(self._lock)
        # Asked only now: who made the copy whole looks for what others hold of it after that.
        if broken and os.path.isdir(self.path):
            remove_tree(self.part)
        for rest, lock in self._rests.items():
            done = kind is None and self._parcel is not None and rest in self._parcel.used
            if done and lock < 0:
                lock = _lock_of(rest)  # its process may have ended meanwhile
            if lock >= 0:
                if done:
                    remove_tree(rest)
                os.close(lock)

    def fill(self, source: Source, below: str, progress: Callable[[int], None]) -> None:
        """Copy a folder's items below a folder of the copy; an item without a path is the root itself.

        What came before gives way, as with rsync. Raises TaskError, StoreError, OSError.
        """
        root, items = source
        target = os.path.join(self.part, below)
        self._make_way(os.path.dirname(target) if below else self.part)
        folders: List[Tuple[str, Item]] = []
        for item in items:
            if not below:
                self.sent.add(item.path)
            into = _join(target, item.path)
            if stat.S_ISDIR(item.mode):
                self._make_way(into)
                folders.append((into, item))
                continue
            self._make_way(os.path.dirname(into))
            if os.path.lexists(into):
                os.unlink(into)
            copy_one(_join(root, item.path), into, item, progress)
            if stat.S_ISREG(item.mode):
                self.files[_join(below, item.path) if below else item.path] = [item.size, item.mtime_ns]
        for into, item in reversed(folders):
            os.chmod(into, stat.S_IMODE(item.mode) & 0o777 | stat.S_IRWXU)
            os.utime(into, ns=(item.mtime_ns, item.mtime_ns))

    def parcel(self, base: str) -> Parcel:
        """For what comes from another machine; `base`: the copy before it, or ""."""
        if os.path.isdir(self.path):
            base = self.path  # all came, and then the connection broke
        known = read_manifest(base)["files"] if base else {}
        self._find_rests()
        self._parcel = Parcel(self.part, base, known, list(self._rests))
        return self._parcel

    def _find_rests(self) -> None:
        """What was left of this copy, and of others of its kind: other jobs' with this workdir, maybe."""
        folder, own = os.path.split(self.path)
        kind = own.partition("-")[2]
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            copy = name.split(".")[0]
            if not name.endswith(PART) or path == self.part or copy.partition("-")[2] != kind:
                continue
            lock = _lock_of(path)
            if lock >= 0 or copy == own:
                self._rests[path] = lock

    def take(self, parcel: Parcel, own: int) -> None:
        """It has come; its first `own` items are the workdir's own. Raises OSError, ProtocolError."""
        parcel.finish()
        self.sent |= {item.path for item in parcel.items[:own]}
        self.files.update(parcel.record())
        if not self._fetched:
            self._came = _with_folders(item.path for item in parcel.items)

    def fetch(self, url: str, ref: str) -> None:
        """Fill it from a git repository, and from nowhere else. Raises TaskError with what git said."""
        _git(["init", "-q", self.part])
        _git(["-C", self.part, "remote", "add", "origin", url])
        wanted = ref or "HEAD"
        try:
            _git(["-C", self.part, "fetch", "-q", "--depth", "1", "origin", wanted])
        except TaskError:
            # Some servers give single commits by name only to who has the branches.
            _git(["-C", self.part, "fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"])
            try:
                _git(["-C", self.part, "checkout", "-q", "--detach", wanted, "--"])
            except TaskError:
                raise TaskError("The repository has no branch, tag or commit '%s'." % wanted) from None
        else:
            _git(["-C", self.part, "checkout", "-q", "--detach", "FETCH_HEAD"])
        self.sent |= _tree(self.part)
        self._fetched = True

    def _make_way(self, folder: str) -> None:
        """A real folder of the copy, never one that a link leads out to."""
        if os.path.realpath(folder) != os.path.realpath(self.part) + folder[len(self.part) :]:
            raise TaskError(
                "file_mounts: %s lies behind a link of the workdir." % folder[len(self.part) + 1 :]
            )
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def keep(self, base: str, target: str = "") -> str:
        """It is whole: make it the job's folder. Returns its path.

        `base`: the copy before it, or "". `target`: where it will be shown, for a file_mount.
        """
        whole = _tree(self.part) if self._came is None else self._came
        shows = show_additions(base, self.part, whole, set(read_manifest(base)["paths"])) if base else set()
        record: Dict[str, Any] = {"shows": sorted(shows), "paths": sorted(self.sent), "shown_at": target}
        record["whole"] = sorted(whole)  # what workers get of it
        record["files"] = self.files
        with open(manifest(self.path), "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(record, file)
        if self._parcel is not None:
            self._parcel.settle()
        try:
            os.rename(self.part, self.path)
        except OSError:
            if not os.path.isdir(self.path):
                raise  # else another connection was faster, with the same
        return self.path

    def show_at(self, target: str) -> None:
        """Let a path outside, see check_mount(), be what this copy holds as MOUNT."""
        os.makedirs(os.path.dirname(target), exist_ok=True)
        turn_link(target, os.path.join(self.path, MOUNT))

    def discard(self) -> None:
        """The job was not submitted after all."""
        remove_tree(self.path)
        _unlink(manifest(self.path))


def _git(words: List[str]) -> None:
    import subprocess

    try:
        done = subprocess.run(
            ["git", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    except FileNotFoundError:
        raise TaskError("A git workdir needs git, which isn't there. Install it, or give a folder.") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        causes = [line for line in said if line.startswith("fatal: ")] or said[-1:] or ["git failed"]
        raise TaskError("The git workdir can't be fetched: %s" % causes[0].replace("fatal: ", "", 1))


def copy_one(source: str, into: str, item: Item, progress: Callable[[int], None]) -> None:
    """One file or link, as it is: bytes, mode, time. The file system's clone where it has one."""
    if stat.S_ISLNK(item.mode):
        os.symlink(os.readlink(source), into)
        return
    try:
        reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise TaskError("%s can't be read: %s. Nothing was submitted." % (source, error.strerror)) from None
    try:
        writer = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            clone(reader, writer, progress)
            os.fchmod(writer, stat.S_IMODE(item.mode) & 0o777)
            os.utime(writer, ns=(item.mtime_ns, item.mtime_ns))
            os.fsync(writer)
        finally:
            os.close(writer)
    except OSError as error:
        raise StoreError("%s: %s. Nothing was submitted." % (into, error.strerror)) from None
    finally:
        os.close(reader)


def _join(root: str, path: str) -> str:
    return os.path.join(root, path) if path else root


def _with_folders(paths: Iterable[str]) -> Set[str]:
    """These, and the folders that they lie in."""
    found = set(paths)
    for folder in {os.path.dirname(path) for path in found}:
        while folder and folder not in found:
            found.add(folder)
            folder = os.path.dirname(folder)
    return found


def _tree(root: str) -> Set[str]:
    """Relative paths of all that is below a folder."""
    found: Set[str] = set()
    for folder, names, files in os.walk(root):
        found.update(os.path.relpath(os.path.join(folder, name), root) for name in (*names, *files))
    return found


def read_manifest(copy: str) -> Dict[str, Any]:
    """paths, whole, files, shows, shown_at; empty ones for a folder that has none."""
    try:
        with open(manifest(copy), encoding="utf-8", errors="surrogateescape") as file:
            return {**_NOTHING, **json.load(file)}
    except (OSError, ValueError):
        return _NOTHING


def collect_parts(folder: str, age: float = JUST_BEGUN) -> None:
    """Remove what killed copies and broken connections left so many seconds ago: nobody holds their lock."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not name.endswith(PART) or grew(path) > time.time() - age:
            continue  # it may not be locked yet
        lock = _lock_of(path)
        if lock >= 0:
            remove_tree(path)
            os.close(lock)


def _lock_of(path: str) -> int:
    """A descriptor that holds the lock of a half copy; -1 where somebody else does, or it is gone."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return -1
    return lock


def manifest(copy: str) -> str:
    """What was sent along with a copy, which others it shows parts of, and where it is shown itself."""
    return copy + ".json"


def default() -> str:
    """`~/sky_workdir`."""
    return os.path.join(os.path.expanduser("~"), "sky_workdir")


def copies_of(where: ClusterDir, cwd: str) -> List[str]:
    """The names of the copies that a job needs which runs in `cwd`: its folder and its file_mounts."""
    if os.path.dirname(cwd) != where.workdirs or os.path.basename(cwd) == FORMER:
        return []
    name = os.path.basename(cwd)
    mounts = [entry for entry in os.listdir(where.workdirs) if entry.startswith(name + "-mount-")]
    return [name, *sorted(entry for entry in mounts if not entry.endswith((".json", PART)))]


def linked() -> str:
    """The copy that `~/sky_workdir` is now; "" where it is a folder of its own, or nothing yet."""
    path = default()
    return os.path.realpath(path) if os.path.islink(path) else ""


def make_current(copy: str) -> None:
    """Let `~/sky_workdir` be that copy; see adopt()."""
    turn_link(default(), copy)


def mounted(where: ClusterDir, target: str) -> str:
    """The copy that is shown there now; "" if there is none."""
    shown = os.readlink(target) if os.path.islink(target) else ""
    return os.path.dirname(shown) if shown.startswith(where.workdirs + "/") else ""


def check_mount(where: ClusterDir, target: str) -> None:
    """Raise TaskError where something is that skyq didn't put there."""
    if os.path.lexists(target) and not mounted(where, target):
        raise TaskError(
            "file_mounts: %s exists, and was not put there by skyq. Move it away, or mount elsewhere."
            % target
        )


def adopt(where: ClusterDir) -> str:
    """The folder that `~/sky_workdir` is; "" if there is none.

    A real folder of that name moves into the state and is linked: what jobs wrote stays in its place
    for everybody who looks, and the link can be turned to a copy.
    """
    path, former = default(), where.workdir(FORMER)
    if os.path.isdir(path) and not os.path.islink(path):
        make_private(where.workdirs)
        try:
            os.rename(path, former)
        except OSError as error:
            raise StoreError(
                "%s can't become a link to the job's copy: %s.\nMove it away, then submit again."
                % (path, error.strerror)
            ) from None
    if not os.path.lexists(path) and os.path.isdir(former):
        make_current(former)  # also where the last one to adopt it was killed in between
    return linked() if os.path.isdir(path) else ""


def release(where: ClusterDir) -> None:
    """The way back from adopt(), before all copies are removed: `~/sky_workdir` is what it was before."""
    path, former = default(), where.workdir(FORMER)
    if linked().startswith(os.path.realpath(where.workdirs) + os.sep):
        os.unlink(path)
    if os.path.isdir(former) and not os.path.lexists(path):
        os.rename(former, path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
