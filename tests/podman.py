"""A real podman with an own store and a tiny image, made from this machine's programs: no registry is asked.

As root it lives in a mount namespace: some machines' mixed cgroups are more than its runtime can take, and
there it also finds devices to give (CDI), which need not exist.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("sh", "sleep", "printenv")
CONTAINERS = """\
[containers]
cgroups = "disabled"
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "%(root)s/tmp"
"""
STORAGE = """\
[storage]
driver = "vfs"
graphroot = "%(root)s/store"
runroot = "%(root)s/run"
"""
INSIDE = """\
mount --make-rprivate /
mount -t tmpfs tmpfs /run
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /run/cdi
cp "$1" /run/cdi
shift
exec "$@"
"""


class Unusable(Exception):
    """There is none here that works; why."""


class Podman:
    """Made once per test session; Unusable where that can't be done."""

    def __init__(self, root: Path, devices: list[str]) -> None:
        if not shutil.which("podman"):
            raise Unusable("podman is missing here (apt install podman)")
        self.root = root
        self.env = {
            "CONTAINERS_CONF": str(self._file("containers.conf", CONTAINERS % {"root": root})),
            "CONTAINERS_STORAGE_CONF": str(self._file("storage.conf", STORAGE % {"root": root})),
        }
        spec = {
            "cdiVersion": "0.3.0",
            "kind": "nvidia.com/gpu",
            "devices": [
                {"name": name, "containerEdits": {"env": ["GIVEN_%d=%s" % (number, name)]}}
                for number, name in enumerate(devices)
            ],
        }
        self.prefix: list[str] = []
        """What a command line begins with that shall see it."""
        if os.geteuid() == 0:
            script = self._file("inside.sh", INSIDE)
            self.prefix = [
                "unshare",
                "--mount",
                "sh",
                "-e",
                str(script),
                str(self._file("gpu.json", json.dumps(spec))),
            ]
        self("import", str(self._image()), "tiny")
        self("run", "--rm", "tiny", "sh", "-c", "exit 0")

    def __call__(self, *words: str) -> str:
        """What a podman command says."""
        done = subprocess.run(
            [*self.prefix, "podman", *words],
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unusable("podman %s: %s" % (" ".join(words), done.stderr.strip()))
        return done.stdout

    def _file(self, name: str, text: str) -> Path:
        path = self.root / name
        path.write_text(text)
        return path

    def _image(self) -> Path:
        files = self.root / "files"
        for name in PROGRAMS:
            program = Path(shutil.which(name) or name).resolve()
            linked = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
            wanted = {
                "bin/" + name: program,
                **{each[1:]: Path(each) for each in re.findall(r"/\S+", linked)},
            }
            for place, source in wanted.items():
                target = files / place
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    shutil.copy(source, target)
        for folder in ("dev", "proc", "sys", "tmp", "etc"):
            (files / folder).mkdir()
        archive = self.root / "image.tar"
        subprocess.run(["tar", "-C", str(files), "-cf", str(archive), "."], check=True)
        return archive
