"""What was seen of one run, from skyq and from outside it, as values: check.py compares them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.cluster import Record
from tests.nemesis.faults import Excuses
from tests.nemesis.jobs import TRUTH, Job
from tests.nemesis.kernel import Mark
from tests.nemesis.people import Said, Shown
from tests.ssh.remote import Remote, commands


@dataclass
class Notes:
    """What the jobs wrote on their nodes' disks."""

    starts: Counter[Mark] = field(default_factory=Counter)
    ends: dict[Mark, int] = field(default_factory=dict)
    """Exit codes, of those that came to their end."""
    unwritten: set[Mark] = field(default_factory=set)
    """Who found no room for all it had to print."""
    wrong: list[str] = field(default_factory=list)
    """What a job itself found not to be as it must."""

    def read(self, node: str, text: str) -> None:
        """Those of one node."""
        for line in text.splitlines():
            what, token, *rest = line.split()
            if what == "double" or len(rest) < 2:
                self.wrong.append("%s: %s" % (node, line))
                continue
            mark = Mark(token, int(rest[0]), int(rest[1]))
            if what == "start":
                self.starts[mark] += 1
            elif what == "end":
                self.ends[mark] = int(rest[2])
            elif what == "unwritten":
                self.unwritten.add(mark)
            else:
                self.wrong.append("%s: %s" % (node, line))


@dataclass
class World:
    """All that is known at the end."""

    jobs: list[Job] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    """As `queue -o json` tells them."""
    earlier: dict[int, list[Record]] = field(default_factory=dict)
    """Job → what skyq remembers of its attempts before the last one."""
    ended: dict[int, float] = field(default_factory=dict)
    """Job → when it was first seen to be in a final state; monotonic, as are all these times."""
    notes: Notes = field(default_factory=Notes)
    exits: dict[Mark, int] = field(default_factory=dict)
    """As the kernel told; what is missing is not known."""
    logs: dict[Mark, bytes] = field(default_factory=dict)
    """The files on the head."""
    shown: list[Shown] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    """Machine → what its dispatchers wrote."""
    left: list[str] = field(default_factory=list)
    """Sentences about what must not be there any more."""
    excuses: Excuses = field(default_factory=Excuses)


def notes(cluster: Remote) -> Notes:
    """From all nodes' disks."""
    found = Notes()
    for node in cluster.lab.nodes:
        path = node.path(TRUTH + "/log")
        if path.exists():
            found.read(node.name, path.read_text())
    return found


def logs(
    cluster: Remote, records: Iterable[Record], earlier: Mapping[int, list[Record]]
) -> dict[Mark, bytes]:
    """Of all ranks and attempts."""
    found: dict[Mark, bytes] = {}
    for record in records:
        for attempt, told in enumerate([*earlier.get(record["job_id"], []), record], 1):
            folder = record["log_path"] + ("/attempt-%d" % attempt if attempt > 1 else "")
            for rank in range(len(told["nodes"])):
                mark = Mark(record["job_name"], rank, attempt)
                found[mark] = cluster.raw({"log_path": folder, "nodes": told["nodes"]}, rank)
    return found


def words(cluster: Remote) -> dict[str, str]:
    """What was logged."""
    found = {}
    for host in cluster.lab.hosts.values():
        texts = [path.read_text(errors="replace") for path in host.home.glob(".skyq/clusters/*/*.log")]
        found[host.name] = "".join(texts)
    return found


def left(cluster: Remote, database: Database) -> list[str]:
    """What holds something, or can't be used, according to skyq; and what lives."""
    found = []
    for node in cluster.lab.nodes:
        found += ["%s: still alive: %s" % (node.name, each) for each in cluster.alive(node.name)]
    for name, record in cluster.nodes(at=cluster.head).items():
        if not record["usable"]:
            found.append("%s can't be used: %s" % (name, record["reason"]))
        used = [device["index"] for device in record["devices"] if device["in_use"]]
        found += ["%s: device %d is in use" % (name, index) for index in used]
    found += ["a device is in use: %s" % row for row in database.ask("SELECT * FROM device_use")]
    told = [line for (line,) in database.ask("PRAGMA integrity_check")]
    # SQLite up to 3.40 complains of each row of such a table, whose key isn't its first columns.
    told = [line for line in told if line not in ("ok", "NULL value in owed_logs.node")]
    return [*found, *owed(database), *("the database: " + line for line in told)]


def owed(database: Database) -> list[str]:
    """Logs of which a part is still on a node."""
    return ["the log of job %d, %s on %s, attempt %d, is owed" % (*row,) for row in database.ask(_OWED)]


def own(cluster: Remote) -> list[str]:
    """The processes of skyq's on the nodes, of which none must be there without work."""
    found = []
    for node in cluster.lab.nodes:
        mine = [words for _, words in commands(node, of_root=False) if "skyq" in words]
        found += ["%s: skyq has not left: %s" % (node.name, words) for words in mine]
    return found


def earlier(database: Database) -> dict[int, list[Record]]:
    """What is remembered of attempts that were not the last."""
    found: dict[int, list[Record]] = defaultdict(list)
    for job, record in database.ask("SELECT job_id, record FROM attempts ORDER BY number"):
        told = json.loads(record)
        grants = sorted(json.loads(told["grants"]), key=lambda grant: int(grant[1]))
        found[job].append({**told, "nodes": [{"node": grant[0]} for grant in grants]})
    return found


_OWED = "SELECT job_id, step, node, attempt FROM owed_logs"
_READER = """
import json, sqlite3, sys
for question in sys.stdin:
    try:
        database = sqlite3.connect("file:%s?mode=ro" % sys.argv[1], uri=True, timeout=2)
        answer = database.execute(question).fetchall()
        database.close()
    except sqlite3.Error:
        answer = []
    print(json.dumps(answer), flush=True)
"""


class Database:
    """The queue's own, read without waking anybody. SQLite reads a disk in memory only from beside it."""

    def __init__(self, cluster: Remote) -> None:
        path = cluster.head.homes / "ada" / ".skyq" / "clusters" / cluster.name / "queue.db"
        words = [*cluster.lab.prefix, sys.executable, "-I", "-c", _READER, str(path)]
        self._reader = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question: str) -> list[list[Any]]:
        """Rows; none where it can't be read now."""
        assert self._reader.stdin is not None and self._reader.stdout is not None
        self._reader.stdin.write(question + "\n")
        self._reader.stdin.flush()
        answer: list[list[Any]] = json.loads(self._reader.stdout.readline())
        return answer

    def close(self) -> None:
        """The lab ends."""
        self._reader.communicate()
