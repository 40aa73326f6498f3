"""Where skyq comes to another machine: says what is there, takes skyq.pyz in, and becomes it.

Sent as text over an SSH connection (client/contact.py) to a Python that the shell there found: nothing of
skyq is there yet. Standard library of Python 3.8. It writes nothing before it is told to; a file gets its
name only when it is whole and on disk.

It says one line, WORD and JSON, after which it is told in one line of JSON what to become: `name` of a file
in ~/.skyq/bin, `size` of what follows (0: it is there already), `sha256` of the file, `zlib`: whether it
comes compressed. If it can't, it says one more line, and ends.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import pwd
import sys

from skyq.folders import tag  # the sender puts that module in place of this

BIN, CLAIM = "", ""  # filled in by the sender: names that core/paths.py has

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

WORD = "skyq-landing 1 "
LINE_LIMIT = 4096  # bytes
WANTED = ("zlib", "_sqlite3", "_ctypes", "fcntl", "select", "_socket")
"""What a Python may have been built without."""


def root() -> str:
    """SKYQ_HOME, as skyq itself will find it."""
    return os.path.abspath(os.environ.get("SKYQ_HOME") or os.path.expanduser("~/.skyq"))


def account(uid: int) -> str:
    """The name of an account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "uid %d" % uid


def facts() -> Dict[str, Any]:
    """What the sender decides by."""
    try:
        builds = sorted(name for name in os.listdir(os.path.join(root(), BIN)) if name.endswith(".pyz"))
    except OSError:
        builds = []
    return {
        "python": list(sys.version_info[:3]),
        "tag": tag(),
        "lacks": [name for name in WANTED if importlib.util.find_spec(name) is None],
        "hostname": os.uname()[1],
        "user": account(os.getuid()),
        "root": root(),
        "usual": root() == os.path.abspath(os.path.expanduser("~/.skyq")),
        "builds": builds,
        "ssh": os.environ.get("SSH_CONNECTION", ""),
        "claim": claim(),
        "machine": machine(),
    }


def claims() -> str:
    """The folder of claims."""
    return os.environ.get("SKYQ_CLAIM_DIR", "/var/tmp")


def machine() -> str:
    """The same word under whatever name this machine is reached, and on no other: what has one claim, since
    one boot.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        place = os.stat(claims())
    except OSError:
        return ""
    return "%s %d:%d" % (boot, place.st_dev, place.st_ino)


def claim() -> Optional[Dict[str, Any]]:
    """Whose this machine is: the claim, its owner, and whether that cluster's state is on this machine."""
    path = os.path.join(claims(), CLAIM)
    try:
        # Other accounts may put anything there: a link, or a pipe that would let us wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        return {"owner": "?", "mine": False, "path": path}
    with open(fd, "rb") as file:
        uid = os.fstat(fd).st_uid
        text = file.read(LINE_LIMIT)
    try:
        found = json.loads(text.decode("utf-8", "replace"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        found = {}
    mine, place = uid == os.getuid(), str(found.get("state_dir") or "")
    there = os.path.isdir(place)
    more = {
        "owner": account(uid),
        "mine": mine,
        "path": path,
        "headed": there,
        "gone": mine and bool(place) and not there,  # its queue was deleted: see node/claim.py
    }
    return {**found, **more}


def say(what: Dict[str, Any]) -> None:
    """One line to the sender."""
    line = (WORD + json.dumps(what) + "\n").encode()
    while line:
        line = line[os.write(1, line) :]


def read(size: int) -> bytes:
    """So many bytes of what was sent, and not more: the rest is for who comes after this. EOFError."""
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def order() -> Dict[str, Any]:
    """The one line that tells what to become."""
    line = b""
    while not line.endswith(b"\n") and len(line) < LINE_LIMIT:
        line += read(1)
    return dict(json.loads(line.decode()))


def take(path: str, wanted: Dict[str, Any]) -> None:
    """Have the file, whole: what comes is written aside, checked, synced and renamed."""
    body = read(wanted["size"])
    if wanted["zlib"]:
        import zlib

        body = zlib.decompress(body)
    if hashlib.sha256(body).hexdigest() != wanted["sha256"]:
        raise OSError(errno.EIO, "it was changed on its way", path)
    for folder in (root(), os.path.dirname(path)):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
    aside = "%s.%s" % (path, os.urandom(4).hex())
    try:
        with open(aside, "xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
    except BaseException:
        try:
            os.unlink(aside)
        except OSError:
            pass
        raise


def land() -> None:
    """Become skyq, or say why not."""
    os.umask(0o077)
    say(facts())
    try:
        wanted = order()
        path = os.path.join(root(), BIN, os.path.basename(wanted["name"]))
        if wanted["size"]:
            take(path, wanted)
        os.execv(sys.executable, [sys.executable, "-I", "-S", path, "_setup"])
    except EOFError:
        pass  # the sender only wanted to know, or is gone
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "")
        say({"failed": code, "why": error.strerror or str(error), "path": error.filename or root()})


if __name__ == "__main__":
    land()
