"""Build skyq.pyz, the whole of skyq in one file: `python3 build_zipapp.py`.

Runs on any Python since 3.10 that has pip, and needs no venv. The file holds skyq's own code and, as the
very wheels that requirements.lock pins, its libraries for the Python and platform that build it (or for those
that are named, or for --all). pip fetches a wheel once, into .wheels beside this script; from then on no
network is needed.

The same code and lock give the same bytes: entries are sorted, undated, and stored uncompressed, because
compressed they would differ with the zlib of the machine.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Iterable, NamedTuple, NoReturn

HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements.lock"
CACHE = HERE / ".wheels"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# The wheel platforms that run there: the newest, for pip, and a pattern for all. (glibc 2.17 is of 2012.)
# macOS on Intel isn't here: cryptography no longer builds for it.
PLATFORMS = {
    "linux-x86_64": ("manylinux2014_x86_64", r"manylinux(1|2010|2014|_2_(5|12|17))_x86_64"),
    "linux-aarch64": ("manylinux2014_aarch64", r"manylinux(2014|_2_17)_aarch64"),
    "darwin-arm64": ("macosx_11_0_arm64", r"macosx_(10_\d+_universal2|11_0_(arm64|universal2))"),
}
ONE_FOR_ALL = {"pyyaml"}  # its compiled part is left out when it's unpacked, so one wheel serves everywhere
LOCK_HEAD = """\
# The libraries inside skyq.pyz, as wheels: one version for all Pythons and platforms, and of each version
# just the wheels that are used. Written by `python3.10 build_zipapp.py --relock`.
"""


class Target(NamedTuple):
    """A Python and platform that the file can run on."""

    python: str
    platform: str

    @property
    def tag(self) -> str:
        """Its name inside the file: what skyq.boot.tag() says there."""
        return "cpython-%s-%s" % (self.python.replace(".", ""), self.platform)

    @property
    def pip_options(self) -> list[str]:
        """What makes pip look for it, whatever Python pip itself runs on."""
        cpython = "cp" + self.python.replace(".", "")
        options = ["--python-version", self.python, "--implementation", "cp"]
        options += [word for abi in (cpython, "abi3", "none") for word in ("--abi", abi)]
        return [*options, "--platform", PLATFORMS[self.platform][0]]


FIRST = Target(PYTHONS[0], next(iter(PLATFORMS)))


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
    """A wheel file in the cache."""

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


# --- wheels -------------------------------------------------------------------------------------------------


def read_lock(text: str) -> list[Pinned]:
    """The libraries that a lock file pins."""
    found = []
    for entry in re.sub(r"#.*", "", text).replace("\\\n", " ").splitlines():
        if entry.strip():
            name, *hashes = entry.split()
            pinned, version = name.split("==")
            found.append(Pinned(pinned, version, frozenset(one.split(":")[1] for one in hashes)))
    return found


def wheel_for(library: Pinned, target: Target) -> Wheel | None:
    """The pinned wheel in the cache that serves a target."""
    if library.name in ONE_FOR_ALL:
        target = FIRST
    for wheel in cached(library):
        if wheel.fits(target) and wheel.sha256 in library.hashes:
            return wheel
    return None


def cached(library: Pinned) -> list[Wheel]:
    """The cache's wheels of one version, those that serve the most targets first."""
    wheels = [Wheel(path) for path in CACHE.glob("*.whl")]
    return sorted(
        (wheel for wheel in wheels if (wheel.name, wheel.version) == (library.name, library.version)),
        key=lambda wheel: wheel.breadth,
    )


def wheels_for(libraries: list[Pinned], target: Target) -> list[Wheel]:
    """Every wheel that a target needs, fetched if the cache lacks it."""
    missing = [library for library in libraries if wheel_for(library, target) is None]
    for group, wanted in ((True, FIRST), (False, target)):
        lines = [library.line for library in missing if (library.name in ONE_FOR_ALL) == group]
        if lines:
            print("fetching %d wheels for Python %s on %s" % (len(lines), *target), file=sys.stderr)
            fetch(lines, ["--no-deps", "--require-hashes", *wanted.pip_options])
    found = [wheel_for(library, target) for library in libraries]
    for library, wheel in zip(libraries, found):
        if wheel is None:
            fail("requirements.lock has no wheel of %s for Python %s on %s" % (library.name, *target))
    return [wheel for wheel in found if wheel]


