"""The operations of a cluster over SSH: a client, a head, a worker, each a machine of a lab."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from tests.cluster import GRACE, LocalQueue
from tests.crash.check import Expected, Seen, strangers
from tests.crash.local import DONE, FILES, LOST, WHOLE
from tests.crash.trace import Point, Trace
from tests.crash.world import Operation, World
from tests.faults.truth import Truth
from tests.lab import Host, Lab
from tests.lab.disk import give
from tests.lab.traits import UID
from tests.ssh.remote import LAUNCHER, Remote, commands
from tests.ssh.test_upgrade import NEWER
from tests.waiting import wait_until

BOTH = ("--num-nodes", "2", "--gpus", "H100:1")
LATEST = "next"
KNOWN = (
    r"skyq/(handshakes|members|wheels|enrolled|app)(/.*)?",
    r"skyq/(bin|bin/skyq|pools\.yaml|known_hosts|home-token|clusters|nodes|remotes|remotes/lab\.json)",
    r"skyq/bin/skyq-[^/]+\.pyz(\.[0-9a-f]{8})?",  # node/setup.py tidies up at the next contact
    r"skyq/nodes/[^/]+/(secrets|run|work|logs|wrappers(/wrapper\.py|/\w+(/\w+)?)?)",
    r"skyq/nodes/[^/]+(/run/[0-9a-f]{32}\.\d+\.[\w-]+(/.*)?)?",  # a worker's are removed with the cluster
    r"skyq/nodes/[^/]+/work/[0-9a-f]{32}(\.sent|/.*)?",
    r"tmp/skyq-host\.(claim|shims)",
    r"tmp/skyq-%d(/.*)?" % UID,  # where it unpacks if there was no room
)
KNOWN_ON_HEAD = (
    r"tmp/skyq-host\.claim\.[0-9a-f]{8}\.new",  # the next node agent removes it
    r"skyq/bin/skyq\.[0-9a-f]{8}\.new",  # the dispatcher, when it sees to the crontab
    r"skyq/clusters/lab(/(queue\.db(-wal|-shm)?|journal|tick\.lock|founding\.lock|dispatcher\.(log|sock)|ticked))?",
    r"skyq/clusters/lab/ssh(/(id_ed25519(\.pub)?|known_hosts))?",
    r"skyq/clusters/lab/(secrets|run|work|logs|wrappers(/wrapper\.py|/\w+(/\w+)?)?)",
    r"skyq/clusters/lab/logs/\d+-\w+(/(run\.idx|tasks(/[\w-]+\.log)?))?",
)


class LabWorld(World):
    """A client, and bare hosts, as often as wanted."""

    def __init__(self, folder: Path, program: Path, newer: Callable[[], Path]) -> None:
        """`newer`: makes a newer skyq.pyz, or has it."""
        super().__init__()
        self._newer = newer
        self.lab = Lab(folder, 2, 4, program=program)
        self.lab.up()
        self.keys = {node.name: node.read("/home/ada/.ssh/authorized_keys") for node in self.lab.nodes}

    def reset(self, folder: Path) -> LabWorld:
        """As on the first day."""
        self.folder = folder
        self.said.clear()
        self.ids.clear()
        hosts = self.lab.hosts.values()
        wait_until(lambda: not any(map(self._kill, hosts)), "nothing of ada's lives")  # else it comes back
        for host in hosts:
            self._bare(host)
        self.cluster = Remote(self.lab).pool()
        return self

    def _kill(self, host: Host) -> bool:
        """Whether there was anything."""
        found = [process for process, _ in commands(host, of_root=False)]
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return bool(found)

    def _bare(self, host: Host) -> None:
        def emptied() -> bool:
            self._kill(host)  # a login that was under way
            for name in (".skyq", "truth", "project"):
                shutil.rmtree(host.home / name, ignore_errors=True)
            return not any((host.home / name).exists() for name in (".skyq", "truth", "project"))

        wait_until(emptied, "%s is bare" % host.name)
        for path in [*host.home.glob("sky_workdir*"), *host.path("/var/tmp").glob("skyq*")]:
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
        if host.serves:
            host.write("/home/ada/.ssh/authorized_keys", self.keys[host.name], 0o600)
            (host.home / "truth").mkdir()
            give(host.home / "truth")

    def upgrade(self) -> None:
        """The user has a newer skyq.pyz from now on."""
        shutil.copy(self._newer(), self.cluster.client.home / "newer.pyz")
        self.cluster.program = ["python3", "newer.pyz"]

    def type(self, *words: str) -> str:
        """A command of the user's that must succeed."""
        result = self.cluster.ok(*words)
        self.said[" ".join(words)[:60]] = result.err
        return result.out

    def submit(self, words: list[str], trace: Trace | None = None) -> tuple[int, str]:
        """What somebody types at the client, traced or not: its exit code, and what it said."""
        if trace is None:
            result = self.cluster.run(*words)
            return result.code, result.out + result.err
        client = self.cluster.client
        environment = {"HOME": "/home/ada", "USER": "ada", "LOGNAME": "ada", "SHELL": "/bin/bash"}
        environment.update(PATH="/usr/local/bin:/usr/bin:/bin", LANG="C.UTF-8", SKYQ_GRACE_S=GRACE)
        as_ada = ["setpriv", "--reuid=%d" % UID, "--regid=%d" % UID, "--init-groups", "--"]
        argv = [*client.prefix, *as_ada, "sh", "-c", 'cd && exec "$@"', "sh", *self.cluster.program, *words]
        trace.start(argv, environment)
        return trace.until_ended(), trace.said()

    @property
    def head(self) -> Host:
        """As the client knows it: where the first one can't be had, it is another one."""
        record = self.cluster.client.home / ".skyq" / "remotes" / "lab.json"
        return self.lab.host(json.loads(record.read_text())["head"]["ip"] if record.exists() else "node0")

    @property
    def database(self) -> Path:
        return self.head.home / ".skyq" / "clusters" / "lab" / "queue.db"

    def tick(self) -> None:
        if self.database.exists() and (self.head.home / ".skyq/bin/skyq").exists():
            self.said["tick"] = self.cluster.run("tick", "lab", at=self.head).err

    def go_on(self) -> None:
        """The same command as before makes of whatever there is a cluster, and a job runs on all of it."""
        self.age()
        script = Truth.script("echo $id >>~/truth/ends")
        files = ["--workdir", "project"] if (self.cluster.client.home / "project").exists() else []
        words = ["exec", "lab", "-n", LATEST, "--num-nodes", "2", "--gpus", "H100:4", *files, script]
        self.acknowledge(LATEST, self.type(*words))
        hosts = self.lab.hosts.values()
        places = [place for host in hosts for place in (host.home / ".skyq", host.path("/var/tmp"))]
        if any(list(place.rglob("*.new")) for place in places):
            self.type("add", "lab", "node0", "node1")  # the next contact removes them
        self.type("clean", "lab", "--older", "0d", "-y")

    def age(self) -> None:
        """Two days pass for what nobody will come back to."""
        old = time.time() - 2 * 86400
        for host in self.lab.hosts.values():
            for root in (host.home / ".skyq", host.path("/var/tmp")):
                for folder, names, files in os.walk(root):
                    names[:] = [name for name in names if name != "app"]
                    for name in (*names, *files):
                        os.utime(Path(folder, name), (old, old), follow_symlinks=False)
            for path in host.home.glob("sky_workdir.*"):
                os.utime(path, (old, old), follow_symlinks=False)

    def see(self) -> Seen:
        """All that the check needs."""
        rows = self.rows()
        in_use, integrity = self.database_says()
        starts: Counter[int] = Counter()
        for node in self.lab.nodes:
            for job, count in Counter(map(int, self._lines(node, "starts"))).items():
                starts[job] = max(starts[job], count)  # of a gang each node starts a rank
        return Seen(
            rows,
            starts,
            [int(line) for line in set(self._lines(self.head, "ends"))],
            [line for node in self.lab.nodes for line in self._told(node)],
            [words for node in self.lab.nodes for words in self.cluster.alive(node.name)],
            {row.id: self.log_of(row, "0-head.log") for row in rows},
            in_use,
            integrity,
            [name for host in self.lab.hosts.values() for name in self._strange(host)],
            self.notes(),
        )

    def _told(self, node: Host) -> Iterator[str]:
        """What its jobs found wrong; and if the upgrade has left it out, but for what may fail twice."""
        yield from self._lines(node, "violations")
        said = re.findall(r"^%s: .*" % node.name, "\n".join(self.said.values()), re.MULTILINE)
        renewed = len(self.cluster.program) > 1 and all("skyq can't run there" in line for line in said)
        if renewed and (version := node.run([LAUNCHER, "--version"]).stdout.strip()) != "skyq " + NEWER:
            yield "%s has %s" % (node.name, version)

    def _lines(self, node: Host, name: str) -> list[str]:
        path = node.home / "truth" / name
        return path.read_text().splitlines() if path.exists() else []

    def _strange(self, host: Host) -> Iterator[str]:
        names = []
        roots = [("skyq", host.home / ".skyq"), ("tmp", host.path("/var/tmp"))]
        for root, path in roots:
            for folder, below, files in os.walk(path):
                names += [root + os.path.join(folder, name)[len(str(path)) :] for name in (*below, *files)]
        names += ["me/" + path.name for path in host.home.glob("sky_workdir.*")]
        known = [*KNOWN, *(KNOWN_ON_HEAD if host is self.head else ()), *self._shown(host)]
        yield from ("%s: %s" % (host.name, name) for name in strangers(names, known))

    def _shown(self, host: Host) -> Iterable[str]:
        """The copies of the head that `~/sky_workdir` shows."""
        link = host.home / "sky_workdir"
        todo = [os.readlink(link)] if link.is_symlink() else []
        for copy in todo:
            yield r"skyq%s(\.json|/.*)?" % re.escape(copy.removeprefix("/home/ada/.skyq"))
            manifest = host.path(copy + ".json")
            if manifest.exists():
                todo += json.loads(manifest.read_text()).get("shows", [])

    def evidence(self) -> str:
        """For who reads of a violation."""
        files = ("starts", "ends", "violations")
        notes = [(node.name, name, self._lines(node, name)) for node in self.lab.nodes for name in files]
        return "ledger: %s\nsaid: %s\n%s" % (notes, self.said, self.cluster.evidence())

    def close(self) -> None:
        """It is used again."""

    def down(self) -> None:
        """Nothing of it is left."""
        self.lab.down()


