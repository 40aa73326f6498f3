"""`python3 tests [PYTEST ARGUMENT...]`: makes .venv, installs what the tests need, and runs all checks.

Standard library only, any Python since 3.10. Everything runs, whatever failed before it; the tests come last.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed-for-tests"  # what was asked for when the installation was whole
OLDEST = (3, 10)

CHECKS = {
    "lint": ["ruff", "check", "--output-format", "concise", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "audit": ["tests.audit"],
}
# Three on two CPUs, since many tests wait for something most of their time.
TESTS = ["pytest", "-q", "-n", "3", "--dist", "worksteal"]  # `python3 tests -n 0 --pdb` undoes the -n
# A test that hangs for 7 minutes shows where, and fails; the others go on in a new worker.
TESTS += ["-o", "faulthandler_timeout=420", "-o", "faulthandler_exit_on_timeout=true"]


def main(arguments: list[str]) -> int:
    """0 when all is well."""
    if sys.version_info < OLDEST:
        sys.exit("The tests need Python %d.%d or newer; this is %d.%d." % (*OLDEST, *sys.version_info[:2]))
    install(wanted())
    failed = [name for name, words in CHECKS.items() if not run(name, words)]
    if not run("tests", [*TESTS, *arguments]):
        failed.append("tests")
    if failed:
        print("FAILED: " + ", ".join(failed), file=sys.stderr)
    return 1 if failed else 0


def wanted() -> list[str]:
    """The requirements that pyproject.toml states for running and for testing. Python 3.10 reads no TOML."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    stated: list[str] = []
    for key in ("dependencies", "test"):
        found = re.search(r"^%s = (\[.*?\])$" % key, text, re.MULTILINE | re.DOTALL)
        if found is None:
            sys.exit("pyproject.toml has no list `%s`." % key)
        stated += ast.literal_eval(found[1])
    return stated


def install(requirements: list[str]) -> None:
    """Have them in .venv; an installation for the same requirements and Python is used again."""
    stamp = "\n".join([sys.version, sys.base_prefix, *requirements])
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text(encoding="utf-8") == stamp:
        return
    print("== installing into %s" % VENV, flush=True)
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False).returncode:
        sys.exit("python3 -m venv failed. Debian and Ubuntu have it in the package python3-venv.")
    pip = [str(PYTHON), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    if subprocess.run([*pip, *requirements], check=False).returncode:
        sys.exit("pip can't install what the tests need: %s" % ", ".join(requirements))
    STAMP.write_text(stamp, encoding="utf-8")


def run(name: str, words: list[str]) -> bool:
    """Whether one part went well."""
    print("== %s: %s" % (name, shlex.join(words)), flush=True)
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run([str(PYTHON), "-m", *words], cwd=ROOT, env=environ, check=False).returncode == 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
