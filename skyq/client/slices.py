"""Cuts from skyq.pyz what another machine needs of it: a worker own code alone, a head also the libraries for
its Python and platform, of which this file may hold many. The same file and tag give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from skyq import __version__
from skyq.client.wheels import Cache, CantFetch, Target, read_lock
from skyq.core.errors import SkyqError
from skyq.core.paths import Home
from skyq.core.typed import NamedTuple

# Without the site module: skyq sees no site-packages anyway, and some load much there at each start.
START = b'#!/bin/sh\nexec python3 -S "$0" "$@"\n'
INDEX, LOCK = "deps/index.json", "deps/requirements.lock"


class Slice(NamedTuple):
    """What is sent to a machine."""

    version: str
    sha256: str
    data: bytes

    @property
    def name(self) -> str:
        """What its file is called there."""
        return Home("").build(self.version, self.sha256[:16]).rpartition("/")[2]


class Whole(NamedTuple):
    """The skyq.pyz to cut from."""

    path: str
    wheels: str
    """Where to keep the libraries that it lacks."""
    tell: Callable[[str], None]
    """Gets a line when they are fetched."""

    def for_worker(self) -> Slice:
        """Own code. Raises SkyqError when the file can't be read."""
        return _slice(self._read(), {})

    def for_head(self, tag: str) -> Slice:
        """Own code, and the libraries for a Python and platform. Raises SkyqError when they can't be had."""
        files = self._read()
        held = json.loads(files[INDEX])["targets"]
        if tag in held:
            return _slice(files, {tag: held[tag]})
        return _slice(files, {tag: self._fetch(files, tag)})

    def pythons(self) -> list[int]:
        """The 3.x that it holds libraries for. Raises SkyqError when the file can't be read."""
        tags = json.loads(self._read()[INDEX])["targets"]
        return sorted({int(found[1]) for tag in tags if (found := re.match(r"cpython-3(\d+)-", tag))})

    def _read(self) -> dict[str, bytes]:
        try:
            with zipfile.ZipFile(self.path) as whole:
                files = {name: whole.read(name) for name in whole.namelist()}
            version = re.search(rb'__version__ = "(.+?)"', files["skyq/__init__.py"])
            if INDEX not in files or version is None:
                raise KeyError(INDEX)
        except IsADirectoryError:
            text = "Only skyq.pyz can go to another machine, and this runs from %s. Build it: build_zipapp.py"
            raise SkyqError(text % self.path) from None
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            text = "%s can't be sent to another machine: %s. Get the file anew, then try again."
            raise SkyqError(text % (self.path, error)) from None
        if version[1].decode() != __version__:
            raise SkyqError("%s was replaced while this command ran. Type it again." % self.path)
        return files

    def _fetch(self, files: dict[str, bytes], tag: str) -> list[str]:
        """Add the wheels for a target to the files; their names."""
        target = Target.of_tag(tag)
        if target is None:
            text = "there are no libraries of skyq for its Python (%s)."
            raise SkyqError(text % tag)
        cache = Cache(Path(self.wheels), self.tell)
        try:
            cache.folder.mkdir(parents=True, exist_ok=True)
            for name in files:
                if name.endswith(".whl"):
                    # Many serve every target; a link could be written through, so the bytes are copied.
                    (cache.folder / name.rpartition("/")[2]).write_bytes(files[name])
            wheels = cache.wheels_for(read_lock(files[LOCK].decode()), target)
        except (CantFetch, OSError, KeyError) as error:
            raise SkyqError(
                "%s holds no libraries for Python %s on %s, and they can't be fetched: %s\nTry again with a "
                "network, or build a file that has them: python3 build_zipapp.py --python %s --platform %s"
                % (self.path, *target, error, *target)
            ) from None
        files.update({"deps/" + wheel.path.name: wheel.path.read_bytes() for wheel in wheels})
        return sorted(wheel.path.name for wheel in wheels)


def _slice(files: Mapping[str, bytes], targets: dict[str, list[str]]) -> Slice:
    kept = {name: content for name, content in files.items() if not name.endswith(".whl")}
    kept[INDEX] = index(json.loads(files[INDEX])["id"], targets)
    wheels = {"deps/" + name for names in targets.values() for name in names}
    data = packed({**kept, **{name: files[name] for name in wheels}})
    return Slice(__version__, hashlib.sha256(data).hexdigest(), data)


def index(deps: str, targets: dict[str, list[str]]) -> bytes:
    """What the file says of its libraries: their id, and the wheels for each Python and platform."""
    return json.dumps({"id": deps, "targets": targets}, sort_keys=True).encode()


def packed(files: Mapping[str, bytes]) -> bytes:
    """skyq.pyz as bytes: sorted, undated and stored, because compressed they would differ with the zlib."""
    file = io.BytesIO(START)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, wherever it's built
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])
    return file.getvalue()
