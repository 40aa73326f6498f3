"""`skyq exec`: run a task or a command on a cluster, now or when it fits."""

from __future__ import annotations

from skyq.cli import cluster, taskargs
from skyq.cli.parser import Parser, muted
from skyq.core.errors import SkyqError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
  skyq exec local task.yaml                         follow its log; Ctrl-C leaves it running
  skyq exec local task.yaml -d -n try2 --gpus H100:1
  skyq exec local --gpus H100:0.5 -d -- python train.py --lr 1e-3
  skyq exec local --time 2h --signal USR1@60 task.yaml
  skyq exec local -d --sweep lr=1e-3,3e-3 --sweep seed=0..4 task.yaml
  skyq exec local 'cd project && make test'         one word is a shell line
  generate | skyq exec local -                      a task from standard input
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser(
        "exec", "[OPTIONS] CLUSTER ENTRYPOINT...", "Run a task or a command on a cluster.", _EXAMPLES
    )
    taskargs.add_task_flags(found)
    found.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    found.set_defaults(ignored=[])
    return found


def main(words: list[str]) -> int:
    """Exit code: 0, with -d once it is queued; else the job's, 0, 100 or 103."""
    flags = parser()
    found = flags.read(words)
    name = found.cluster
    if name is None and found.words:
        name = found.words.pop(0)
    elif name is None and found.after:
        name = found.after.pop(0)
    entry, quoted = taskargs.entrypoint(found)
    if not entry:
        missing = "'[ENTRYPOINT]...'" if name else "'[CLUSTER]' and '[ENTRYPOINT]...'"
        flags.error("Missing argument %s." % missing)
    with muted(found.quiet):
        task = taskargs.for_exec(taskargs.read_task(found, entry, quoted, "exec"))
    if task.run is None:
        what = "%s has no `run`. Add one, or use `skyq launch`." % entry[0]
        raise SkyqError("There is nothing to run: " + (what if entry[0].strip() else "the command is blank."))
    if found.cluster and found.words and not (name in cluster.known() or name in cluster.pools()):
        raise SkyqError(
            "Cluster '%s' does not exist.\nIf -c belongs to your command, put the command behind --." % name
        )
    from skyq.cli.order import Order
    from skyq.cli.submit import give

    wanted = None
    if found.dryrun and name and not cluster.has_record(name):
        from skyq.cli.making import all_of

        wanted = all_of(name)
    return give(name, Order.of(task, found, launch=False), found.accept_new_host_keys, wanted)


def obey(words: list[str], order: dict[str, Any]) -> int:
    """On the head: what `exec` on another machine has read."""
    from skyq.cli import submit

    return submit.obey(words, order)