def fetch(lines: Iterable[str], options: list[str]) -> None:
    """Have pip download wheels into the cache; whole ones only, whatever happens meanwhile."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=CACHE) as aside:
        wanted = Path(aside, "requirements.txt")
        wanted.write_text("".join(lines))
        command = [*pip(), "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
        command += [*options, "--dest", aside, "--requirement", str(wanted)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            fail(
                "pip can't fetch the libraries:\n%s\nRun this again with a network, or with .wheels copied "
                "from a machine that has one" % "\n".join(said or done.stderr.splitlines()[-3:])
            )
        for wheel in Path(aside).glob("*.whl"):
            wheel.replace(CACHE / wheel.name)


def pip() -> list[str]:
    """The command that runs pip, this Python's or another's."""
    for command in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        there = shutil.which(command[0])
        if there and subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
            return command
    fail("fetching the libraries needs pip, and %s has none: apt install python3-pip" % sys.executable)


# --- the file -----------------------------------------------------------------------------------------------


def own_code(deps: str) -> dict[str, bytes]:
    """skyq's own files, by their names in the zip."""
    files = {}
    for path in sorted((HERE / "skyq").rglob("*")):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(HERE).parts)
        if path.is_file() and not hidden and not path.name.endswith((".pyc", "~")):
            files[path.relative_to(HERE).as_posix()] = path.read_bytes()
    fill_in(files, "skyq/program.py", "DEPS", deps)
    return files


def fill_in(files: dict[str, bytes], name: str, constant: str, value: str) -> None:
    """Give an empty constant at the top of a module its value."""
    empty = b'\n%s = ""' % constant.encode()
    if files[name].count(empty) != 1:
        fail('%s has no line %s = ""' % (name, constant))
    files[name] = files[name].replace(empty, b'\n%s = "%s"' % (constant.encode(), value.encode()))


def entries(targets: list[Target]) -> dict[str, bytes]:
    """All that goes into the file, by name."""
    from skyq.unpack import UNWANTED, content_id

    libraries = read_lock(LOCK.read_text())
    # The id stands for all that the lock has, so that a file for one target shares it with a file for all.
    pinned = "".join(sorted(library.line for library in libraries))
    deps = content_id({"lock": pinned.encode(), "unwanted": repr(UNWANTED).encode()})
    code = own_code(deps)
    found = {target.tag: wheels_for(libraries, target) for target in targets}
    held = {tag: sorted(wheel.path.name for wheel in wheels) for tag, wheels in found.items()}
    files = {"__main__.py": main_module(code)}
    fill_in(files, "__main__.py", "CODE", content_id(code))
    files["code.txt"] = "\n".join(sorted(code)).encode()
    files["deps/index.json"] = json.dumps({"id": deps, "targets": held}, sort_keys=True).encode()
    files.update(code)
    for wheels in found.values():
        files.update({"deps/" + wheel.path.name: wheel.path.read_bytes() for wheel in wheels})
    return files


def main_module(code: dict[str, bytes]) -> bytes:
    """boot.py with folders.py in it: a second module of the zip would cost each start a millisecond."""
    lines = code["skyq/boot.py"].splitlines(keepends=True)
    at = [number for number, line in enumerate(lines) if line.startswith(b"from skyq.folders import")]
    if len(at) != 1:
        fail("skyq/boot.py doesn't import skyq.folders in one line")
    lines[at[0]] = code["skyq/folders.py"]
    return b"".join(lines)


def write(output: Path, files: dict[str, bytes]) -> None:
    """Write the zip aside and rename it: a running skyq may still read the old one."""
    aside = output.with_name(".%s.%d" % (output.name, os.getpid()))
    try:
        with open(aside, "wb") as file:
            file.write(b"#!/usr/bin/env python3\n")
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name in sorted(files):
                    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                    entry.create_system = 3  # Unix, wherever it's built
                    entry.external_attr = 0o100644 << 16
                    archive.writestr(entry, files[name])
        aside.chmod(0o755)
        aside.replace(output)
    finally:
        aside.unlink(missing_ok=True)


