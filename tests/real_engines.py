"""Real container engines with stores of their own, and a tiny image made from this machine's programs: no
registry is asked, and nothing of an engine that the machine has is touched.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.waiting import wait_until

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


class Real:
    """An engine that works here, as a job can use it."""

    name = ""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env: dict[str, str] = {}
        """What its command needs."""
        self.prefix: list[str] = []
        """What a command line begins with that shall see it."""

    def __call__(self, *words: str) -> str:
        """What one of its commands says; Unusable when it fails."""
        done = subprocess.run(
            [*self.prefix, self.name, *words],
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unusable("%s %s: %s" % (self.name, " ".join(words), done.stderr.strip()))
        return done.stdout

    def close(self) -> None:
        """Nothing of it stays."""

    def try_out(self) -> None:
        """Make the image, and a container."""
        self("import", str(self._image()), "tiny")
        self("run", "--rm", "tiny", "sh", "-c", "exit 0")

    def file(self, name: str, text: str) -> Path:
        """Of its configuration."""
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


class Podman(Real):
    """As root in a mount namespace: some machines' mixed cgroups are more than its runtime can take, and
    there it finds devices to give (CDI), which need not exist.
    """

    name = "podman"

    def __init__(self, root: Path, devices: Sequence[str]) -> None:
        super().__init__(root)
        if not shutil.which("podman"):
            raise Unusable("podman is missing here (apt install podman)")
        self.env = {
            "CONTAINERS_CONF": str(self.file("containers.conf", CONTAINERS % {"root": root})),
            "CONTAINERS_STORAGE_CONF": str(self.file("storage.conf", STORAGE % {"root": root})),
        }
        if os.geteuid() == 0:
            given = [
                {"name": name, "containerEdits": {"env": ["GIVEN_%d=%s" % (number, name)]}}
                for number, name in enumerate(devices)
            ]
            spec = json.dumps({"cdiVersion": "0.3.0", "kind": "nvidia.com/gpu", "devices": given})
            inside = [str(self.file("inside.sh", INSIDE)), str(self.file("gpu.json", spec))]
            self.prefix = ["unshare", "--mount", "sh", "-e", *inside]
        self.try_out()


class Docker(Real):
    """With a daemon of its own, which has no network. Only root can have one."""

    name = "docker"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        daemon = shutil.which("dockerd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if not daemon or not shutil.which("docker"):
            raise Unusable("dockerd or docker is missing here (apt install docker.io)")
        self.env = {"DOCKER_HOST": "unix://%s/socket" % root}
        folders = ["--data-root", "%s/data" % root, "--exec-root", "%s/exec" % root]
        files = ["--pidfile", "%s/pid" % root, "--host", self.env["DOCKER_HOST"]]
        alone = ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"]
        with open(root / "log", "wb") as log:
            self.daemon = subprocess.Popen(
                [daemon, *folders, *files, *alone],
                env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(lambda: self._answers() or self.daemon.poll() is not None, "dockerd answers", 30)
            self.try_out()
        except (AssertionError, Unusable) as error:
            self.close()
            said = (root / "log").read_text().splitlines()
            raise Unusable("%s; dockerd said: %s" % (error, "".join(said[-1:]))) from None

    def _answers(self) -> bool:
        try:
            self("version")
        except Unusable:
            return False
        return True

    def close(self) -> None:
        self.daemon.terminate()
        try:
            self.daemon.wait(30)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
