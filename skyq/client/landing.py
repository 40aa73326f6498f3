"""The near end of first contact with one machine: has skyq land there (skyq/landing.py), then asks it things
(cli/setup.py). Whatever carries the bytes; nothing here waits for ever.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import time
import zlib
from collections.abc import Iterable, Mapping

from skyq.client.slices import Slice
from skyq.core import protocol, replies
from skyq.core.errors import HostClaimed, SkyqError, Unreachable
from skyq.core.paths import ClaimDir, Home
from skyq.core.protocol import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from skyq.transport.base import Stream

PATIENCE = 180.0  # seconds for one request: nvidia-smi, a slow disk, another client that founds the cluster
SILENCE = 30.0  # seconds without a word, after which it is gone; it says one every 5
LANDING, NO_PYTHON = "skyq-landing 1 ", "skyq-no-python"
NOISE_LIMIT = 256 * 1024  # bytes that its shell may say before
NEWEST_PYTHON = 14  # of the 3.x that skyq's libraries are built for

Facts: TypeAlias = "dict[str, Any]"


class Unfit(SkyqError):
    """The machine can't be part of a cluster; the text says why, and what to do."""


class Ended(Unfit):
    """What was started there, or is to start it, ended: it was killed, or can't run."""


_FOLDERS = "/usr/local/bin:/usr/bin:/bin:$HOME/miniconda3/bin:$HOME/anaconda3/bin:/opt/conda/bin"
_CHECK = "import sys; v=sys.version_info; sys.exit(v[0] < 3 or not($v))"
_READ = "import os,functools; exec(functools.reduce(lambda s,_: s+os.read(0,%d-len(s)), range(%d), bytes()))"
_SCRIPT = (
    'PATH="$PATH:%(folders)s"; '
    'for v in "v[1] in [%(liked)s]" "9 < v[1] < %(beyond)d" "v[1] > 7"; do for p in %(pythons)s; do '
    'command -v "$p" >/dev/null 2>&1 && '
    '"$p" -I -S -c "%(check)s" </dev/null >/dev/null 2>&1 && exec "$p" -I -S -c "%(read)s"; '
    "done; done; echo %(none)s; (python3 --version || python --version) 2>&1"
)


def shell_line(size: int, liked: Iterable[int] = ()) -> str:
    """What has a Python run a program of that size from standard input, in whatever login shell.

    sh's, in single quotes: without ', ! and newlines it is the same for csh, fish and zsh. `liked`: the 3.x
    to take if they are there; else it is one that could be a head's, else any.
    """
    known = ["python3.%d" % minor for minor in range(NEWEST_PYTHON, 7, -1)]
    script = _SCRIPT % {
        "folders": _FOLDERS,
        "liked": ",".join(map(str, liked)),
        "beyond": NEWEST_PYTHON + 1,
        "pythons": " ".join(["python3", *known]),
        "check": _CHECK,
        "none": NO_PYTHON,
        "read": _READ % (size, size),
    }
    return "/bin/sh -c '%s'" % script


def program() -> bytes:
    """skyq/landing.py, with what it lacks there."""
    text, folders = pkgutil.get_data("skyq", "landing.py"), pkgutil.get_data("skyq", "folders.py")
    assert text and folders
    lines = text.splitlines(keepends=True)
    at = [number for number, line in enumerate(lines) if line.startswith(b"from skyq.folders import")]
    lines[at[0]] = folders
    names = 'BIN, CLAIM = "%s", "%s"' % (Home("").bin, ClaimDir("").claim)
    return b"".join(lines).replace(b'BIN, CLAIM = "", ""', names.encode())


