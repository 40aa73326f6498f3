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
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from skyq.client import slices
from skyq.client.wheels import (
    FIRST,
    ONE_FOR_ALL,
    PLATFORMS,
    PYTHONS,
    Cache,
    CantFetch,
    Pinned,
    Target,
    Wheel,
    all_targets,
    read_lock,
)
from skyq.core.errors import SkyqError

HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements.lock"
CACHE = HERE / ".wheels"
LOCK_HEAD = """\
# The libraries inside skyq.pyz, as wheels: one version for all Pythons and platforms, and of each version
# just the wheels that are used. Written by `python3.10 build_zipapp.py --relock`.
"""


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
    cache = Cache(CACHE, told)
    found = {target.tag: cache.wheels_for(libraries, target) for target in targets}
    held = {tag: sorted(wheel.path.name for wheel in wheels) for tag, wheels in found.items()}
    files = {"__main__.py": main_module(code)}
    fill_in(files, "__main__.py", "CODE", content_id(code))
    files["code.txt"] = "\n".join(sorted(code)).encode()
    files[slices.INDEX] = slices.index(deps, held)
    files[slices.LOCK] = LOCK.read_bytes()
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
        aside.write_bytes(slices.packed(files))
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
        cache = Cache(Path(empty), told)
        cache.fetch([one + "\n" for one in wanted], FIRST.pip_options)
        wheels = [Wheel(path) for path in cache.folder.glob("*.whl")]
        chosen = [Pinned(wheel.name, wheel.version, frozenset()) for wheel in wheels]
        text = LOCK_HEAD + "".join(pin(cache, library).line for library in sorted(chosen))
    LOCK.write_text(text)


def pin(cache: Cache, library: Pinned) -> Pinned:
    """The library with the hashes of the wheels that serve all targets."""
    line = "%s==%s\n" % (library.name, library.version)
    used = set()
    try:
        cache.fetch([line], ["--no-deps", "--platform", "any", "--abi", "none"])
    except CantFetch:
        pass  # there is none in pure Python
    for target in [FIRST] if library.name in ONE_FOR_ALL else all_targets():
        if not any(wheel.fits(target) for wheel in cache.of(library)):
            cache.fetch([line], ["--no-deps", *target.pip_options])
        fitting = [wheel for wheel in cache.of(library) if wheel.fits(target)]
        if not fitting:
            fail("no wheel of %s fits Python %s on %s" % (line.strip(), *target))
        used.add(fitting[0].sha256)
    return library._replace(hashes=frozenset(used))


# --- the command line ---------------------------------------------------------------------------------------


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


def told(line: str) -> None:
    """Say what is going on."""
    print(line, file=sys.stderr)


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
    targets = targets_of(options)
    try:
        if options.relock:
            relock()
            return
        write(options.output, entries(targets))
    except CantFetch as error:
        fail(
            "pip can't fetch the libraries:\n%s\nRun this again with a network, or with .wheels copied "
            "from a machine that has one" % error
        )
    except SkyqError as error:
        fail(str(error))
    size = options.output.stat().st_size / 1e6
    held = " on ".join(", ".join(dict.fromkeys(words)) for words in zip(*targets))
    print(
        "%s: %.1f MB, with the libraries for %s"
        % (options.output, size, "Python " + held if held else "no Python")
    )


if __name__ == "__main__":
    main()