class Remotely(Operation):
    """Submit a job on two nodes; subclasses say whose part in that is walked."""

    at: ClassVar[str]
    """Where who is broken runs."""

    def words(self) -> list[str]:
        """The operation's submit."""
        return ["exec", "lab", "-d", "-n", "victim", *BOTH, Truth.script(DONE)]

    def act(self, world: LabWorld, trace: Trace) -> None:
        """The operation, traced."""
        if self.at == "client":
            code, said = world.submit(self.words(), trace)
        else:
            trace.attach(_sshd(world.lab.host(self.at)))
            code, said = world.submit(self.words())
        self.heard(world, trace, code, said)
        self.then(world, trace)
        if not self.refused and not trace.hit:
            world.settle()

    def then(self, world: LabWorld, trace: Trace) -> None:
        """What comes after the submit."""

    def expected(self, world: LabWorld, hit: Point | None) -> dict[str, Expected]:
        """Of each job."""
        states = {"FAILED": None, **(LOST if hit and hit.role in ("shim", "script") else {})}
        required = hit is None
        return {
            "victim": Expected(world.ids["victim"], required, {} if self.refused else states),
            LATEST: Expected(world.ids[LATEST], True, {"SUCCEEDED": [0, 0]}),
        }


class Bootstrap(Remotely):
    """First contact, as the client sees it."""

    name, roles, at = "bootstrap", ("command",), "client"


