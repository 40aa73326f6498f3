"""A folder on its way to another machine: its entries first, then the bytes of those files that lack there.

    sender                                              receiver
    {do: parcel, name}  {do: entries, entries}…         {is: lacks, files, last}
    (bytes, n, at)…  {do: parcel-end}                   {is: kept} or {is: not-kept, why}

A file that the receiver has in a former copy, of the same size and time as it was sent then, is taken from
there: cloned where the file system can, never linked. What a broken connection left, its rest, is linked: a
file there has the time that was announced once it is whole, and nobody writes to it again. Standard library
for Python 3.8: nodes receive too.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time

from skyq.core import protocol
from skyq.core.errors import ProtocolError
from skyq.core.protocol import Message
from skyq.core.typed import NamedTuple
from skyq.transport.aside import aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from typing import (
        Any,
        BinaryIO,
        Callable,
        Container,
        Dict,
        Iterator,
        List,
        Optional,
        Sequence,
        Set,
        Tuple,
    )

_FICLONE = 0x40049409
CHUNK = 8 * 1024 * 1024  # bytes per system call, so that progress shows
SMALL = 128 * 1024  # bytes that are copied as quickly as they are cloned
HEAP = 64 * 1024 * 1024  # bytes that are whole, and not yet on disk
SYNCERS = 32  # threads
FEW_FILES = 64  # that are synced one by one
SIGN_OF_LIFE = 1.0  # seconds; who collects garbage sees that a parcel still grows
PIECE = 48 * 1024  # bytes of a file in one frame
MANY = 2000  # entries in one message
DEEPEST = 500  # folders in each other
GROWN = 1 << 30  # bytes that a file may grow by while it is sent
RESTS_FOR = 86400.0  # seconds
PART = ".part"
"""Ends the name of a copy that isn't whole: not yet, or no more."""
MOUNT = "mount"
"""The name of what is mounted elsewhere, in its copy."""


class Item(NamedTuple):
    """One file, folder or link."""

    path: str
    """Relative; any bytes but NUL, by surrogateescape."""
    mode: int
    """As stat gives it, with the type."""
    size: int
    mtime_ns: int
    target: str = ""
    """Of a link."""


def _possible(item: Item) -> bool:
    """Whether its numbers are such as a file has."""
    return 0 <= item.mode < 1 << 16 and 0 <= item.size < 1 << 62 and -(1 << 62) < item.mtime_ns < 1 << 62


def item_of(root: str, path: str) -> Item:
    """What is at a path below a root."""
    seen = os.lstat(os.path.join(root, path))
    target = os.readlink(os.path.join(root, path)) if stat.S_ISLNK(seen.st_mode) else ""
    return Item(path, seen.st_mode, seen.st_size, seen.st_mtime_ns, target)


def clone(reader: int, writer: int, progress: Callable[[int], None]) -> None:
    """One file's bytes into another, by the file system's own means where it has some."""
    size = os.fstat(reader).st_size
    if size <= SMALL:
        data = os.read(reader, size)
        while data:
            done = os.write(writer, data)
            progress(done)
            data = data[done:]
        return
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
        progress(os.fstat(reader).st_size)
        return
    except OSError:
        pass  # ext4 and others have no clones
    while True:
        done = _copy_some(reader, writer)
        if done == 0:
            return
        progress(done)


def _copy_some(reader: int, writer: int) -> int:
    try:
        return os.copy_file_range(reader, writer, CHUNK)
    except (OSError, AttributeError) as error:  # Python 3.8 has no copy_file_range
        kinds = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
        if isinstance(error, OSError) and error.errno not in kinds:
            raise
        return os.sendfile(writer, reader, None, CHUNK)


# The sender.


def announcement(opening: Message, items: Sequence[Item], zipped: bool = False) -> Iterator[bytes]:
    """The frames that say what the parcel holds. `opening`: its name, and what else there is to know.

    `zipped`: in few packets, so that all of them may go before the other side is heard. It must know that.
    """
    yield protocol.encode({**opening, "do": "parcel"})
    for at in range(0, len(items), MANY):
        entries = [list(item) for item in items[at : at + MANY]]
        encode = protocol.encode_zipped if zipped else protocol.encode
        yield encode({"do": "entries", "entries": entries})
    yield protocol.encode({"do": "entries", "entries": [], "last": True})


