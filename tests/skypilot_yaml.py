"""`python3 tests/skypilot_yaml.py FOLDER`: SkyPilot's own YAML files, unchanged, through skyq.pyz.

FOLDER is a checkout of SkyPilot. Each task file goes through `launch --dryrun` on a `local` that declares
16 of every accelerator any of them names. What seems to need no network, no GPU program, no container and
no second node is then really run, with a stand-in for conda. Prints a Markdown table of path and outcome,
and the counts to stderr.

Runs other people's scripts: in a throw-away HOME, but with your rights. --dry runs none.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("examples", "llm", "sky/recipes", "tests")
TASK_KEYS = frozenset(
    ("run", "setup", "resources", "service", "pool", "num_nodes", "workdir", "file_mounts", "volumes")
)
# What a script can't do without, by what it calls.
NEEDS = {
    "network": r"\b(pip3?|uvx?|npm|cargo|wget|curl|rsync|ssh|ping|hf|ray|vllm)\b"
    r"|conda (install|create)|git clone|https?://",
    "root": r"\b(sudo|apt|apt-get|yum|systemctl|mount|shutdown|reboot|killall|pkill|service)\b",
    "GPU programs": r"nvidia-smi|rocm-smi|\b(torchrun|deepspeed|mpirun|accelerate|nvcc)\b"
    r"|import (torch|jax|tensor)",
    "Docker": r"\b(docker|podman|nerdctl)\b",
    "what another task leaves": r"\.venv/bin|conda activate|\bcd (?!~/sky_workdir)|--output-dir",
    "a disk to fill": r"\bdd if=",
    "a cloud's programs": r"\b(aws|gsutil|gcloud|az|kubectl|rclone|sky|oci)\b",
}
MISSING = re.compile(r"(Environment|Secret) variable '(\w+)' is None")


class Outcome(NamedTuple):
    """What became of one file."""

    kind: str  # runs, fails, accepted, refused
    detail: str


class Trial:
    """A queue in a home of its own, for a folder of files."""

    def __init__(self, folder: Path, accelerators: set[str], seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.aside = Path(tempfile.mkdtemp(prefix="skyq-yaml-"))
        home = self.aside / "home"
        (home / ".skyq").mkdir(parents=True, mode=0o700)
        # SkyPilot's machines have these two; this one may not.
        (home / "bin").mkdir()
        (home / "bin" / "python").symlink_to(sys.executable)
        (home / "bin" / "conda").write_text('#!/bin/sh\necho "conda $*"\n')
        (home / "bin" / "conda").chmod(0o755)
        (home / ".bashrc").write_text('export PATH="$HOME/bin:$PATH"\n')
        host = {
            "ip": "localhost",
            "accelerators": dict.fromkeys(sorted(accelerators), 16),
            "cpus": 1024,
            "memory": 16384,
        }
        (home / ".skyq" / "pools.yaml").write_text(yaml.safe_dump({"local": {"hosts": [host]}}))
        self.environ = {
            "HOME": str(home), "PATH": os.environ["PATH"], "SKYQ_HOME": str(home / ".skyq"),
            "SKYQ_CLAIM_DIR": str(self.aside), "SKYQ_CRON": "off", "SKYQ_GRACE_S": "2",
        }  # fmt: skip

    def skyq(self, cwd: Path, *words: str, seconds: float = 60) -> tuple[int, str, str]:
        """Exit code, output and errors; the code is 124 if Ctrl-C had to end it."""
        argv = [sys.executable, str(ROOT / "skyq.pyz"), *words]
        with subprocess.Popen(
            argv, env=self.environ, cwd=cwd, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                said, errors = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                return (124, *process.communicate())
            return process.returncode, said, errors

    def outcome(self, path: Path, task: dict[str, Any], dry: bool) -> Outcome:
        scripts = "\n".join(str(task.get(key, "")) for key in ("setup", "run"))
        scripts = re.sub(r"(?m)^\s*#.*", "", scripts)
        needs = [need for need, called in NEEDS.items() if re.search(called, scripts)]
        if any(str(target).startswith("/") for target in task.get("file_mounts") or ()):
            needs.append("paths outside the home")
        if "'docker:" in str(task.get("resources")):
            needs.append("its image")
        words: list[str] = []
        if task.get("num_nodes", 1) not in (1, None):
            words, needs = ["--num-nodes", "1"], [*needs, "%s nodes" % task["num_nodes"]]
        # A workdir is relative to where one types: SkyPilot's files mean either of these.
        for cwd in (self.folder, path.parent):
            code, errors, given = self.forecast(cwd, path, words)
            if code == 0:
                break
        if given:
            needs.append("values of " + ", ".join("`%s`" % name for name in given))
        if code:
            return Outcome("refused", _sentence(errors))
        if needs or dry:
            return Outcome("accepted", "needs " + ", ".join(needs) if needs else "not run")
        return self.run(cwd, path)

    def forecast(self, cwd: Path, path: Path, words: list[str]) -> tuple[int, str, list[str]]:
        """Of a dry run: exit code, output, and the variables that it wanted from the command line."""
        given: list[str] = []
        words = [*words]
        while True:
            code, _, errors = self.skyq(cwd, "launch", "-c", "local", str(path), "--dryrun", "-y", *words)
            missing = MISSING.search(errors)
            if code == 0 or missing is None or missing[2] in given:
                return code, errors, given
            given.append(missing[2])
            words += ["--env" if missing[1] == "Environment" else "--secret", missing[2] + "=placeholder"]

    def run(self, cwd: Path, path: Path) -> Outcome:
        code, said, errors = self.skyq(cwd, "launch", "-c", "local", str(path), "-y", seconds=self.seconds)
        if code == 124:
            self.skyq(cwd, "cancel", "local", "-a", "-y")
            return Outcome("runs", "still RUNNING after %g s, then cancelled" % self.seconds)
        ended = re.search(r"\(status: (\w+)\)", said)
        if code == 0:
            return Outcome("runs", ended[1] if ended else "has nothing to run")
        if ended is None:
            return Outcome("refused", _sentence(errors))
        printed = re.findall(r"(?m)^\([^()]*pid=\d+[^()]*\) (.*\S)", re.sub(r"\x1b\[[\d;]*m", "", said))
        last = re.sub(r"/\S*/script: ", "", printed[-1] if printed else "")
        return Outcome("fails", "%s; last line: `%s`" % (ended[1], _cell(last)))

    def close(self) -> None:
        self.skyq(self.aside, "down", "local", "--purge", "-y")
        shutil.rmtree(self.aside, ignore_errors=True)


def _sentence(errors: str) -> str:
    """The error of a command: its last line, as a table's cell, without the folders of the file."""
    lines = [line for line in errors.splitlines() if line.strip()]
    return _cell(re.sub(r"/[\w./-]*/", "", lines[-1] if lines else "no word why"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")


def documents(text: str) -> list[Any]:
    """What the file holds; nothing where it is no YAML."""
    try:
        return [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError:
        return []


def is_task(found: list[Any]) -> bool:
    """Is it a task file, rather than a configuration of SkyPilot or of another program?"""
    return any(isinstance(each, dict) and TASK_KEYS & each.keys() for each in found) and not any(
        isinstance(each, dict) and {"apiVersion", "cluster_name", "on", True} & each.keys() for each in found
    )


def named(value: Any) -> Iterator[str]:
    """Every accelerator that a resources section names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("accelerators", "gpus"):
                yield from (name for name in names(inner) if name.lower() != "none")
            elif key in ("any_of", "ordered") and isinstance(inner, list):
                for each in inner:
                    yield from named(each)


def names(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        parts = value.split(":")
        yield parts[1] if len(parts) > 1 and re.match("[A-Za-z]", parts[1]) else parts[0]
    elif isinstance(value, (dict, list, set)):
        for each in value:
            yield from names(each)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dry", action="store_true", help="run nothing")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long one may run (default: 30)")
    parser.add_argument("--only", default="", help="only paths that contain this")
    args = parser.parse_args()
    folder = args.folder.resolve()
    paths = sorted(
        path for each in FOLDERS for path in (folder / each).rglob("*.y*ml") if args.only in str(path)
    )
    texts = {path: path.read_text(errors="replace") for path in paths if path.is_file()}
    found = {path: documents(text) for path, text in texts.items()}
    tasks = [one for each in found.values() for one in each if isinstance(one, dict)]
    accelerators = {name.upper() for task in tasks for name in named(task.get("resources"))}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    counts: collections.Counter[str] = collections.Counter()
    trial = Trial(folder, accelerators, args.seconds)
    print("| file | outcome | |\n|---|---|---|")
    try:
        for path in texts:
            if not is_task(found[path]):
                counts["no task"] += 1
                continue
            outcome = trial.outcome(path, found[path][-1], args.dry)
            counts[outcome.kind] += 1
            print("| `%s` | %s | %s |" % (path.relative_to(folder), *outcome), flush=True)
    finally:
        trial.close()
    print(", ".join("%s: %d" % pair for pair in sorted(counts.items())), file=sys.stderr)


if __name__ == "__main__":
    main()
