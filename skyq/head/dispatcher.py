"""The dispatcher: the one process of a cluster that ticks on events, alive while there is work.

It may be killed at any moment: the store says what was decided, the nodes say what became of it.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
import sys
import time
from typing import Callable, Dict, List, Optional, Tuple

from skyq.core.errors import SkyqError
from skyq.core.lifecycle import GONE, Phase
from skyq.core.model import Job, Node
from skyq.core.paths import ClusterDir
from skyq.core.protocol import UNKNOWN, Message
from skyq.head import specs, wake
from skyq.head.board import Board
from skyq.head.links import CONNECTING, Link
from skyq.head.tick import Acts, tick
from skyq.store.lock import tick_lock
from skyq.store.store import Store
from skyq.transport.base import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Thread

LOCK_WAIT = 10.0  # seconds that a new dispatcher waits for one that leaves
LINGER = 1.0  # seconds without work before it leaves: the next submit of a loop finds it still there
FLUSH = 0.05  # seconds that news worth no commit of their own wait for one
NODE_PAUSE = 5.0  # seconds that a node gets nothing new after it could not start something
CROWDED = 0.005  # seconds until a connection that took no more bytes is tried again
REST = 60.0  # seconds that nothing may happen for
STORE_PAUSE = 1.0  # seconds before a tick that failed is tried again
CRON_AFTER = 5.0  # seconds of work after which cron is asked to tick: not for every `exec local -- echo hi`
CRON_GOODBYE = 2.0  # seconds that crontab(1) gets to end when the dispatcher leaves

Connect = Callable[[Node], Channel]


def run(where: ClusterDir, cluster: str, connect: Connect) -> None:
    """Be the dispatcher if nobody else is, as long as there is work."""
    _note("%d: dispatcher of %s" % (os.getpid(), cluster))
    os.umask(0o077)
    while _work(where):
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            with tick_lock(where.tick_lock, wait=0) as held:
                if held:
                    Dispatcher(where, cluster, connect).serve()
                    break  # and look once more: a submit may have come while it was leaving
            if wake.knock(where) or time.monotonic() > deadline:
                return  # another one serves
            time.sleep(FLUSH)


def _work(where: ClusterDir) -> bool:
    if not os.path.exists(where.database):
        return False  # the cluster was removed: don't make it anew
    store = Store.open(where.database)
    try:
        return store.has_unfinished()
    finally:
        store.close()


class Dispatcher:
    """Holds tick.lock for its life."""

    def __init__(self, where: ClusterDir, cluster: str, connect: Connect) -> None:
        self.where = where
        self.cluster = cluster
        self.connect = connect
        self.store = Store.open(where.database)
        self.board = Board()
        self.links: Dict[str, Link] = {}
        self.nodes: Tuple[Node, ...] = ()
        self.paused: Dict[str, Tuple[float, str]] = {}
        """Node → until when nothing new starts there (monotonic), and why."""
        self.door = _listen(where)
        self.told: Optional[Dict[str, str]] = None
        """The trouble that the store has; None: that of a former dispatcher."""
        self.tick_at = 0.0
        """When the next tick is due; monotonic."""
        self.idle_since = time.monotonic()
        self.cron_at = self.idle_since + CRON_AFTER
        """When to see to the crontab; monotonic. Once in this life."""
        self.cron: Optional[Thread] = None

    def serve(self) -> None:
        """observe → settle → plan → record → act, on every event, until there is no work."""
        self._read_nodes()
        with self.store.transaction():
            specs.sweep_secrets(self.where, self.store)
        try:
            while True:
                now = time.monotonic()
                next_at = self._keep_links_up(now)
                if now >= self.tick_at:
                    self._tick()
                self._see_to_cron(now)
                if self.board.jobs:
                    self.idle_since = now
                elif now > self.idle_since + LINGER:
                    break
                leave_at = now + REST if self.board.jobs else self.idle_since + LINGER
                self._wait(min(next_at, self.tick_at, leave_at, self.cron_at))
        finally:
            os.unlink(self.where.socket)
            self.door.close()
            for link in self.links.values():
                link.close(release=self.cluster == "local" and not self.board.jobs)
            if self.cron:
                self.cron.join(CRON_GOODBYE)
            self.store.close()

    def _see_to_cron(self, now: float) -> None:
        """What lasts longer than a moment shall go on after a reboot."""
        if now >= self.cron_at:
            from skyq.head import cron

            self.cron_at = math.inf
            self.cron = cron.install_aside(self.where, self.cluster)

    # Waiting and listening.

    def _wait(self, until: float) -> None:
        poll = select.poll()
        poll.register(self.door, select.POLLIN)
        connected = {fd: link for link in self.links.values() if (fd := link.fileno()) is not None}
        for fd in connected:
            poll.register(fd, select.POLLIN)
        # A connection that takes no more now is tried again soon: its reader is only busy.
        crowded = any(link.wants_to_write() for link in self.links.values())
        timeout = CROWDED if crowded else max(0.0, until - time.monotonic())
        ready = {fd for fd, _ in poll.poll(timeout * 1000)}
        if self.door.fileno() in ready:
            self._answer_knocks()
        for fd, link in connected.items():
            if link.wants_to_write():
                link.flush()
            if fd in ready and link.fileno() == fd:
                self._hear(link)

    def _answer_knocks(self) -> None:
        while True:
            try:
                caller, _ = self.door.accept()
            except BlockingIOError:
                break
            with caller:
                caller.setblocking(False)
                try:
                    caller.send(b"!")
                except OSError:
                    pass  # it went away: it will start a dispatcher, which finds this one
        self._read_nodes()
        self.tick_at = 0.0

    def _hear(self, link: Link) -> None:
        was_ready = link.ready
        for message in link.hear(time.monotonic()):
            self.board.hear(message)
            if message.get("unstarted"):
                self._pause(link.node.name, str(message.get("why"))[:200])
        if link.ready and not was_ready:
            self.board.ask_again(link.node.name)
            self.tick_at = 0.0
        soon = 0.0 if self.board.dirty else time.monotonic() + FLUSH
        self.tick_at = min(self.tick_at, soon)

    def _pause(self, node: str, why: str) -> None:
        self.paused[node] = (time.monotonic() + NODE_PAUSE, why)

    def _keep_links_up(self, now: float) -> float:
        """Connect, claim, ping where it is time to; returns when to look again."""
        next_at = now + REST
        for link in self.links.values():
            next_at = min(next_at, link.keep_up(now))
            if link.losses:
                link.losses = 0
                self.board.ask_again(link.node.name)
                _note("%s is %s" % (link.node.name, link.trouble))
        return next_at

    def _read_nodes(self) -> None:
        self.nodes = self.store.nodes()
        claim = {
            "cluster": self.cluster,
            "id": self.store.get("cluster_id"),
            "head": socket.gethostname(),
            "state_dir": self.where.root,
        }
        for node in self.nodes:
            if node.name not in self.links:
                self.links[node.name] = Link(node, claim, self.connect)

    # The tick.

    def _tick(self) -> None:
        now = time.monotonic()
        try:
            acts = tick(self.store, self.board, self._usable(now))
        except SkyqError as error:
            _note(str(error))
            self._start_over()
            self.tick_at = self.idle_since = now + STORE_PAUSE  # what it didn't read may be work
            return
        self._act(acts)
        self._tell_trouble()
        self.tick_at = min([until for until, _ in self.paused.values()], default=now + REST)
        if self.board.dirty:
            self.tick_at = now

    def _usable(self, now: float) -> Tuple[Node, ...]:
        """The nodes, each with why nothing may start on it now."""
        self.paused = {name: entry for name, entry in self.paused.items() if entry[0] > now}
        return tuple(n._replace(unusable=why) if (why := self._trouble(n)) else n for n in self.nodes)

    def _tell_trouble(self) -> None:
        """What is wrong with nodes now, for who asks why a job waits."""
        found = {
            node.name: why for node in self.nodes if (why := self._trouble(node)) not in ("", CONNECTING)
        }
        if found != self.told:
            try:
                with self.store.transaction():
                    self.store.set("trouble", json.dumps(found))
            except SkyqError as error:
                _note(str(error))
                return  # the next tick tells it
            for name, why in found.items():
                _note("%s is %s" % (name, why))
            self.told = found

    def _trouble(self, node: Node) -> str:
        if node.unusable or node.name not in self.paused:
            return node.unusable or self.links[node.name].trouble
        return "unable to start jobs: " + self.paused[node.name][1]

    def _start_over(self) -> None:
        """The transaction failed: forget what it assumed, keep what is final.

        Until the next tick the new board knows no job, and what the nodes tell is lost on it: they are
        asked again about every step that isn't gone.
        """
        phases, self.board = self.board.phases, Board()
        for job_id, steps in phases.items():
            self.board.phases[job_id] = {step: each for step, each in steps.items() if each.at >= GONE}

    def _act(self, acts: Acts) -> None:
        for job_id, step in acts.stop:
            job = self.board.jobs[job_id]
            if self._say(job, step, {"do": "stop"}):
                self.board.stopping.add((job_id, step))
        for job_id in acts.over:
            job = self.board.jobs[job_id]
            for link in self._links_of(job):
                link.say({"do": "over", "job": job.uuid, "attempt": job.attempt})
            self.board.over.add(job_id)
        for job_id, step in acts.start:
            self._start(self.board.jobs[job_id], step)
        for uuid in acts.ended:
            specs.drop_secrets(self.where, uuid)

    def _start(self, job: Job, step: str) -> None:
        cluster = specs.Cluster(self.cluster, self.where, {node.name: node for node in self.nodes})
        try:
            spec = specs.step_spec(cluster, job, step, self.board.specs[job.id])
        except (SkyqError, OSError) as error:
            # What the disk does not allow now may work later. Secrets that can't be read never will.
            later = isinstance(error, OSError)
            self.board.phases[job.id][step] = Phase(GONE, UNKNOWN, why=str(error), unstarted=later)
            self.board.dirty.add(job.id)
            if later:
                self._pause(self.board.node_of(job, step), str(error))
            return
        if self._say(job, step, {"do": "start", "spec": spec}):
            self.board.phases[job.id][step] = Phase()

    def _say(self, job: Job, step: str, message: Message) -> bool:
        link = self.links[self.board.node_of(job, step)]
        if not link.ready:
            return False
        link.say({**message, "job": job.uuid, "attempt": job.attempt, "step": step})
        return True

    def _links_of(self, job: Job) -> List[Link]:
        return [self.links[name] for name in sorted({grant.node for grant in job.grants})]


def _note(text: str) -> None:
    """Into dispatcher.log, if there is room on the disk."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass


def _listen(where: ClusterDir) -> socket.socket:
    """Whoever holds tick.lock owns the name of the socket."""
    try:
        os.unlink(where.socket)
    except FileNotFoundError:
        pass
    door = socket.socket(socket.AF_UNIX)
    with wake.short_name(where.socket) as name:
        door.bind(name)
    door.listen(128)
    door.setblocking(False)
    return door
