"""`skyq down`: the end of a cluster: its jobs, its queue, and what it installed."""

from __future__ import annotations

import fnmatch
import json
import os
import sys
import time
from collections.abc import Iterable

from skyq.cli import cluster
from skyq.cli.parser import Parser, confirm
from skyq.cli.place import AT_HEAD
from skyq.cli.progress import size_text
from skyq.cli.remove import Gone, tell_kept, tell_left
from skyq.core.errors import SkyqError, Unreachable, UsageError
from skyq.core.paths import ClusterDir
from skyq.head import cron, launcher, teardown
from skyq.head.checkup import short
from skyq.head.head import Head
from skyq.store.place import state_home

SEEN_DEAD = 30.0  # seconds until a node that went silent is known to be unreachable
MARGIN = 10.0  # seconds beyond the grace time that jobs ask for, until they must have ended
LOOK = 0.05  # seconds
WAKE = 1.0  # seconds between two looks whether there still is a dispatcher

_NO_NAME = (
    "`skyq down` requires either a cluster name or glob (see `skyq status`), or the -a/--all flag for all "
    "your clusters."
)
_WORKERS = (
    "What skyq put on %s is still there: this cluster's key and claim. `skyq down %s`, typed on a machine "
    "from which it was used, removes that too."
)
_LATER = "Type `skyq down %s` again when it is back: until then it is claimed."
_WITHOUT_HEAD = (
    "If that machine is gone for good: `skyq down %s --force` ends what runs on the others, and frees them."
)
_GIVE_UP = "This gives up the queue of cluster %s, and ends what runs on its other hosts. Proceed?"
_EXAMPLES = """\
  skyq down local              asks; logs and copies of workdirs stay if you want
  skyq down local -y           asks nothing; they stay
  skyq down local -y --purge   they go too
  skyq down lab --force        the head is gone for good: end and free its workers
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser(
        "down",
        "[OPTIONS] [CLUSTERS]...",
        "End clusters: cancel their jobs, then remove their queue and what it installed.",
        _EXAMPLES,
    )
    found.add_argument("clusters", nargs="*", metavar="CLUSTERS", help="names or patterns")
    found.add_argument("-a", "--all", action="store_true", help="all clusters")
    found.add_argument("-y", "--yes", action="store_true", help="ask nothing; what jobs wrote stays")
    found.add_argument("-f", "--force", action="store_true", help="also if its head is gone for good")
    found.add_argument("-p", "--purge", action="store_true", help="remove what jobs wrote, too")
    return found


def main(words: list[str]) -> int:
    """Exit code 0, or 1 where something isn't there or stays."""
    found = parser().read(words)
    if not found.clusters and not found.all:
        raise UsageError(_NO_NAME)
    names, unknown = _chosen(["*"] if found.all else found.clusters)
    elsewhere = [name for name in names if not _is_here(name)]
    # A cluster that this machine has no record of may still be found by the claims of its hosts.
    asked_for = [name for name in unknown if cluster.pools() and not set(name) & set("*?[")]
    if not names and not asked_for:
        raise SkyqError("Cluster(s) not found (tip: see `skyq status`).")
    for word in unknown:
        if word not in asked_for:
            print("Cluster '%s' not found." % word, file=sys.stderr)
    ended = _end_here([name for name in names if name not in elsewhere], found.yes, found.purge)
    options = ["-y"] * found.yes + ["-p"] * found.purge
    ended &= all([_end_elsewhere(name, options, found.force) for name in elsewhere + asked_for])
    return int(set(unknown) != set(asked_for) or not ended)


def _is_here(name: str) -> bool:
    """Whether there is or was a cluster of that name on this machine."""
    if name in ("", ".", "..") or "/" in name:
        return False
    return cluster.here(name) or os.path.isdir(state_home().cluster(name).root)


