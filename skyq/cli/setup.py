"""`skyq _setup`: the far end of first contact (client/contact.py is the near one), on a worker or the future
head.

Frames on standard input and output, a request and an answer at a time; "beat" tells meanwhile that this end
lives. What is asked may be asked again. Until it is asked to be a head, this is the standard library of
Python 3.8.
"""

from __future__ import annotations

import os
import threading

from skyq.core import protocol
from skyq.core.errors import HostClaimed, SkyqError
from skyq.core.paths import ClaimDir, Home
from skyq.core.protocol import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

BEAT = 5.0  # seconds


def main(verb: str, words: list[str]) -> int:
    """Serve until the other end leaves."""
    _Setup().serve()
    os._exit(0)  # without a last try to write


class _Setup:
    """One conversation."""

    def __init__(self) -> None:
        self.out = os.dup(1)
        os.dup2(2, 1)  # whatever is printed here is no answer
        self.turn = threading.Lock()
        self.ended = threading.Event()
        self.do: Dict[str, Callable[[Message], Message]] = {
            "facts": _facts,
            "launcher": _launcher,
            "authorize": _authorize,
            "claim": _claim,
            "leave": _leave,
            "found": _found,
            "join": _join,
            "enlist": _enlist,
            "nodes": _nodes,
        }

    def serve(self) -> None:
        """Answer one request after the other."""
        threading.Thread(target=self.beat, daemon=True).start()
        self.send(protocol.greeting())
        decoder = protocol.Decoder()
        while True:
            data = os.read(0, protocol.FRAME_LIMIT)
            if not data:
                return
            for message in decoder.feed(data):
                self.send(protocol.encode(self.answer(message)))

    def answer(self, message: Message) -> Message:
        """What came of one request."""
        action = self.do.get(str(message.get("do")))
        if action is None:
            return {"is": "failed", "why": "It doesn't know what '%s' is." % message.get("do")}
        try:
            return {"is": "done", **action(message)}
        except SkyqError as error:
            return {"is": "failed", "why": str(error), "claimed": isinstance(error, HostClaimed)}
        except OSError as error:
            return {"is": "failed", "why": "%s: %s" % (error.filename or "skyq", error.strerror or error)}

    def send(self, data: bytes) -> None:
        """All of it; there is nothing to do here without the other end."""
        with self.turn:
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(self.out, view) :]
                except OSError:
                    os._exit(1)

    def beat(self) -> None:
        """Tell that this end lives, for as long as it does."""
        while not self.ended.wait(BEAT):
            self.send(protocol.encode({"is": "beat"}))


def _claims() -> ClaimDir:
    return ClaimDir(os.environ.get("SKYQ_CLAIM_DIR", "/var/tmp"))


def _home() -> Home:
    from skyq.store.place import home_root

    return Home(home_root())


def _facts(message: Message) -> Message:
    from skyq.node import setup

    return {**setup.facts(bool(message["devices"])), "token": setup.home_token(_home())}


def _launcher(message: Message) -> Message:
    """Let the launcher start this version; a head has the libraries ready before."""
    from skyq import program
    from skyq.core import keylines
    from skyq.head import launcher
    from skyq.node import setup

    path = launcher.write(libraries=bool(message["libraries"]))
    setup.tidy(_home(), program.archive())
    usual = os.path.expanduser(keylines.DEFAULT_LAUNCHER)
    return {"launcher": keylines.DEFAULT_LAUNCHER if path == usual else path}


def _authorize(message: Message) -> Message:
    from skyq.core import keylines
    from skyq.node import setup

    key, cluster, cluster_id = message["key"], message["cluster"], message["id"]
    try:
        setup.authorize(keylines.key_line(key, cluster, cluster_id, message["launcher"]))
    except keylines.NoLine as error:
        raise SkyqError("The head can't start skyq here: %s." % error) from None
    return {}


def _claim(message: Message) -> Message:
    from skyq.node import claim, setup

    fields = {name: message[name] for name in ("cluster", "id", "head", "state_dir")}
    node = str(message.get("node", ""))  # clients of 0.1 didn't say it
    _forget_founding(message["cluster"], message["id"])
    claim.take(_claims(), {**fields, "node": node})
    if node:
        setup.enroll(_home(), message["id"], node)
    return {}


def _forget_founding(cluster: str, cluster_id: str) -> None:
    """Where somebody was killed while this became the head, and then another one did: its claim is void."""
    from skyq.store.place import state_home

    if os.path.isdir(state_home().cluster(cluster).root):
        from skyq.head import founding

        founding.forget(cluster, cluster_id)


def _leave(message: Message) -> Message:
    """No longer be of a cluster. `unmade`: as its head, before it was whole. `end`: what was installed goes,
    unless another cluster needs it. `stays`: the cluster goes on without this node. `purge`: what jobs
    wrote in their folders goes, too; else the answer tells what of it is `kept`, as [path, bytes].
    """
    from skyq.core import keylines
    from skyq.node import claim, leavings, setup
    from skyq.store.place import state_home

    leavings.end_steps(state_home(), message["cluster"])
    claim.release(_claims(), message["id"])
    node = str(message.get("node", ""))
    shared = setup.sign_off(_home(), message["id"], node, end=not message.get("stays"))
    if not shared:
        setup.forbid(keylines.marker(message["cluster"], message["id"]))
    if message.get("unmade"):
        from skyq.head import founding

        founding.discard(message["cluster"])
    if message.get("head"):
        _stop_ticks(message["id"])
    kept = []
    if message.get("end") and not shared:
        kept = leavings.remove(state_home(), message["cluster"], bool(message.get("purge")))
        setup.uninstall(_home(), state_home())
    return {"kept": kept}


def _stop_ticks(cluster_id: str) -> None:
    """Where the head's last dispatcher has asked cron once more while the cluster was being removed."""
    from skyq.head import cron

    if not cron.is_off():
        try:
            cron.remove(cluster_id)
        except cron.NoCron:
            pass  # `down` has told it


def _found(message: Message) -> Message:
    """Become the head, unless this is one already; nobody else's turn until this conversation ends."""
    from skyq.head import founding

    _have_libraries()
    return founding.begin(message["cluster"], message["pool"])


def _have_libraries() -> None:
    """Under this very Python: another one would start anew, and know nothing of this conversation."""
    from skyq import folders, program, unpack

    try:
        if program.DEPS:
            unpack.libraries(program.archive(), program.DEPS, folders.tag())
    except unpack.NotHeld as error:
        raise SkyqError("skyq there has no libraries for %s: %s" % (folders.tag(), error)) from None
    program.need_libraries()


def _join(message: Message) -> Message:
    """The head meets the workers, and takes those in that it can reach."""
    from skyq.head import founding

    met: Any = founding.join(message["cluster"], message["head"], message["workers"])
    return {"met": met}


def _nodes(message: Message) -> Message:
    """Which nodes a cluster has whose head this is."""
    from skyq.head import founding

    _have_libraries()
    return {"nodes": founding.names(message["cluster"])}


def _enlist(message: Message) -> Message:
    """The head meets machines that are to be workers, too, or are and were looked at again."""
    from skyq.head import founding

    met: Any = founding.enlist(message["cluster"], message.get("head", {}), message["workers"])
    return {"met": met}