# --- the lock -----------------------------------------------------------------------------------------------


def relock() -> None:
    """Choose the newest versions that serve every target, and pin the fewest wheels that do."""
    if "3.%d" % sys.version_info[1] != FIRST.python:
        fail("--relock wants Python %s: pip asks its own Python what the libraries need" % FIRST.python)
    stated = re.search(r"^dependencies = (\[.*?\])", (HERE / "pyproject.toml").read_text(), re.M | re.S)
    wanted = ast.literal_eval(stated.group(1) if stated else "[]")
    with tempfile.TemporaryDirectory() as empty:
        global CACHE
        CACHE = Path(empty)
        fetch([one + "\n" for one in wanted], FIRST.pip_options)
        wheels = [Wheel(path) for path in CACHE.glob("*.whl")]
        chosen = [Pinned(wheel.name, wheel.version, frozenset()) for wheel in wheels]
        text = LOCK_HEAD + "".join(pin(library).line for library in sorted(chosen))
    LOCK.write_text(text)


def pin(library: Pinned) -> Pinned:
    """The library with the hashes of the wheels that serve all targets."""
    line = "%s==%s\n" % (library.name, library.version)
    used = set()
    try:
        fetch([line], ["--no-deps", "--platform", "any", "--abi", "none"])
    except SystemExit:
        pass  # there is none in pure Python
    for target in [FIRST] if library.name in ONE_FOR_ALL else all_targets():
        if not any(wheel.fits(target) for wheel in cached(library)):
            fetch([line], ["--no-deps", *target.pip_options])
        fitting = [wheel for wheel in cached(library) if wheel.fits(target)]
        if not fitting:
            fail("no wheel of %s fits Python %s on %s" % (line.strip(), *target))
        used.add(fitting[0].sha256)
    return library._replace(hashes=frozenset(used))


# --- the command line ---------------------------------------------------------------------------------------


def all_targets() -> list[Target]:
    """What a release is built for."""
    return [Target(python, platform) for platform in PLATFORMS for python in PYTHONS]


def targets_of(options: argparse.Namespace) -> list[Target]:
    """What the command line asks the file to run on."""
    if options.all:
        return all_targets()
    if options.no_libraries:
        return []
    pythons, platforms = options.python.split(","), options.platform.split(",")
    for option, asked, known in (("--python", pythons, PYTHONS), ("--platform", platforms, PLATFORMS)):
        for one in asked:
            if one not in known:
                fail("no libraries are locked for %s: choose %s from %s" % (one, option, ", ".join(known)))
    return [Target(python, platform) for platform in platforms for python in pythons]


def fail(sentence: str) -> NoReturn:
    """Say what is wrong, and stop."""
    sys.exit("build_zipapp.py: " + sentence)


def main() -> None:
    """Build, or lock anew."""
    if sys.version_info < (3, 10):
        fail("Python %d.%d is too old: 3.10 or newer builds skyq" % sys.version_info[:2])
    from skyq.folders import platform

    parser = argparse.ArgumentParser(description="Build skyq.pyz.")
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("skyq.pyz"), metavar="FILE", help="default: skyq.pyz")
    add("--python", default="3.%d" % sys.version_info[1], metavar="3.10,…", help="default: this one")
    add("--platform", default=platform(), metavar=",".join(PLATFORMS), help="default: this machine's")
    add("--all", action="store_true", help="for every Python and platform: a release")
    add("--no-libraries", action="store_true", help="own code only: all that a worker needs")
    add("--relock", action="store_true", help="choose versions anew: write requirements.lock, build nothing")
    options = parser.parse_args()
    if options.relock:
        relock()
        return
    targets = targets_of(options)
    write(options.output, entries(targets))
    size = options.output.stat().st_size / 1e6
    held = " on ".join(", ".join(dict.fromkeys(words)) for words in zip(*targets))
    print(
        "%s: %.1f MB, with the libraries for %s"
        % (options.output, size, "Python " + held if held else "no Python")
    )


if __name__ == "__main__":
    main()