def _end_here(names: list[str], yes: bool, purge: bool) -> bool:
    """Whether all of them went, as a whole."""
    there = [name for name in names if os.path.isdir(state_home().cluster(name).root)]
    for name in names:
        if name not in there:
            print("Cluster %s has nothing to remove." % name)
    if there and not yes:
        _ask(there)
    return all([_end(name, yes, purge) for name in there])


def _end_elsewhere(name: str, options: list[str], force: bool) -> bool:
    """On its head; then its hosts are freed, and it is forgotten here. `force`: also without the head."""
    from skyq.cli import remote
    from skyq.client import client

    gone = Gone()
    try:
        if remote.run(name, "down", [name, *options], goods=remote.Goods(gone.take)):
            return False
    except client.Gone:
        pass  # somebody else has ended it
    except client.Ended:
        pass  # but for hosts that were off then
    except client.Unknown as error:
        print(error, file=sys.stderr)
        return False
    except Unreachable as error:
        if not force:
            raise Unreachable("%s\n%s" % (error, _WITHOUT_HEAD % name), error.kind) from None
        if "-y" not in options and not confirm(_GIVE_UP % name, default=False):
            raise SkyqError("Aborted!") from None
    freed = cluster.end_remote(name, gone.names, gone.purge or "-p" in options)
    for text in freed.undone:
        print("%s\n%s" % (text, _LATER % name), file=sys.stderr)
    tell_kept(freed)
    return not freed.undone


def _ask(names: list[str]) -> None:
    """SkyqError unless the answer is yes."""
    for name in names:
        jobs = _head(name).jobs(None, unfinished=True) if _has_queue(name) else []
        if jobs:
            users = ", ".join(sorted({job.user for job in jobs}))
            print("Unfinished jobs on cluster %s: %d, of %s." % (name, len(jobs), users))
    what = "%d cluster%s: %s" % (len(names), "" if len(names) == 1 else "s", ", ".join(names))
    if not confirm("Terminating %s. Proceed?" % what, default=True):
        _take_back(names)
        raise SkyqError("Aborted!")


def _has_queue(name: str) -> bool:
    return cluster.has_queue(name)


def _head(name: str) -> Head:
    return cluster.open_head(name, refresh=False)


