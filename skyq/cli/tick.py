"""`skyq tick`: what cron calls every minute. Ends at once where there is no work, or somebody is at it.

Nothing here is imported before it is known to be needed: this runs 1440 times a day.
"""

from __future__ import annotations

from skyq.core.errors import SkyqError
from skyq.store.place import has_queue, leave_trace, state_home

LOCAL = "local"

_EXAMPLES = """\
  skyq tick            what cron does every minute
"""


def main(verb: str, words: list[str]) -> int:
    """Exit code 0."""
    name = words[0] if words and not words[0].startswith("-") else _parsed(words)
    where = state_home().cluster(name)
    if not has_queue(where):
        if name == LOCAL:
            return 0  # no job was ever submitted
        raise SkyqError("Cluster '%s' does not exist on this machine." % name)
    leave_trace(where.ticked)
    from skyq.store.store import Store

    store = Store.of(where)
    work = store.has_unfinished()
    store.close()
    if work:
        from skyq.head import wake

        if not wake.knock(where):
            _start(name)
    return 0


def _parsed(words: list[str]) -> str:
    from skyq.cli.parser import Parser

    flags = Parser(
        "tick",
        "[CLUSTER]",
        "See to it that somebody works on what is unfinished. cron calls this every minute.",
        _EXAMPLES,
    )
    flags.add_argument("cluster", nargs="?", default=LOCAL, metavar="CLUSTER")
    return str(flags.read(words).cluster)


def _start(name: str) -> None:
    """As any command would: with a look at the machine, which may have been booted since the last one.

    The dispatcher is nobody's child: a restart of cron leaves it alone.
    """
    from skyq.cli import cluster

    cluster.open_head(name).look()
