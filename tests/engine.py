"""A container engine that records what it is told. Its containers are children of the test, as docker's are
of its daemon: no signal to a job's processes reaches them.

    engine.calls("run")        -> the argv of each `docker run`, without the program
    engine.living()            -> the ids of containers that run

Images: `polite` ends at a TERM, `stubborn` only at a KILL.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.waiting import wait_until

PROGRAM = """\
#!%(python)s -IS
import json, os, signal, sys, time

root, argv = %(root)r, sys.argv[1:]

def path(*names):
    return os.path.join(root, *names)

def put(name, value):
    with open(path(name + ".new"), "w") as file:
        json.dump(value, file)
    os.rename(path(name + ".new"), path(name))

def wait(condition):
    while not condition():
        time.sleep(0.01)

put("calls/%%d-%%d" %% (time.time_ns(), os.getpid()), {"argv": sys.argv, "env": dict(os.environ)})
if os.path.exists(path("hung")):
    time.sleep(1000)
if os.path.exists(path("down")):
    sys.exit("Cannot connect to the engine. Is the daemon running?")
if argv[0] in ("run", "create"):
    one = "%%064x" %% time.time_ns()
    put("wanted/" + one, argv)
    wait(lambda: os.path.exists(path("living", one)))
    if "-d" in argv:
        print(one)
    else:
        signal.signal(signal.SIGTERM, lambda *_: put("signals/%%s.TERM" %% one, None))
        wait(lambda: not os.path.exists(path("living", one)))
elif argv[0] == "ps":
    label = argv[argv.index("--filter") + 1].partition("=")[2]
    for one in sorted(os.listdir(path("living"))):
        if label in json.load(open(path("living", one))):
            print(one)
elif argv[0] == "kill":
    for one in argv[3:]:
        put("signals/%%s.%%s" %% (one, argv[2]), None)
        wait(lambda: not os.path.exists(path("signals/%%s.%%s" %% (one, argv[2]))))
"""
IMAGES = {"polite": "exec sleep 1000", "stubborn": "trap '' TERM; while :; do sleep 0.05; done"}


class Engine:
    """The daemon, and the folder with its program."""

    def __init__(self, root: Path, name: str = "docker") -> None:
        self.root = root
        self.bin = root / "bin"
        self.name = name
        for folder in ("bin", "calls", "wanted", "living", "signals"):
            (root / folder).mkdir(parents=True)
        program = self.bin / name
        program.write_text(PROGRAM % {"python": sys.executable, "root": str(root)})
        program.chmod(0o755)
        self.signals: list[tuple[str, str]] = []
        """(id, signal name) of each kill."""
        self._containers: dict[str, subprocess.Popen[bytes]] = {}
        self._closing = threading.Event()
        self._daemon = threading.Thread(target=self._serve)
        self._daemon.start()

    def calls(self, verb: str = "") -> list[list[str]]:
        """The words of each call, in order, without the program; those that begin with the verb."""
        found = [call["argv"][1:] for call in self.told()]
        return [argv for argv in found if verb in ("", argv[0])]

    def told(self) -> list[dict[str, object]]:
        """argv and env of each call."""
        names = sorted(path for path in (self.root / "calls").iterdir() if path.suffix != ".new")
        return [json.loads(path.read_text()) for path in names]

    def living(self) -> list[str]:
        """The containers that run."""
        return sorted(path.name for path in (self.root / "living").iterdir() if path.suffix != ".new")

    def one(self) -> str:
        """The only container, once it runs."""
        wait_until(lambda: len(self.living()) == 1, "one container runs")
        return self.living()[0]

    def set(self, mode: str, on: bool = True) -> None:
        """`down`: every command fails; `hung`: every command hangs."""
        (self.root / mode).touch() if on else (self.root / mode).unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing of it stays."""
        self._closing.set()
        self._daemon.join()
        for process in self._containers.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for one in self.living():
            (self.root / "living" / one).unlink()

    # The daemon.

    def _serve(self) -> None:
        while not self._closing.is_set():
            for path in self._there("wanted"):
                self._run(path)
            for path in self._there("signals"):
                self._signal(path)
            for one, process in list(self._containers.items()):
                if process.poll() is not None:
                    del self._containers[one]
                    (self.root / "living" / one).unlink()
            time.sleep(0.01)

    def _there(self, folder: str) -> list[Path]:
        return sorted(path for path in (self.root / folder).iterdir() if path.suffix != ".new")

    def _run(self, wanted: Path) -> None:
        argv = json.loads(wanted.read_text())
        command = next(text for image, text in IMAGES.items() if image in argv)
        self._containers[wanted.name] = subprocess.Popen(
            ["/bin/sh", "-c", command], cwd="/", env={}, start_new_session=True, stdin=subprocess.DEVNULL
        )
        labels = [argv[at + 1] for at, word in enumerate(argv) if word == "--label"]
        aside = self.root / "living" / (wanted.name + ".new")
        aside.write_text(json.dumps(labels))
        aside.rename(self.root / "living" / wanted.name)
        wanted.unlink()

    def _signal(self, path: Path) -> None:
        one, _, name = path.name.partition(".")
        self.signals.append((one, name))
        if one in self._containers:
            os.killpg(self._containers[one].pid, signal.Signals["SIG" + name])
        path.unlink()
