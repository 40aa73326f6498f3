"""`skyq recover`: a queue whose database is damaged or gone is made anew of its journal."""

from __future__ import annotations

from skyq.cli import cluster
from skyq.cli.nodewords import add_cluster, read
from skyq.cli.parser import Parser
from skyq.core import states
from skyq.core.errors import SkyqError
from skyq.store.place import state_home

_EXAMPLES = """\
  skyq recover lab
  skyq recover local       this machine's own queue
"""


def parser() -> Parser:
    """Its flags."""
    text = "Make a queue anew whose database is damaged or gone. Jobs that run go on."
    found = Parser("recover", "CLUSTER", text, _EXAMPLES)
    add_cluster(found)
    return found


def main(words: list[str]) -> int:
    """Exit code 0, also where nothing was wrong."""
    name = str(read(parser(), words).cluster)
    if not cluster.here(name):
        from skyq.cli import remote

        return remote.run(name, "recover", words)
    from skyq.head import recovery

    where = state_home().cluster(name)
    if not cluster.has_queue(name):
        raise SkyqError("Cluster %s has no queue yet: no job was ever submitted." % name)
    found = recovery.recover(where)
    head = cluster.open_head(name)
    head.look()
    jobs = head.jobs(None, unfinished=False)
    waiting = sum(job.state in states.WAITING for job in jobs)
    running = sum(job.state in states.ACTIVE for job in jobs)
    counts = "%d waiting, %d running, %d ended" % (waiting, running, len(jobs) - waiting - running)
    if not found.damage:
        print("The queue of %s is whole: %s. Nothing was changed." % (name, counts))
        return 0
    print(found.damage)
    print("Made anew: %s." % counts)
    if found.kept:
        print("The damaged database is kept as %s" % found.kept)
    return 0