class Land(Remotely):
    """First contact, as the first host sees it, which is to be the head.

    Where a host is lost on the way the cluster is made without it, and the user is told how to add it.
    """

    name, roles, at = "land-head", ("landing", "setup"), "node0"

    def retry(self, world: LabWorld) -> None:
        if "skyq add lab" in world.said["the command"]:
            world.age()
            world.type("add", "lab")


class LandWorker(Land):
    """As another one sees it, a worker."""

    name, at = "land-worker", "node1"


class Copy(Remotely):
    """A job with a workdir, after one that had it: what comes to the head, and from there to the worker."""

    name, roles, at = "copy", ("head", "courier"), "node0"

    def prepare(self, world: LabWorld) -> None:
        for name, text in FILES.items():
            world.cluster.file("project/" + name, text)
        former = WHOLE + Truth.script("echo $id >>~/truth/ends")
        world.type("exec", "lab", "-d", "-n", "former", *BOTH, "--workdir", "project", former)
        world.settle()
        world.cluster.file("project/new", "of this job\n")

    def words(self) -> list[str]:
        script = WHOLE + "[ -e new ] || echo a file lacks >>~/truth/violations; " + Truth.script(DONE)
        return ["exec", "lab", "-d", "-n", "victim", *BOTH, "--workdir", "project", script]

    def expected(self, world: LabWorld, hit: Point | None) -> dict[str, Expected]:
        return {**super().expected(world, hit), "former": Expected([], True, {"SUCCEEDED": [0, 0]})}


