"""What ended jobs left on workers: each is asked over a connection of its own, and removes it itself."""

from __future__ import annotations

import os

from skyq.core import protocol
from skyq.core.errors import ProtocolError, SkyqError
from skyq.core.logtext import plain
from skyq.core.model import Job, Node
from skyq.head.clean import Leftover
from skyq.head.courier import Talk
from skyq.transport.base import Channel
from skyq.transport.parallel import in_parallel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterable, List, Mapping, Sequence, Set, Tuple, TypeAlias, TypeVar

    T = TypeVar("T")

MOST = 1_000_000  # answers of one node


Connect: TypeAlias = "Callable[[Node], Channel]"
Troubles: TypeAlias = "Dict[str, str]"
"""Node → why it can't be had."""


def found(
    connect: Connect, nodes: Sequence[Node], jobs: Mapping[str, Job], kept: Set[str]
) -> Tuple[List[Leftover], Troubles]:
    """What these jobs (by uuid) left there, but for copies that are `kept` here: it may need them, too."""
    stay = {os.path.basename(path) for path in kept}

    def ask(node: Node) -> List[Leftover]:
        left = []
        for message in _told(connect(node), {"do": "list"}, "left"):
            name = str(message.get("name"))
            kind, _, rest = name.partition("/")
            job = jobs.get(rest.replace(".", "-").split("-")[0])
            if job is not None and not (kind == "work" and stay & {rest, rest.split("-mount-")[0]}):
                path = "%s:%s" % (node.name, plain(name))
                left.append(Leftover(path, int(message.get("size", 0)), job.id, node.name, name))
        return left

    each, troubles = _each(ask, nodes)
    return [leftover for left in each for leftover in left], troubles


def remove(connect: Connect, nodes: Sequence[Node], left: Iterable[Leftover]) -> Troubles:
    """Have these removed."""
    names: Dict[str, List[str]] = {}
    for leftover in left:
        names.setdefault(leftover.node, []).append(leftover.name)

    def have_removed(node: Node) -> int:
        return len(_told(connect(node), {"do": "remove", "names": names[node.name]}, "removed"))

    return _each(have_removed, [node for node in nodes if node.name in names])[1]


def _told(channel: Channel, question: protocol.Message, kind: str) -> List[protocol.Message]:
    """All answers of that kind, up to the last one."""
    talk, told = Talk(channel), []
    try:
        talk.send([protocol.greeting()])
        if not talk.wait("hello").get("lists"):
            raise SkyqError("its skyq is older than this one, see `skyq add`")
        talk.send([protocol.encode(question)])
        while not (message := talk.wait(kind)).get("last"):
            told.append(message)
            if len(told) > MOST:
                raise ProtocolError("it has more than %d things to tell" % MOST)
    finally:
        channel.close()
    return told


def _each(do: Callable[[Node], T], nodes: Sequence[Node]) -> Tuple[List[T], Troubles]:
    results: List[T] = []
    troubles: Troubles = {}

    def attempt(node: Node) -> None:
        try:
            results.append(do(node))
        except (SkyqError, OSError) as error:
            troubles[node.name] = str(error).split("\n")[0]

    in_parallel(attempt, nodes)
    return results, troubles