class Landing:
    """A conversation with one machine; `name` is what its user calls it.

    hello(), then become(), then ask() as often as wanted. Each raises Unreachable when the machine is gone.
    """

    def __init__(self, name: str, stream: Stream) -> None:
        self.name = name
        self.stream = stream
        self.buffer = b""
        self.decoder = protocol.Decoder()
        self.messages: list[Message] = []
        self.landed = False
        """Whether our program runs there."""

    def hello(self) -> Facts:
        """What is there. Raises Unfit where skyq can't land."""
        self.stream.write(program())
        return self._word()

    def become(self, build: Slice | str, compressed: bool = True) -> None:
        """Be this skyq: sent now, or the name of a file that is there. Raises Unfit where that can't be."""
        if isinstance(build, str):
            order: dict[str, object] = {"name": build, "size": 0}
            body = b""
        else:
            body = zlib.compress(build.data, 1) if compressed else build.data
            order = {"name": build.name, "size": len(body), "sha256": build.sha256, "zlib": compressed}
        self.stream.write(json.dumps(order).encode() + b"\n" + body)
        self.stream.write(protocol.greeting())
        deadline = time.monotonic() + protocol.FIRST_WORD
        while not self.decoder.greeted:
            self._feed(self._read(deadline))

    def ask(self, what: str, more: Mapping[str, object]) -> Message:
        """One request and its answer. Raises HostClaimed, SkyqError when the answer is no."""
        self.stream.write(protocol.encode({"do": what, **more}))
        deadline = time.monotonic() + PATIENCE
        while True:
            while self.messages:
                answer = self.messages.pop(0)
                if answer.get("is") == "done":
                    if not replies.fits(answer, replies.DONE.get(what, {})):
                        raise self._senseless()
                    return answer
                if answer.get("is") == "failed":
                    raise (HostClaimed if answer.get("claimed") else SkyqError)(str(answer.get("why")))
            if time.monotonic() > deadline:
                raise self._silent()  # it talks, and doesn't answer
            self._feed(self._read(min(deadline, time.monotonic() + SILENCE)))

    def close(self) -> None:
        """Hang up; it ends there."""
        self.stream.close()

    def _feed(self, data: bytes) -> None:
        """Take in what came; before the greeting it may be the word why there will be none."""
        if not self.decoder.greeted and LANDING.encode() in self.buffer + data:
            self.buffer += data
            self._word()
        self.messages += self.decoder.feed(data)

    def _read(self, deadline: float) -> bytes:
        try:
            data = self.stream.read(max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            raise self._silent() from None
        if not data:
            said = self._said()
            text = "%s: skyq can't run there. It said: %s" % (self.name, said or "nothing")
            raise (Ended if self.landed or not said else Unfit)(text)
        return data

    def _silent(self) -> Unreachable:
        if self.landed:
            text = "%s: no word from it any more. Is it overloaded? Try: ssh %s true"
            return Unreachable(text % (self.name, self.name), "lost")
        said = self._said()
        return Unreachable(
            "%s: its login shell started nothing within %d s%s. Does its ~/.bashrc or the like wait for "
            "something, or start another shell? This must end at once: ssh %s true"
            % (self.name, protocol.FIRST_WORD, said and ", and said: " + said, self.name),
            "lost",
        )

    def _said(self) -> str:
        return last_words(self.buffer.decode("utf-8", "replace") + "\n" + self.stream.stderr())

    def _word(self) -> Facts:
        """The next line of skyq/landing.py; what stands before it is noise of the shell."""
        deadline = time.monotonic() + protocol.FIRST_WORD
        word = LANDING.encode()
        while True:
            at = self.buffer.find(word)
            end = self.buffer.find(b"\n", at) if at >= 0 else -1
            if end >= 0:
                line, self.buffer = self.buffer[at + len(word) : end], self.buffer[end + 1 :]
                self.landed = True
                return self._checked(line)
            if NO_PYTHON.encode() in self.buffer:
                raise Unfit(self._no_python())
            if len(self.buffer) > NOISE_LIMIT:
                raise Unfit("%s: its shell says too much before anything can start there." % self.name)
            self.buffer += self._read(deadline)

    def _checked(self, line: bytes) -> Facts:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise self._senseless() from None
        if isinstance(found, dict) and "failed" in found:
            raise Unfit(_no_landing(self.name, found))
        if not isinstance(found, dict) or not replies.fits(found, replies.LANDING):
            raise self._senseless()
        return found

    def _senseless(self) -> Unfit:
        return Unfit("%s: it answered what can't be understood." % self.name)

    def _no_python(self) -> str:
        try:
            while len(self.buffer) < NOISE_LIMIT:
                self.buffer += self._read(time.monotonic() + 5.0)
        except SkyqError:
            pass
        said = re.search(r"Python [\d.]+", self.buffer.decode("utf-8", "replace").partition(NO_PYTHON)[2])
        what = "its %s is too old" % said[0] if said else "there is no python3"
        return "%s: %s. skyq needs Python 3.8 or newer there, 3.10 on the head (apt install python3)." % (
            self.name,
            what,
        )


def _no_landing(name: str, found: Facts) -> str:
    """Why skyq.pyz could not be put there."""
    path, why = found.get("path", "?"), found.get("why", "?")
    hints = {
        "ENOSPC": "Make room there: ssh %s df -h" % name,
        "EDQUOT": "Your quota there is used up. Make room: ssh %s quota" % name,
        "EROFS": "Its home can't be written to. Have that mended, or set SKYQ_HOME there.",
        "EACCES": "Have the rights mended: ssh %s ls -ld %s" % (name, path),
        "ENOENT": "Is the home folder there? Look: ssh %s ls -ld %s" % (name, os.path.dirname(path)),
    }
    hint = hints.get(str(found.get("failed")), "Look there: ssh %s ls -la %s" % (name, path))
    return "%s: %s can't be written: %s. %s" % (name, path, why, hint)


def last_words(text: str) -> str:
    """The last lines of what a program said, harmless, as one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = "; ".join(lines[-3:])[-300:]
    return "".join(char if char.isprintable() else "?" for char in told)
