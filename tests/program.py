"""The program under test: skyq.pyz, built once per test session from the code as it is then.

SKYQ_TEST_PROGRAM chooses another one: the word `source` the checkout (`python -m skyq`, quicker to debug), a
path that very skyq.pyz.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def program(session_dir: Path) -> list[str]:
    """The argv to start skyq with; `session_dir` is shared by all workers of one pytest run."""
    choice = os.environ.get("SKYQ_TEST_PROGRAM", "")
    if choice == "source":
        return [sys.executable, "-m", "skyq"]
    if choice:
        return [sys.executable, "-S", str(Path(choice).resolve())]
    return [sys.executable, "-S", str(built(session_dir))]  # as its first lines start it


def unpacked(session_dir: Path, argv: list[str]) -> Path:
    """A folder in which the program has unpacked itself: tests share it, since each would unpack 30 MB."""
    home = session_dir / "home"
    app = home / "app"
    with _one_worker(session_dir):
        if not app.exists():
            home.mkdir(exist_ok=True)
            # A YAML file on standard input needs the libraries, and `exec` of one without `run` does nothing.
            subprocess.run(
                [*argv, "exec", "local", "-"],
                input=b"name: unpack\n",
                env={"SKYQ_HOME": str(home), "HOME": str(home), "PATH": os.environ["PATH"]},
                cwd=ROOT,
                capture_output=True,
                check=False,
            )
            app.mkdir(exist_ok=True)
    return app


IMPORTS_TOLD = {"PYTHONPROFILEIMPORTTIME": "1"}
"""In the environment of a Python that shall tell what it imports."""


def imported(told: str) -> set[str]:
    """The names of the modules. `told`: its standard error."""
    return {line.rpartition("|")[2].strip() for line in told.splitlines()}


def built(session_dir: Path) -> Path:
    """skyq.pyz as the code is now; SKYQ_TEST_PROGRAM, where that is one."""
    choice = os.environ.get("SKYQ_TEST_PROGRAM", "")
    if choice not in ("", "source"):
        return Path(choice).resolve()
    pyz = session_dir / "skyq.pyz"
    with _one_worker(session_dir):
        if not pyz.exists():
            aside = session_dir / "skyq.pyz.new"
            done = subprocess.run(
                [sys.executable, str(ROOT / "build_zipapp.py"), "-o", str(aside)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, "build_zipapp.py failed:\n" + done.stdout + done.stderr
            aside.rename(pyz)
    return pyz


class _one_worker:  # noqa: N801
    """One pytest-xdist worker at a time."""

    def __init__(self, session_dir: Path) -> None:
        self.path = session_dir / "program.lock"

    def __enter__(self) -> None:
        self.file = open(self.path, "w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()
