"""A cluster comes into being on its head: its state, its key, and the workers that the head can reach.

The order keeps every moment safe: who dies in between leaves a cluster without nodes, and the next contact
goes on from there. One client at a time founds; a second one waits, then finds the cluster there.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import select
import shutil
import socket
import time
from contextlib import suppress

from skyq.core import keylines, protocol, replies
from skyq.core.errors import SkyqError, Unreachable
from skyq.core.model import Device, Node, Reach
from skyq.core.paths import ClusterDir, Home
from skyq.head.head import Head
from skyq.store.place import has_queue, home_root, make_private, state_home
from skyq.transport.aside import sweep, write_whole
from skyq.transport.base import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence, Tuple, TypeAlias

LOCK_WAIT = 120.0  # seconds for another client that founds the same cluster
LOOK = 0.2  # seconds
SSH_PORT = 22

Message: TypeAlias = "Dict[str, Any]"


def own_state() -> Home:
    """The folder for this machine's clusters: there, and private."""
    make_private(home_root())
    home = state_home()
    if home.root != home_root():
        if not os.environ.get("SKYQ_STATE_DIR"):
            make_private(os.path.dirname(home.root))  # in /var/tmp, where anybody could have made it first
        make_private(home.root)
    return home


def begin(cluster: str, pool: str) -> Message:
    """Make the state, the id and the key, unless they are there; tell them, and the nodes so far.

    Nobody else founds this cluster until this process ends. Raises SkyqError.
    """
    home = own_state()
    where = home.cluster(cluster)
    _refuse_if_unspeakable(where)
    make_private(home.clusters)
    make_private(where.root)
    _take_turn(where, cluster)
    head = Head(where, cluster)
    key = _public_key(where)
    known = [node.name for node in head.store.nodes()]
    if not known:
        with head.store.transaction():
            head.store.set("pool", pool)
    cluster_id = head.store.get("cluster_id")
    return {"id": cluster_id, "key": key, "state_dir": where.root, "nodes": known, "hostname": _hostname()}


def names(cluster: str) -> List[str]:
    """Of the nodes that a cluster has whose head is here; none where there is no such cluster."""
    where = state_home().cluster(cluster)
    return [node.name for node in Head(where, cluster).store.nodes()] if has_queue(where) else []


def _refuse_if_unspeakable(where: ClusterDir) -> None:
    """Commands name the state in a line for the login shell here."""
    try:
        keylines.shell_line(keylines.DEFAULT_LAUNCHER, "", needs=(where.database,))
    except keylines.NoLine as error:
        text = (
            "the queue can't be there: %s. Set SKYQ_HOME to another folder there, in ~/.bashrc or the like."
        )
        raise SkyqError(text % error) from None


def discard(cluster: str) -> None:
    """Remove the state of a cluster that never had a node; on a worker there is none."""
    where = state_home().cluster(cluster)
    if has_queue(where):
        if not Head(where, cluster).store.nodes():
            shutil.rmtree(where.root, ignore_errors=True)
        return
    with suppress(OSError):  # whatever else is there stays
        os.unlink(where.founding)
        os.rmdir(where.root)


