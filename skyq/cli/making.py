"""A cluster that `launch` may have to make: of which pool, of how many of its hosts, and whether to go on."""

from __future__ import annotations

from skyq.cli import cluster
from skyq.core.errors import SkyqError
from skyq.core.model import ANY_POOL, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.client.guest import Place
    from skyq.client.wanted import Wanted
    from skyq.core.host import Pool


def choose(name: str | None, task: Task, yes: bool, dryrun: bool) -> tuple[str, Wanted | None]:
    """(the cluster's name, what it is made of if it isn't there); None: it is there, or all of a pool.

    Raises SkyqError where no pool is named, and which one isn't clear.
    """
    if name is None:
        name = task.pool if task.pool not in ("", ANY_POOL) else cluster.LOCAL
    if name == cluster.LOCAL or cluster.has_record(name):
        return name, None
    pool = _pool(name, task.pool, cluster.pools())
    if pool is None:
        return name, None
    if pool == name:
        return name, all_of(name) if dryrun else None
    return name, _wanted(name, pool, task, yes, dryrun)


def _pool(name: str, asked: str, pools: dict[str, Pool]) -> str | None:
    """The pool's name; None where there are none at all: the cluster can only be there, or not."""
    if asked and asked != ANY_POOL:
        if asked not in pools:
            raise SkyqError("There is no pool '%s'. %s" % (asked, _there_are(pools)))
        return asked
    if name in pools:
        return name
    if len(pools) > 1:
        raise SkyqError(
            "Which pool is cluster '%s' to be made of? %s Add --pool." % (name, _there_are(pools))
        )
    return next(iter(pools), None)


def _there_are(pools: dict[str, Pool]) -> str:
    return "There are: %s." % ", ".join(sorted(pools)) if pools else "There are none."


def all_of(pool: str) -> Wanted:
    """To see which hosts a cluster of a whole pool would have, and not to make it."""
    return _wanted(pool, pool, Task(num_nodes=0), yes=False, dryrun=True)


def _wanted(name: str, pool: str, task: Task, yes: bool, dryrun: bool) -> Wanted:
    from skyq.client.wanted import Wanted

    def agree(places: tuple[Place, ...]) -> bool:
        from skyq.cli.parser import confirm

        if dryrun or not yes:
            print(cluster.places_table("Cluster %s, of pool %s:" % (name, pool), places))
        question = "Launching a new cluster '%s'. Proceed?" % name
        return not dryrun and (yes or confirm(question, default=True))

    least = task.least_cpus, task.least_memory
    return Wanted(pool, task.num_nodes, task.alternatives, *least, agree)