class CopyWorker(Copy):
    """The same, as the worker sees it."""

    name, roles, at = "copy-worker", ("agent", "shim"), "node1"


class UpgradeClient(Remotely):
    """A newer skyq submits where an older one's job runs on both hosts."""

    name, roles, at = "upgrade-client", ("command",), "client"

    def prepare(self, world: LabWorld) -> None:
        script = Truth.script(LocalQueue.until_open("truth/gate") + "; echo $id >>~/truth/ends")
        world.type("exec", "lab", "-d", "-n", "former", *BOTH, script)
        for node in world.lab.nodes:
            wait_until((node.home / "truth" / "starts").exists, "it has begun", evidence=world.evidence)
        world.upgrade()

    def then(self, world: LabWorld, trace: Trace) -> None:
        if not trace.hit:
            self._open_gate(world)

    def retry(self, world: LabWorld) -> None:
        world.type("queue", "lab")
        self._open_gate(world)

    def _open_gate(self, world: LabWorld) -> None:
        for node in world.lab.nodes:
            (node.home / "truth" / "gate").touch()

    def expected(self, world: LabWorld, hit: Point | None) -> dict[str, Expected]:
        return {**super().expected(world, hit), "former": Expected([], True, {"SUCCEEDED": [0, 0]})}


class UpgradeHead(UpgradeClient):
    """The same, as the head sees it."""

    name, roles, at = "upgrade-head", ("landing", "setup", "head", "dispatcher"), "node0"


class UpgradeWorker(UpgradeClient):
    """As the worker sees it."""

    name, roles, at = "upgrade-worker", ("landing", "setup", "agent"), "node1"


def _sshd(host: Host) -> int:
    """The pid of the listening one."""
    found = [process.pid for process, words in commands(host) if words.startswith("sshd: /")]
    assert len(found) == 1, found
    return found[0]


EVERY: tuple[type[Remotely], ...] = (
    *(Bootstrap, Land, LandWorker, Copy, CopyWorker),
    *(UpgradeClient, UpgradeHead, UpgradeWorker),
)
REMOTE: dict[str, type[Remotely]] = {each.name: each for each in EVERY}
