"""What verbs about jobs do alike: find the cluster's head, and the jobs that are meant."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from skyq.cli import cluster
from skyq.cli.jobids import resolve
from skyq.cli.nodewords import add_cluster, read
from skyq.cli.parser import Parser
from skyq.cli.user import user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.head.head import Head


def add_jobs(parser: Parser) -> None:
    """A cluster and jobs of it."""
    add_cluster(parser)
    parser.add_argument("jobs", nargs="*", metavar="JOBS", help="ids, names or patterns")


def on_head(name: str, verb: str, words: list[str], act: Callable[[Head], int]) -> int:
    """Run a verb where the head of the cluster is; returns the exit code."""
    if not cluster.here(name):
        from skyq.cli import remote

        return remote.run(name, verb, words)
    return act(cluster.open_head(name))


def on_jobs(
    parser: Parser, verb: str, words: list[str], act: Callable[[Head, list[int], Namespace], int]
) -> int:
    """The same for one about jobs."""
    found = read(parser, words, "jobs")

    def run(head: Head) -> int:
        return act(head, ids_of(head, found.jobs, parser), found)

    return on_head(found.cluster, verb, words, run)


def ids_of(head: Head, jobs: list[str], parser: Parser) -> list[int]:
    """The ids of the jobs meant; a usage error for a word that means none."""
    text = "Invalid job ID %s. Job ID must be integers. No job of yours has that name."
    return resolve(head, jobs, user(), lambda word: parser.error(text % word))
