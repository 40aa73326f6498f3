"""What must be true at the end, by what was seen outside skyq: the jobs' own notes, the locks that the kernel
gave them, the submitter's journal, the processes that live.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from tests.cluster import FINAL, Record
from tests.nemesis.faults import Faults
from tests.nemesis.jobs import TRUTH, Job
from tests.ssh.remote import Remote


class Truth:
    """The notes of all jobs, from all nodes' disks."""

    def __init__(self, cluster: Remote) -> None:
        self.starts: Counter[tuple[str, int]] = Counter()
        self.ends: dict[str, dict[int, int]] = defaultdict(dict)
        """token → rank → exit code, of those that came to their end."""
        self.wrong: list[str] = []
        for node in cluster.lab.nodes:
            path = node.home / TRUTH / "log"
            for line in path.read_text().splitlines() if path.exists() else ():
                what, token, *rest = line.split()
                if what == "start":
                    self.starts[token, int(rest[0])] += 1
                elif what == "end":
                    self.ends[token][int(rest[0])] = int(rest[1])
                else:
                    self.wrong.append("%s: %s" % (node.name, line))


def violations(cluster: Remote, jobs: Sequence[Job], faults: Faults) -> list[str]:
    """Sentences about what isn't as it must be."""
    records = list(cluster.jobs(at=cluster.head).values())
    truth = Truth(cluster)
    found = [*truth.wrong, *_ids(jobs, records), *_leftovers(cluster)]
    found += [
        "rank %d of %s was started %d times" % (*key[::-1], n) for key, n in truth.starts.items() if n > 1
    ]
    by_token = {record["job_name"]: record for record in records}
    for job in jobs:
        record = by_token.get(job.token)
        if record is not None:
            told = list(_status(job, record, truth, faults)) + list(_log(cluster, job, record, truth))
            found += ["%s (job %d): %s" % (job.token, record["job_id"], text) for text in told]
    return found


def _ids(jobs: Sequence[Job], records: Sequence[Record]) -> Iterable[str]:
    """Nothing acknowledged is lost, nothing is there twice."""
    rows = Counter(record["job_name"] for record in records)
    by_id = {record["job_id"]: record["job_name"] for record in records}
    for job in jobs:
        if job.job_id and by_id.get(job.job_id) != job.token:
            yield "%s was acknowledged as job %d, which is %s" % (
                *(job.token, job.job_id),
                by_id.get(job.job_id, "not there"),
            )
        if rows[job.token] > 1:
            yield "%s is in the queue %d times" % (job.token, rows[job.token])
    yield from ("%s was never submitted" % token for token in rows.keys() - {job.token for job in jobs})


def _leftovers(cluster: Remote) -> Iterable[str]:
    """Nothing lives, nothing is held, every node can be used."""
    for node in cluster.lab.nodes:
        yield from ("%s: still alive: %s" % (node.name, words) for words in cluster.alive(node.name))
    for name, node in cluster.nodes(at=cluster.head).items():
        if not node["usable"]:
            yield "%s can't be used: %s" % (name, node["reason"])
        yield from (
            "%s: device %d is in use" % (name, device["index"])
            for device in node["devices"]
            if device["in_use"]
        )
    database = sqlite3.connect(cluster.head.home / ".skyq" / "clusters" / cluster.name / "queue.db")
    if rows := database.execute("SELECT * FROM device_use").fetchall():
        yield "devices are in use: %s" % rows
    database.close()


def _status(job: Job, record: Record, truth: Truth, faults: Faults) -> Iterable[str]:
    """The state is what happened."""
    state, ends = record["status"], truth.ends[job.token]
    if state not in FINAL:
        yield "it is %s: %s" % (state, record["reason"])
    elif not record["reason"] and state != "SUCCEEDED":
        yield "it is %s without a reason" % state
    if state == "SUCCEEDED" and ends != dict.fromkeys(range(job.nodes), 0):
        yield "it is SUCCEEDED, and its ranks ended so: %s" % ends
    if state == "FAILED" and not any(ends.values()):
        yield "it is FAILED (%s), and its ranks ended so: %s" % (record["reason"], ends)
    if state == "FAILED_SETUP" and job.setup != "fails":
        yield "it is FAILED_SETUP (%s)" % record["reason"]
    if state in ("SUCCEEDED", "FAILED") and job.setup == "fails":
        yield "it ran after a setup that failed"
    if state == "CANCELLED" and not job.cancelled:
        yield "it is CANCELLED (%s), and nobody cancelled it" % record["reason"]
    if state == "FAILED_DRIVER" and not _excused(job, record, faults):
        yield "it is FAILED_DRIVER (%s), and no machine or shim of it was lost" % record["reason"]


def _excused(job: Job, record: Record, faults: Faults) -> bool:
    # A setup runs on all nodes.
    nodes = {each["node"] for each in record["nodes"]} if not job.setup else None
    begun, ended = record["submitted_at"], record["end_at"] or float("inf")
    if lost := re.match(r"node (\S+) has been unreachable since", record["reason"]):
        # A gang fails when a node is lost for `lost_after`, however the silences are spread over it.
        its = [(since, until) for node, since, until in faults.silences if node in (lost[1], "node0")]
        return any(since <= ended and until >= begun for since, until in its)
    return any(
        (nodes is None or node in nodes) and since <= ended and until >= begun
        for node, since, until in faults.excuses
    )


def _log(cluster: Remote, job: Job, record: Record, truth: Truth) -> Iterable[str]:
    """The head has each rank's text: of one that came to its end, all of it."""
    for rank in range(len(record["nodes"])):
        found, whole = cluster.raw(record, rank), job.log(rank)
        if not whole.startswith(found):
            yield "the log of rank %d isn't what it printed: ...%r" % (rank, found[-200:])
        elif rank in truth.ends[job.token] and found != whole:
            yield "the log of rank %d has %d of %d bytes" % (rank, len(found), len(whole))
