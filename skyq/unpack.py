"""What only a first start needs: unpacks own code and the libraries from skyq.pyz. Standard library only.

A folder is named by the id of its content, filled aside and renamed: whoever sees it sees it whole, and only
Python writes to it again, its .pyc files. Racing starts do the same work twice at worst. A place that can't
hold it (read-only, full, not allowed to hold compiled code) is passed over for the next one.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import zipimport
from contextlib import contextmanager

from skyq.core.errors import SkyqError
from skyq.folders import mine, places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Not needed to run. The yaml library works without its compiled part, which would differ by Python.
UNWANTED = ("*.pyi", "*.h", "*/py.typed", "*/tests/*", "*-info/RECORD", "*/licenses/*", "yaml/_yaml.*.so")
KEPT = 8  # folders of a kind that stay, however old
UNUSED = 7 * 86400  # seconds without a start, after which a folder beyond KEPT goes
ABANDONED = 3600  # seconds after which nobody is still filling a folder aside
TURN = 30.0  # seconds to wait for another process that unpacks the same


class NotHeld(Exception):
    """The file has no libraries for this Python; `held` are the tags that it has some for."""

    def __init__(self, pyz: str, tag: str, held: list[str]) -> None:
        super().__init__(
            "%s holds its libraries for %s, not for %s, and PATH has no Python that fits. Start skyq with "
            "one that does, or run build_zipapp.py with this one" % (pyz, ", ".join(held) or "no Python", tag)
        )
        self.held = held


class NoPlace(Exception):
    """No place takes the folder; the text says why each doesn't."""