def forget(cluster: str, but: str) -> None:
    """Discard a cluster that isn't the one with that id, and that nobody founds now."""
    where = state_home().cluster(cluster)
    if has_queue(where) and Head(where, cluster).store.get("cluster_id") == but:
        return
    lock = os.open(where.founding, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        discard(cluster)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def _hostname() -> str:
    return socket.gethostname()


def _take_turn(where: ClusterDir, cluster: str) -> None:
    """Lock, until this process ends."""
    lock = os.open(where.founding, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                text = "Another client has been setting up cluster '%s' for %d s. Try again later."
                raise SkyqError(text % (cluster, LOCK_WAIT)) from None
            time.sleep(LOOK)


def _public_key(where: ClusterDir) -> str:
    """The cluster's key, made if it isn't there: "ssh-ed25519 AAAA…". For whose turn it is."""
    make_private(os.path.dirname(where.key))
    for path in (where.key, where.key + ".pub"):
        sweep(path, 0)
    if os.path.exists(where.key) and os.path.exists(where.key + ".pub"):
        with open(where.key + ".pub") as file:
            return " ".join(file.read().split()[:2])
    from skyq.transport.keys import make_key

    return " ".join(make_key(where.key).split()[:2])


def join(cluster: str, head: Message, workers: List[Message]) -> Dict[str, str]:
    """Take in the workers that can be reached; why each of the others isn't one. "" for those that are.

    A worker: name, devices, cpus, memory, user, ip ("" for what is found out), host_keys, and at, the
    addresses to try as [host, port].
    """
    where = own_state().cluster(cluster)
    _pin(where, workers, anew=True)
    met = _meet(where, [_Worker(each) for each in workers])
    nodes = [_node(head, 0, head["ip"] or _own_address(met) or head["address"] or "127.0.0.1", None)]
    for each in met:
        if not each.trouble:
            reach = Reach(*each.at, each.about["user"])
            nodes.append(_node(each.about, len(nodes), each.about["ip"] or _address(*each.at), reach))
    found = Head(where, cluster)
    with found.store.transaction():
        found.store.set_nodes(nodes)
    return {each.name: each.trouble for each in met}


def enlist(cluster: str, head_now: Message, workers: List[Message]) -> Dict[str, str]:
    """Take in more workers, while jobs run; as join(), which must have been. A node that was there before
    keeps its place.

    `head_now`: what the head has, if that was seen again.
    """
    where = own_state().cluster(cluster)
    head = Head(where, cluster)
    if not head.store.nodes(former=True):  # a worker would be the first node
        raise SkyqError("the first contact with cluster '%s' was interrupted" % cluster)
    workers = _without_others_addresses(workers, head.store.nodes())
    _pin(where, workers, anew=False)
    met = _meet(where, [_Worker(each) for each in workers])
    with head.store.transaction():
        head.note_growth()
        known = {node.name: node for node in head.store.nodes(former=True)}
        if head_now:
            its = next(node for node in known.values() if node.index == 0)
            found = _node(head_now, 0, its.ip, None)
            head.store.put_nodes([found._replace(name=its.name, unusable=its.unusable)])
        for each in met:
            if not each.trouble:
                old = known.get(each.name)
                index = old.index if old else len(known)
                reach = Reach(*each.at, each.about["user"])
                node = _node(each.about, index, each.about["ip"] or _address(*each.at), reach)
                known[node.name] = node._replace(unusable=old.unusable if old else "")
                head.store.put_nodes([known[node.name]])
    head.wake()
    return {each.name: each.trouble for each in met}


def _without_others_addresses(workers: List[Message], nodes: Sequence[Node]) -> List[Message]:
    """A machine says itself where it is. Its key shall not be trusted where another node is."""
    told = []
    for worker in workers:
        others = [node for node in nodes if node.name != worker["name"]]
        taken = {node.ip for node in others} | {node.reach.host for node in others if node.reach}
        told.append({**worker, "at": [place for place in worker["at"] if place[0] not in taken]})
    return told


def _node(about: Message, index: int, ip: str, reach: Optional[Reach]) -> Node:
    devices = tuple(Device(*fields) for fields in about["devices"])
    return Node(about["name"], index, devices, about["cpus"], about["memory"], "", ip, reach)


def _pin(where: ClusterDir, workers: List[Message], anew: bool) -> None:
    """Trust the host keys that the client has seen, and, if `anew`, no others."""
    keys = [
        (host if port == SSH_PORT else "[%s]:%d" % (host, port), key)
        for worker in workers
        for host, port in worker["at"]
        for key in worker["host_keys"]
    ]
    lines = ["%s %s\n" % pair for pair in keys]
    if not anew and os.path.exists(where.known_hosts):
        seen = {host for host, _ in keys}
        with open(where.known_hosts) as file:
            lines = [line for line in file if line.partition(" ")[0] not in seen] + lines
    make_private(os.path.dirname(where.known_hosts))
    write_whole(where.known_hosts, "".join(dict.fromkeys(lines)).encode())


# The head meets the workers: each is to answer as the node agent that the dispatcher will talk to.


class _Worker:
    """One worker, tried at one address after the other."""

    def __init__(self, about: Message) -> None:
        self.about = about
        self.name: str = about["name"]
        self.left: List[Tuple[str, int]] = [(host, port) for host, port in about["at"]]
        self.at: Tuple[str, int] = ("", 0)
        self.tried: List[Tuple[str, int]] = []
        self.trouble = "no address of it is known"
        self.channel: Optional[Channel] = None
        self.decoder = protocol.Decoder()
        self.deadline = 0.0

    def next_address(self, where: ClusterDir) -> None:
        """Try the next address, if there is one that isn't another name of one that was tried."""
        from skyq.transport.channel import SshChannel

        self.close()
        while self.left and not self.channel:
            self.at = self.left.pop(0)
            if self.is_new():
                self.deadline = time.monotonic() + protocol.FIRST_WORD
                self.decoder = protocol.Decoder(replies.REPLY_LIMIT)
                reach = Reach(*self.at, self.about["user"])
                self.channel = SshChannel(reach, where.key, where.known_hosts, "skyq")

    def is_new(self) -> bool:
        """Whether the address wasn't tried under another name."""
        try:
            address = _resolved(*self.at)[1][:2]
        except OSError as error:
            self.failed("the name can't be resolved: %s" % error.strerror)
            return False
        new = address not in self.tried
        self.tried.append(address)
        return new

    def close(self) -> None:
        """Hang up."""
        if self.channel:
            self.channel.close()
        self.channel = None

    def hear(self) -> bool:
        """Whether it has answered. Raises OSError, SkyqError when it won't."""
        assert self.channel
        try:
            data = self.channel.read()
        except BlockingIOError:
            return False
        if not data:
            raise SkyqError("the connection was closed before skyq answered")
        return any(message["is"] == "hello" for message in replies.of_node(list(self.decoder.feed(data))))

    def failed(self, why: str) -> None:
        """Remember the first reason: the first address is the best one."""
        if self.trouble.startswith("no address"):
            self.trouble = "the head can't reach it at %s port %d: %s" % (*self.at, why)


def _meet(where: ClusterDir, workers: List[_Worker]) -> List[_Worker]:
    for worker in workers:
        worker.next_address(where)
    while True:
        trying = [worker for worker in workers if worker.channel]
        if not trying:
            return workers
        poll = select.poll()
        for worker in trying:
            assert worker.channel
            poll.register(worker.channel.fileno(), select.POLLIN)
        ready = {fd for fd, _ in poll.poll(LOOK * 1000)}
        for worker in trying:
            assert worker.channel
            _hear(worker, where, worker.channel.fileno() in ready)


def _hear(worker: _Worker, where: ClusterDir, readable: bool) -> None:
    try:
        if readable and worker.hear():
            worker.trouble = ""
            worker.close()
        elif time.monotonic() > worker.deadline:
            raise SkyqError("no answer within %d s" % protocol.FIRST_WORD)
    except (OSError, SkyqError) as error:
        worker.failed(_why(error, worker))
        worker.next_address(where)


def _why(error: Exception, worker: _Worker) -> str:
    """In words for who reads it at the client."""
    if isinstance(error, Unreachable) and error.kind == "auth":
        return (
            "its sshd doesn't take the cluster's key. Does it read keys elsewhere than in "
            "~/.ssh/authorized_keys (AuthorizedKeysFile), or mind that others may write to the home?"
        )
    if isinstance(error, Unreachable):
        return "%s Try on the head: ssh %s" % (str(error).splitlines()[0], worker.at[0])
    return str(error)


# Addresses.


def _own_address(met: List[_Worker]) -> str:
    """What the workers see this machine as: the address that it has towards the first of them."""
    for worker in met:
        if not worker.trouble:
            family, address = _resolved(*worker.at)
            with socket.socket(family, socket.SOCK_DGRAM) as way:
                way.connect(address)  # sends nothing, and chooses the address
                return str(way.getsockname()[0])
    return ""


def _address(host: str, port: int) -> str:
    """A name as an address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return str(_resolved(host, port)[1][0])


def _resolved(host: str, port: int) -> Tuple[Any, Any]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return found[0], found[4]