def contents(roots: Sequence[Tuple[str, Item]], lacks: Sequence[int]) -> Iterator[bytes]:
    """The frames with the bytes of those files. `roots`: each item with where it is here.

    Raises ProtocolError for what the receiver can't want, OSError for what can't be read.
    """
    for number in lacks:
        if not 0 <= number < len(roots) or not stat.S_ISREG(roots[number][1].mode):
            raise ProtocolError("The other side asks for a file that the parcel doesn't hold.")
        file = os.open(roots[number][0], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            at = 0
            while True:
                data = os.pread(file, PIECE, at)
                if not data and at:
                    break
                yield protocol.encode_data({"do": "bytes", "n": number, "at": at}, data)
                if not data:
                    break
                at += len(data)
        finally:
            os.close(file)
    yield protocol.encode({"do": "parcel-end"})


# The receiver.


class Parcel:
    """What comes into `root`, a folder of ours. `base`: the former copy, or ""; `known`: its record().

    `rests`: what broken connections left of parcels like it.
    """

    def __init__(self, root: str, base: str, known: Dict[str, List[int]], rests: Sequence[str] = ()) -> None:
        self.root = root
        self.base = base
        self.rests = rests
        self.items: List[Item] = []
        self.used: Set[str] = set()
        """The rests that something was taken of."""
        self._known = known
        self._wary = bool(os.listdir(root))
        """Whether links may be there that lead out."""
        self._made: Set[str] = set()
        """Folders that are there."""
        self._file: Optional[BinaryIO] = None
        self._number = -1
        self._alive = time.monotonic()
        self._syncer = _Syncer()

    def announced(self, entries: Sequence[Any]) -> None:
        """Some of what it will hold. ProtocolError for what leads out of it."""
        for entry in entries:
            try:
                item = Item(str(entry[0]), int(entry[1]), int(entry[2]), int(entry[3]), str(entry[4]))
            except (TypeError, ValueError, LookupError, ArithmeticError):
                raise ProtocolError("A parcel holds an entry that is none.") from None
            parts = item.path.split("/")
            if not item.path or "\0" in item.path + item.target or {"", ".", ".."} & set(parts):
                raise ProtocolError("A parcel holds a path that leads out of it: %r" % item.path[:80])
            if not _possible(item) or len(parts) > DEEPEST:
                raise ProtocolError("A parcel holds what no file is: %r" % item.path[:80])
            self.items.append(item)

    def lacks(self) -> List[int]:
        """Make the folders, take what is here already; tell which files must come. May raise OSError."""
        missing = []
        for number, item in enumerate(self.items):
            if stat.S_ISDIR(item.mode):
                self._folder(item.path)
            elif stat.S_ISREG(item.mode):
                self._folder(os.path.dirname(item.path))
                if not self._go_on(item) and not self._take(item):
                    missing.append(number)
        return missing

    def _folder(self, path: str) -> None:
        if path not in self._made:
            self._stay_inside(path)
            os.makedirs(os.path.join(self.root, path), mode=0o700, exist_ok=True)
            self._made.add(path)

    def _go_on(self, item: Item) -> bool:
        """From a rest, if it is whole there."""
        for rest in self.rests:
            folder = os.path.dirname(os.path.join(rest, item.path))
            if os.path.realpath(folder) != os.path.realpath(rest) + folder[len(rest) :]:
                continue  # it lies behind a link
            if self._take_from(rest, item, is_rest=True):
                self.used.add(rest)
                return True
        return False

    def _take(self, item: Item) -> bool:
        """From the former copy, if it is there as it was sent: jobs may have changed it since."""
        known = self._known.get(item.path) == [item.size, item.mtime_ns]
        return known and self._take_from(self.base, item)

    def _take_from(self, folder: str, item: Item, is_rest: bool = False) -> bool:
        path = os.path.join(folder, item.path)
        try:
            reader = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            seen = os.fstat(reader)
            if not stat.S_ISREG(seen.st_mode) or (seen.st_size, seen.st_mtime_ns) != item[2:4]:
                return False
            # With a second link it may be in a copy that a job writes to by now.
            if not is_rest or seen.st_nlink > 1 or not self._link_whole(path, item):
                self._clone_whole(reader, item)
        finally:
            os.close(reader)
        self._syncer.add(os.path.join(self.root, item.path), item.size)
        return True

    def _clone_whole(self, reader: int, item: Item) -> None:
        writer = self._create(item)
        try:
            clone(reader, writer, lambda _: None)
            _whole(writer, item)
        finally:
            os.close(writer)

    def _link_whole(self, path: str, item: Item) -> bool:
        self._stay_inside(os.path.dirname(item.path))
        into = os.path.join(self.root, item.path)
        try:
            os.link(path, into)
        except OSError:
            return False  # not all file systems have links
        os.chmod(into, stat.S_IMODE(item.mode) & 0o777)
        return True

    def _create(self, item: Item) -> int:
        self._stay_inside(os.path.dirname(item.path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(os.path.join(self.root, item.path), flags, 0o600)

    def bytes(self, number: int, at: int, data: bytes) -> None:
        """A piece of a file; files come one after the other. May raise OSError."""
        if not 0 <= number < len(self.items) or not stat.S_ISREG(self.items[number].mode):
            raise ProtocolError("A parcel brings a file that it did not announce.")
        if not 0 <= at <= at + len(data) <= self.items[number].size + GROWN:
            raise ProtocolError("A parcel brings more of a file than it announced.")
        if number != self._number:
            self._close()
            self._file = open(self._create(self.items[number]), "wb", buffering=0)
            self._number = number
        assert self._file
        self._file.seek(at)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]

    def _close(self) -> None:
        if self._file:
            _whole(self._file.fileno(), self.items[self._number])
            self._file.close()
            item = self.items[self._number]
            self._syncer.add(os.path.join(self.root, item.path), item.size)
            if time.monotonic() > self._alive + SIGN_OF_LIFE:
                self._alive = time.monotonic()
                os.utime(self.root)
        self._file, self._number = None, -1

    def abandon(self) -> None:
        """No more comes: the file that is open isn't whole."""
        if self._file:
            self._file.close()
        self._file, self._number = None, -1

    def finish(self) -> None:
        """All is here: links, the folders' modes and times. It isn't on disk yet. May raise OSError."""
        self._close()
        self._syncer.start()
        self._wary = True  # one of its links may lie in the place of a folder that another is to be in
        for item in self.items:  # last, so that nothing was written through one
            if stat.S_ISLNK(item.mode):
                self._link(item)
        for item in reversed(self.items):
            if stat.S_ISDIR(item.mode) and item.path in self._made:
                path = os.path.join(self.root, item.path)
                os.chmod(path, stat.S_IMODE(item.mode) & 0o777 | stat.S_IRWXU)
                os.utime(path, ns=(item.mtime_ns, item.mtime_ns))

    def settle(self) -> None:
        """After finish(): wait until all is on disk. May raise OSError."""
        self._syncer.wait()

    def _link(self, item: Item) -> None:
        path = os.path.join(self.root, item.path)
        self._folder(os.path.dirname(item.path))
        if os.path.lexists(path):
            os.unlink(path)
        os.symlink(item.target, path)

    def _stay_inside(self, folder: str) -> None:
        """What came before this parcel, a repository maybe, may hold links in the place of folders."""
        inside = os.path.join(self.root, folder) if folder else self.root
        if self._wary and os.path.realpath(inside) != os.path.realpath(self.root) + inside[len(self.root) :]:
            raise ProtocolError("%s lies behind a link of the workdir" % folder)

    def record(self) -> Dict[str, List[int]]:
        """Path → [size, mtime_ns] of its files, for write_record()."""
        return {i.path: [i.size, i.mtime_ns] for i in self.items if stat.S_ISREG(i.mode)}


def _whole(file: int, item: Item) -> None:
    """All bytes are written: by its time it is known."""
    os.fchmod(file, stat.S_IMODE(item.mode) & 0o777)
    os.utime(file, ns=(item.mtime_ns, item.mtime_ns))


def rests_for() -> float:
    """Seconds for which what a broken connection left is good: since the last boot, for it was not synced."""
    return min(RESTS_FOR, time.clock_gettime(time.CLOCK_BOOTTIME))


def grew(part: str) -> float:
    """When something came into a copy that isn't whole; a parcel touches it again and again."""
    try:
        return os.stat(part).st_mtime
    except FileNotFoundError:
        return 0.0


def record_path(copy: str) -> str:
    """What a copy was when it came."""
    return copy + ".sent"


def write_record(copy: str, record: Dict[str, List[int]]) -> None:
    """Remember what came, so that the next parcel needn't bring it again."""
    with open(record_path(copy), "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(record, file)


def read_record(copy: str) -> Dict[str, List[int]]:
    """{} where nothing is known of it."""
    try:
        with open(record_path(copy), encoding="utf-8", errors="surrogateescape") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if copy and isinstance(found, dict) else {}


class _Syncer:
    """Has files written to disk, many at once: else each would wait for its own write of the journal.

    Those that come meanwhile, by heaps: a journal that is written all the time keeps new files waiting.
    """

    def __init__(self) -> None:
        self._heap: List[str] = []
        self._size = 0
        self._failed: List[OSError] = []
        self._threads: List[threading.Thread] = []

    def add(self, path: str, size: int) -> None:
        """It is whole."""
        self._heap.append(path)
        self._size += size
        if self._size > HEAP:
            self.start()

    def wait(self) -> None:
        """Until all are on disk. OSError for what can't be."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self._failed:
            raise self._failed[0]

    def start(self) -> None:
        """With those that came since the last time."""
        import threading

        for thread in self._threads:
            thread.join()
        if len(self._heap) > FEW_FILES and _little_is_dirty():
            self._threads = [threading.Thread(target=self._sync_all, args=(self._heap,), daemon=True)]
        else:
            parts = range(min(SYNCERS, len(self._heap)))
            words = [self._heap[part::SYNCERS] for part in parts]
            self._threads = [threading.Thread(target=self._sync, args=(some,), daemon=True) for some in words]
        for thread in self._threads:
            thread.start()
        self._heap, self._size = [], 0

    def _sync_all(self, paths: List[str]) -> None:
        """The whole file system at once: of many small files that takes half as long."""
        try:
            import ctypes

            file = os.open(paths[0], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                done = ctypes.CDLL(None, use_errno=True).syncfs(file) == 0
            finally:
                os.close(file)
        except (OSError, ImportError, AttributeError):
            done = False
        if not done:
            self._sync(paths)

    def _sync(self, paths: List[str]) -> None:
        for path in paths:
            try:
                file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)
            except OSError as error:
                self._failed.append(error)


def _little_is_dirty() -> bool:
    """Whether to write all of it takes no time, and an error would be told (Linux 5.8)."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if not found or (int(found[1]), int(found[2])) < (5, 8):
        return False
    try:
        with open("/proc/meminfo") as file:
            kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in file}
    except (OSError, ValueError, IndexError):
        return False
    return kilobytes.get("Dirty", 0) + kilobytes.get("Writeback", 0) < HEAP // 1024


def lacks_message(numbers: Sequence[int]) -> Iterator[Message]:
    """What the receiver says of what it lacks, in messages of a bounded size."""
    for at in range(0, len(numbers), 10 * MANY):
        yield {"is": "lacks", "files": list(numbers[at : at + 10 * MANY])}
    yield {"is": "lacks", "files": [], "last": True}


def show_additions(base: str, part: str, written: Set[str], sent: Container[str]) -> Set[str]:
    """Link into a new copy what jobs added to the former one, at the highest place where it has nothing.

    `written`: the paths that the new one has; `sent`: those that the former one came with. What was sent then
    and not now was deleted by the user: it stays away. Returns the copies that the links lead to.
    """
    copies = os.path.dirname(base)
    shows: Set[str] = set()
    todo = [""]
    while todo:
        folder = todo.pop()
        for name in os.listdir(os.path.join(base, folder)):
            path = os.path.join(folder, name)
            if path in written:
                if os.path.isdir(os.path.join(part, path)) and not os.path.islink(os.path.join(part, path)):
                    todo.append(path)
            elif path not in sent:
                target = os.path.join(base, path)
                shown = os.readlink(target) if os.path.islink(target) else target
                os.symlink(shown, os.path.join(part, path))
                if shown.startswith(copies + "/"):
                    shows.add(os.path.join(copies, shown[len(copies) + 1 :].split("/")[0]))
    return shows


def disk_use(path: str) -> int:
    """Bytes that a folder takes on disk. A link takes none."""
    total = 0
    for folder, _, files in os.walk(path) if not os.path.islink(path) else ():
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # a job has removed it
    return total


def remove_copy(path: str) -> None:
    """One that isn't needed: at once gone by its name, so that nobody finds the half of it."""
    part = "%s.%s%s" % (path, os.urandom(4).hex(), PART)
    try:
        os.rename(path, part)
    except FileNotFoundError:
        return
    remove_tree(part)


def remove_tree(path: str) -> None:
    """A file, link or folder, as far as it can be removed: jobs leave folders that nobody may write to."""
    import shutil

    if not os.path.isdir(path) or os.path.islink(path):
        if os.path.lexists(path):
            os.unlink(path)
        return
    shutil.rmtree(path, ignore_errors=True)
    if os.path.isdir(path):
        for folder, _, _ in os.walk(path):
            try:
                os.chmod(folder, 0o700)
            except OSError:
                pass
        shutil.rmtree(path, ignore_errors=True)


def turn_link(path: str, to: str) -> None:
    """Make a link, or let it lead elsewhere."""
    link = aside(path)
    os.symlink(to, link)
    try:
        os.rename(link, path)
    except OSError:
        os.unlink(link)
        raise