def _chosen(patterns: list[str]) -> tuple[list[str], list[str]]:
    """The clusters meant, and the words that mean none."""
    known = cluster.known()
    known += [word for word in patterns if word not in known and _is_here(word)]
    names = [name for name in known if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    return names, [word for word in patterns if not fnmatch.filter(known, word)]


def _take_back(names: list[str]) -> None:
    """The user said no: a cluster that an interrupted `down` left closed takes jobs again."""
    for name in names:
        if _has_queue(name) and _head(name).is_closed():
            _head(name).set_closed(False)
            print("Cluster %s stays, and takes jobs again." % name)


def _end(name: str, yes: bool, purge: bool) -> bool:
    """Whether all of it went."""
    where = state_home().cluster(name)
    purge = _wants_purge(where, yes, purge)
    print("Terminating cluster %s..." % name, flush=True)
    leftover = ""
    if _has_queue(name):
        head = _head(name)
        nodes = head.nodes()
        workers = [node.name for node in nodes if node.reach]
        leftover = _end_jobs_and_queue(head, purge)
        tell_left([node.name for node in nodes], purge)
        if workers and not os.environ.get(AT_HEAD):
            leftover += ("\n" if leftover else "") + _WORKERS % (", ".join(workers), name)
    elif purge:
        teardown.remove(where, purge)
    print("Terminating cluster %s...done." % name)
    stays = teardown.written(where) if os.path.isdir(where.root) else []
    if stays:
        told = "can't be removed" if purge else "stays"
        size = size_text(sum(one.size for one in stays))
        print("What its jobs wrote %s: %s in %s" % (told, size, short(where.root)))
        print("To remove that too: %s" % _again(where, name, purge))
    if leftover:
        print(leftover, file=sys.stderr)
    return not leftover and not (stays and purge)


def _again(where: ClusterDir, name: str, purge: bool) -> str:
    if purge:
        return "sudo rm -r " + where.root
    if os.environ.get(AT_HEAD):  # by then it isn't known any more where the user is
        return "rm -r %s, on %s" % (where.root, os.uname().nodename)
    return "skyq down %s --purge" % name


def _wants_purge(where: ClusterDir, yes: bool, purge: bool) -> bool:
    found = teardown.written(where)
    if not found or yes or purge:
        return purge
    print("What its jobs wrote:")
    for one in found:
        print("  %10s  %s, in %s" % (size_text(one.size), one.what, short(one.path)))
    return confirm("Remove that too?", default=False)


def _end_jobs_and_queue(head: Head, purge: bool) -> str:
    """Remove all but what stays; a sentence about what could not be. SkyqError: nothing was removed."""
    removing = False
    head.set_closed(True)
    try:
        _end_jobs(head)
        removing = True
        return _remove(head, purge)
    except teardown.Busy:
        removing = False
        raise SkyqError(
            "The dispatcher of cluster %s does not leave: nothing was removed. Look into %s, and try again."
            % (head.cluster, head.where.dispatcher_log)
        ) from None
    finally:
        if not removing:
            head.set_closed(False)


def _give_up(head: Head, names: Iterable[str]) -> None:
    """Nobody can end what runs on dead nodes. They stay claimed, so nobody gets their devices meanwhile."""
    from skyq.head import nodes

    for name in sorted(names):
        print("%s is %s: what ran there is given up." % (name, head.trouble()[name].rstrip(".")), flush=True)
        nodes.abandon(head, name)


def _end_jobs(head: Head) -> None:
    """See every job dead. Raises SkyqError when one lives on."""
    from skyq.cli.user import user
    from skyq.head import nodes

    ids = [job.id for job in head.jobs(None, unfinished=True)]
    if not ids:
        return
    print("Cancelling %d job%s..." % (len(ids), "" if len(ids) == 1 else "s"), flush=True)
    graces = [json.loads(head.store.spec(job_id)).get("grace", 0.0) for job_id in ids]
    head.cancel(ids, user())
    several = len(head.store.nodes()) > 1
    deadline = time.monotonic() + max(graces) + MARGIN + (SEEN_DEAD if several else 0.0)
    wake_at = time.monotonic() + WAKE
    given_up: set[str] = set()
    while True:
        left = head.jobs(None, unfinished=True)
        if not left:
            return
        if time.monotonic() > wake_at:
            if dead := nodes.unreachable_of(head, left) - given_up:
                given_up |= dead
                _give_up(head, dead)
                deadline += MARGIN
            head.look()
            wake_at = time.monotonic() + WAKE
        if time.monotonic() > deadline:
            raise SkyqError(
                "These jobs do not end: %s. Nothing was removed; cluster %s takes jobs again.\n"
                "`skyq why %s %d` tells more. Type `skyq down %s` again when their processes are gone."
                % (
                    *(", ".join(str(job.id) for job in left), head.cluster),
                    *(head.cluster, left[0].id, head.cluster),
                )
            )
        time.sleep(LOOK)


def _remove(head: Head, purge: bool) -> str:
    """Of the machine first, of the disk last. Returns what is left to do by hand."""
    from skyq.node import claim

    cluster_id, leftover = head.store.get("cluster_id"), ""
    if not cron.is_off():
        try:
            cron.remove(cluster_id)
        except cron.NoCron as error:
            if os.path.exists(head.where.ticked):  # else there never was such a line
                leftover = "The line in your crontab stays (%s): remove it with `crontab -e`." % error
    claim.release(cluster.claim_dir(), cluster_id)
    head.store.close()
    teardown.remove(head.where, purge)
    if not any(map(_has_queue, cluster.known())):
        launcher.remove()
    return leftover