def content_id(files: dict[str, bytes]) -> str:
    """The id of a folder's content: its sorted names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(b"%s\0%d\0" % (name.encode(), len(files[name])))
        digest.update(files[name])
    return digest.hexdigest()[:16]


def code(pyz: str, code_id: str, back: list[str] | None = None) -> str:
    """Unpack own code; the folder, or the zip itself where no place takes it. `back`: see _somewhere()."""
    try:
        archive = zipimport.zipimporter(pyz)
        names = archive.get_data("code.txt").decode().split("\n")
        files = {name: archive.get_data(name) for name in names}
    except (OSError, ImportError, EOFError, ValueError):
        files = {}
    # zipimport checks no CRC, and a file that is being replaced gives bytes of both.
    if content_id(files) != code_id:
        raise SystemExit("skyq: %s is damaged, or was replaced just now. Try again, or get it anew" % pyz)
    # Says where the libraries are, to processes that start from the folder.
    files["unpacked-from"] = os.fsencode(os.path.realpath(pyz))

    def fill(aside: str) -> None:
        for name, content in files.items():
            path = os.path.join(aside, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)

    try:
        return _somewhere(code_id, fill, back=back)
    except NoPlace:
        return pyz


def libraries(pyz: str, deps: str, tag: str, back: list[str] | None = None) -> str:
    """Unpack the libraries for one Python; the folder. `back`: see _somewhere()."""
    import fnmatch
    import io
    import json
    import zipfile
    import zlib

    def fill(aside: str) -> None:
        for wheel in wheels:
            with zipfile.ZipFile(io.BytesIO(whole.read("deps/" + wheel))) as parts:
                for name in parts.namelist():
                    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in UNWANTED):
                        parts.extract(name, aside)

    try:
        with zipfile.ZipFile(pyz) as whole:
            index = json.loads(whole.read("deps/index.json"))
            if index["id"] != deps:
                raise SkyqError("%s was replaced while this process ran. Type the command again" % pyz)
            if tag not in index["targets"]:
                raise NotHeld(pyz, tag, sorted(index["targets"]))
            wheels = index["targets"][tag]
            return _somewhere("%s-%s" % (deps, tag), fill, True, back)
    except NoPlace as error:
        raise SkyqError("no place for the libraries of skyq: %s. Set SKYQ_HOME to one" % error) from None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        sentence = "the libraries of skyq can't be read from %s (%s). Get the file anew and run it once"
        raise SkyqError(sentence % (pyz, error)) from None


def _somewhere(
    name: str, fill: Callable[[str], None], compiled: bool = False, back: list[str] | None = None
) -> str:
    """The folder in the first place that takes it. `back`: in the first one that has it, put back what was
    deleted of it; gets the names of those files.
    """
    troubles = []
    before = os.umask(0o077)
    try:
        for place in places():
            if back is not None and not mine(os.path.join(place, name)):
                continue
            try:
                _prepare(place, compiled)
                with _turn(place):
                    return _install(place, name, fill, back)
            except OSError as error:
                troubles.append("%s: %s" % (place, error.strerror or error))
    finally:
        os.umask(before)
    raise NoPlace("; ".join(troubles))


def _prepare(place: str, compiled: bool) -> None:
    """Make the place; OSError where it isn't ours or can't hold what is wanted."""
    for folder in (os.path.dirname(place), place):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
    if not mine(place):
        raise OSError(0, "not a folder that only you can write to")
    if compiled and os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise OSError(0, "mounted noexec")


@contextmanager
def _turn(place: str) -> Iterator[None]:
    """One process at a time, as far as that works: it saves work, the rename keeps the others apart."""
    import fcntl

    lock = os.open(os.path.join(place, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + TURN
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break  # a file system without locks
        yield
    finally:
        os.close(lock)


def _install(place: str, name: str, fill: Callable[[str], None], back: list[str] | None) -> str:
    """Fill a folder aside and rename it, unless another process was faster."""
    folder = os.path.join(place, name)
    if mine(folder) and back is None:
        return folder
    aside = os.path.join(place, ".new-%s-%d-%s" % (name, os.getpid(), os.urandom(4).hex()))
    try:
        os.mkdir(aside, 0o700)
        fill(aside)
        _onto_disk(aside)
        if back is not None and mine(folder):
            back += _put_back(aside, folder)
            _remove(aside)
            return folder
        os.rename(aside, folder)
    except BaseException:
        _remove(aside)
        if mine(folder):
            return folder
        raise
    try:
        _collect(place, name)
    except OSError:
        pass  # another process collects at the same time
    return folder


def _put_back(whole: str, folder: str) -> list[str]:
    """Move what a folder lacks into it: who runs from there sees each file whole. Returns their names."""
    found = []
    for path, _, names in os.walk(whole):
        there = os.path.normpath(os.path.join(folder, os.path.relpath(path, whole)))
        os.makedirs(there, exist_ok=True)
        for name in names:
            if not os.path.lexists(os.path.join(there, name)):
                os.rename(os.path.join(path, name), os.path.join(there, name))
                found.append(name)
    return found


def _onto_disk(folder: str) -> None:
    """Have every file on disk before the rename says that it's whole: a power cut would leave empty ones."""
    paths = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names]

    failed: list[OSError] = []

    def sync(some: list[str]) -> None:
        for path in some:
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            except OSError as error:
                failed.append(error)
            finally:
                os.close(file)

    # One after the other each would wait for its own write of the journal.
    threads = [threading.Thread(target=sync, args=(paths[part::8],)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _collect(place: str, name: str) -> None:
    """Remove what killed extractions and replaced versions left; never what was used within a week."""
    now = os.stat(os.path.join(place, name)).st_mtime  # the file system's clock, not this machine's
    ages = {}
    for entry in os.listdir(place):
        seen = mine(os.path.join(place, entry))
        if seen:
            ages[entry] = now - seen.st_mtime
    for version in (r"[0-9a-f]{16}", r"[0-9a-f]{16}-.+"):
        newest_first = sorted((age, entry) for entry, age in ages.items() if re.fullmatch(version, entry))
        for age, entry in newest_first[KEPT:]:
            if age > UNUSED:
                old = os.path.join(place, ".old-" + entry)
                os.rename(os.path.join(place, entry), old)
                _remove(old)
    for entry, age in ages.items():
        if entry.startswith((".new-", ".old-")) and age > ABANDONED:
            _remove(os.path.join(place, entry))


def _remove(folder: str) -> None:
    """Remove a folder as far as possible."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
