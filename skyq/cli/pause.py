"""`skyq pause`: nothing starts any more; what runs goes on, and submits are taken."""

from __future__ import annotations

from skyq.cli.jobwords import on_head
from skyq.cli.nodewords import add_cluster, read
from skyq.cli.parser import Parser
from skyq.cli.user import user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head

_EXAMPLES = """\
  skyq pause lab
  skyq pause lab --reason 'power works until noon'
  skyq resume lab
"""


def parser() -> Parser:
    """Its flags."""
    about = "Start no job any more. What runs goes on; jobs can be submitted, and wait."
    found = Parser("pause", "[OPTIONS] CLUSTER", about, _EXAMPLES)
    add_cluster(found)
    found.add_argument("--reason", default="", metavar="TEXT", help="shown by `status`, `queue` and `why`")
    return found


def main(words: list[str]) -> int:
    """Exit code 0."""
    found = read(parser(), words)

    def pause(head: Head) -> int:
        from skyq.head.waits import signed

        head.pause(signed("the queue is paused", user(), found.reason))
        print("Queue %s is paused: nothing starts. To go on: skyq resume %s" % (head.cluster, head.cluster))
        return 0

    return on_head(found.cluster, "pause", words, pause)
