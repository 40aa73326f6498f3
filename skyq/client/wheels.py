"""The libraries inside skyq.pyz, as wheels: which one serves which Python and platform, and how pip fetches
them. build_zipapp.py asks here, and a client whose file lacks what a cluster's head needs.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from skyq.core.errors import SkyqError
from skyq.core.typed import NamedTuple

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# The wheel platforms that run there: the newest, for pip, and a pattern for all. (glibc 2.17 is of 2012.)
# macOS on Intel isn't here: cryptography no longer builds for it.
PLATFORMS = {
    "linux-x86_64": ("manylinux2014_x86_64", r"manylinux(1|2010|2014|_2_(5|12|17))_x86_64"),
    "linux-aarch64": ("manylinux2014_aarch64", r"manylinux(2014|_2_17)_aarch64"),
    "darwin-arm64": ("macosx_11_0_arm64", r"macosx_(10_\d+_universal2|11_0_(arm64|universal2))"),
}
ONE_FOR_ALL = {"pyyaml"}  # its compiled part is left out when it's unpacked, so one wheel serves everywhere


class CantFetch(SkyqError):
    """pip didn't bring the wheels; the text is what it said."""


class Target(NamedTuple):
    """A Python and platform that the file can run on."""

    python: str
    platform: str

    @classmethod
    def of_tag(cls, tag: str) -> Target | None:
        """From its name inside the file; None where no libraries are locked for it."""
        return next((target for target in all_targets() if target.tag == tag), None)

    @property
    def tag(self) -> str:
        """Its name inside the file: what skyq.folders.tag() says there."""
        return "cpython-%s-%s" % (self.python.replace(".", ""), self.platform)

    @property
    def pip_options(self) -> list[str]:
        """What makes pip look for it, whatever Python pip itself runs on."""
        cpython = "cp" + self.python.replace(".", "")
        options = ["--python-version", self.python, "--implementation", "cp"]
        options += [word for abi in (cpython, "abi3", "none") for word in ("--abi", abi)]
        return [*options, "--platform", PLATFORMS[self.platform][0]]


FIRST = Target(PYTHONS[0], next(iter(PLATFORMS)))


def all_targets() -> list[Target]:
    """What a release is built for."""
    return [Target(python, platform) for platform in PLATFORMS for python in PYTHONS]


class Pinned(NamedTuple):
    """One library of the lock."""

    name: str
    version: str
    hashes: frozenset[str]

    @property
    def line(self) -> str:
        """How a requirements file says it."""
        hashes = ["--hash=sha256:" + one for one in sorted(self.hashes)]
        return " \\\n    ".join(["%s==%s" % (self.name, self.version), *hashes]) + "\n"


class Wheel(NamedTuple):
    """A wheel file in a cache."""

    path: Path

    @property
    def name(self) -> str:
        """The library's normalised name."""
        return re.sub(r"[-_.]+", "-", self.path.name.split("-")[0]).lower()

    @property
    def version(self) -> str:
        """The library's version."""
        return self.path.name.split("-")[1]

    @property
    def sha256(self) -> str:
        """What the lock pins."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def fits(self, target: Target) -> bool:
        """Whether it can be unpacked for a target."""
        pythons, abis, platforms = (part.split(".") for part in self.path.stem.split("-")[-3:])
        minor = int(target.python.split(".")[1])
        built_for = [int(python[3:]) for python in pythons if re.fullmatch(r"cp3\d+", python)]
        if "abi3" in abis:
            right_python = any(oldest <= minor for oldest in built_for)
        else:
            right_python = "py3" in pythons or (minor in built_for and "cp3%d" % minor in abis)
        pattern = "any|" + PLATFORMS[target.platform][1]
        return right_python and any(re.fullmatch(pattern, platform) for platform in platforms)

    @property
    def breadth(self) -> tuple[bool, bool, str]:
        """Sorts first what serves the most targets: pure Python, then the oldest stable ABI."""
        stem = self.path.stem
        return not stem.endswith("-none-any"), "-abi3-" not in stem, self.path.name


def read_lock(text: str) -> list[Pinned]:
    """The libraries that a lock file pins."""
    found = []
    for entry in re.sub(r"#.*", "", text).replace("\\\n", " ").splitlines():
        if entry.strip():
            name, *hashes = entry.split()
            pinned, version = name.split("==")
            found.append(Pinned(pinned, version, frozenset(one.split(":")[1] for one in hashes)))
    return found


class Cache(NamedTuple):
    """A folder of wheels; `tell` gets a line when something is fetched into it."""

    folder: Path
    tell: Callable[[str], None] = print

    def of(self, library: Pinned) -> list[Wheel]:
        """The wheels of one version, those that serve the most targets first."""
        wheels = [Wheel(path) for path in self.folder.glob("*.whl")]
        return sorted(
            (one for one in wheels if (one.name, one.version) == (library.name, library.version)),
            key=lambda wheel: wheel.breadth,
        )

    def wheel_for(self, library: Pinned, target: Target) -> Wheel | None:
        """The pinned wheel that serves a target."""
        if library.name in ONE_FOR_ALL:
            target = FIRST
        for wheel in self.of(library):
            if wheel.fits(target) and wheel.sha256 in library.hashes:
                return wheel
        return None

    def wheels_for(self, libraries: list[Pinned], target: Target) -> list[Wheel]:
        """Every wheel that a target needs, fetched if it isn't there. Raises SkyqError."""
        missing = [library for library in libraries if self.wheel_for(library, target) is None]
        for group, wanted in ((True, FIRST), (False, target)):
            lines = [library.line for library in missing if (library.name in ONE_FOR_ALL) == group]
            if lines:
                wheels = "1 wheel" if len(lines) == 1 else "%d wheels" % len(lines)
                self.tell("fetching %s for Python %s on %s" % (wheels, *target))
                self.fetch(lines, ["--no-deps", "--require-hashes", *wanted.pip_options])
        found = [self.wheel_for(library, target) for library in libraries]
        for library, wheel in zip(libraries, found):
            if wheel is None:
                text = "requirements.lock has no wheel of %s for Python %s on %s"
                raise SkyqError(text % (library.name, *target))
        return [wheel for wheel in found if wheel]

    def fetch(self, lines: Iterable[str], options: list[str]) -> None:
        """Have pip download wheels; whole ones only, whatever happens meanwhile. Raises CantFetch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self.folder) as aside:
            wanted = Path(aside, "requirements.txt")
            wanted.write_text("".join(lines))
            command = [*pip(), "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
            command += ["--retries", "2"]
            command += [*options, "--dest", aside, "--requirement", str(wanted)]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, text=True, check=False
            )
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                raise CantFetch("\n".join(said or done.stderr.splitlines()[-3:]))
            for wheel in Path(aside).glob("*.whl"):
                wheel.replace(self.folder / wheel.name)


def pip() -> list[str]:
    """The command that runs pip, this Python's or another's. Raises SkyqError where there is none."""
    for command in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        there = shutil.which(command[0])
        if (
            there
            and subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0
        ):
            return command
    text = "fetching the libraries needs pip, and %s has none: apt install python3-pip"
    raise SkyqError(text % sys.executable)
