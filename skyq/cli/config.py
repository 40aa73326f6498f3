"""`skyq config`: the settings of a cluster."""

from __future__ import annotations

from skyq.cli import cluster
from skyq.cli.nodewords import add_cluster, read
from skyq.cli.parser import Parser

_EXAMPLES = """\
  skyq config lab                       show them
  skyq config lab reserve_after=10m     small jobs pass a large one for ten minutes
  skyq config lab reserve_after=never   or as long as they keep coming
  skyq config lab lost_after=           as it is by default
  skyq config lab strangers=ignore      give out devices that processes of no job use
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser("config", "CLUSTER [NAME=VALUE]...", "Show or change settings of a cluster.", _EXAMPLES)
    add_cluster(found)
    found.add_argument(
        "settings", nargs="*", metavar="NAME=VALUE", help="a time, as 90s, 10m, 2h; never; or a word"
    )
    return found


def main(words: list[str]) -> int:
    """Exit code 0."""
    flags = parser()
    found = read(flags, words)
    if not cluster.here(found.cluster):
        from skyq.cli import remote

        return remote.run(found.cluster, "config", words)
    from skyq.head import settings

    values = {}
    for word in found.settings:
        name, equals, text = word.partition("=")
        if not equals:
            flags.error("%s has no value. Write %s=10m." % (name, name))
        values[name] = settings.parsed(name, text) if text or name not in settings.SETTINGS else ""
    head = cluster.open_head(found.cluster)
    if values:
        settings.change(head, values)
    from skyq.cli.render import table

    rows = [(name, settings.shown(head, name), one.about) for name, one in settings.SETTINGS.items()]
    print(table(("SETTING", "VALUE", ""), rows))
    return 0
