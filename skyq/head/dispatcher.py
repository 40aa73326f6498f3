"""The dispatcher: the one process of a cluster that ticks on events, alive while there is work.

It may be killed at any moment: the store says what was decided, the nodes say what became of it.
"""

from __future__ import annotations

import math
import os
import select
import socket
import sys
import time

from skyq import __version__
from skyq.core.errors import SkyqError
from skyq.core.lifecycle import GONE, Phase
from skyq.core.logtext import plain
from skyq.core.model import Job
from skyq.core.paths import ClusterDir
from skyq.core.protocol import UNKNOWN, Message
from skyq.core.versions import order
from skyq.head import settings, specs, wake, workdirs
from skyq.head.board import Board
from skyq.head.couriers import Argv, Couriers
from skyq.head.fleet import Connect, Fleet
from skyq.head.head import CLOSING, NEWEST, alone_until
from skyq.head.links import Key, Link, key_of
from skyq.head.lookout import Lookout
from skyq.head.nodes import abandoned
from skyq.head.pulls import Pulls, Source
from skyq.head.tick import Acts, tick
from skyq.store.lock import tick_lock
from skyq.store.store import Store
from skyq.transport.aside import short_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Thread
    from typing import Callable, List, Optional, Set

LOCK_WAIT = 10.0  # seconds that a new dispatcher waits for one that leaves
LINGER = 1.0  # seconds without work before it leaves: the next submit of a loop finds it still there
FLUSH = 0.05  # seconds that news worth no commit of their own wait for one
LINGER_LOOKING = 10.0  # the same while nodes are asked who uses their devices: `status` wants to know
LINGER_CONNECTED = 20.0  # the same where it would have to connect to workers again
GIVE_UP = 45.0  # seconds that a node is unreachable before what surely hasn't started there waits again
OWED_PATIENCE = 60.0  # seconds that an unreachable node's logs keep a dispatcher without work from leaving
CROWDED = 0.005  # seconds until a connection that took no more bytes is tried again
REST = 60.0  # seconds that nothing may happen for
STORE_PAUSE = 1.0  # seconds before a tick that failed is tried again
CRON_AFTER = 5.0  # seconds of work after which cron is asked to tick: not for every `exec local -- echo hi`
CRON_GOODBYE = 2.0  # seconds that crontab(1) gets to end when the dispatcher leaves


def run(where: ClusterDir, cluster: str, connect: Connect, courier: Argv) -> None:
    """Be the dispatcher if nobody else is, as long as there is work."""
    _note("%d: dispatcher of %s" % (os.getpid(), cluster))
    os.umask(0o077)
    first = True
    while _work(where, first):
        first = False
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            with tick_lock(where.tick_lock, wait=0) as held:
                if held:
                    dispatcher = Dispatcher(where, cluster, connect, courier)
                    dispatcher.serve()
                    if dispatcher.superseded:
                        return  # who knocked starts the newer one
                    break  # and look once more: a submit may have come while it was leaving
            if wake.knock(where) or time.monotonic() > deadline:
                return  # another one serves
            time.sleep(FLUSH)


def _work(where: ClusterDir, first: bool) -> bool:
    """Whether there is any. Who asked for a dispatcher wants it to look at the nodes, work or not."""
    if first and os.path.exists(where.database):
        return True
    if not os.path.exists(where.database):
        return False  # the cluster was removed: don't make it anew
    store = Store.of(where)
    try:
        return store.has_unfinished()
    finally:
        store.close()


class Dispatcher:
    """Holds tick.lock for its life."""

    def __init__(self, where: ClusterDir, cluster: str, connect: Connect, courier: Argv) -> None:
        self.where = where
        self.cluster = cluster
        self.store = Store.of(where)
        self.board = Board()
        self.pulls = Pulls()
        self.couriers = Couriers(courier)
        self.fleet = Fleet(cluster, where, connect)
        self.fleet.unwanted = self._unwanted
        self.lookout = Lookout()
        self.door = _listen(where)
        self.alone_until = 0
        self.superseded = False
        """Whether a newer skyq is here, whose turn it is."""
        self.unasked: Set[int] = set()
        """Active jobs of which a node could not be asked for a step: the next tick tries again."""
        self.lost_after = settings.LOST_AFTER
        self.tick_at = 0.0
        """When the next tick is due; monotonic."""
        self.idle_since = time.monotonic()
        self.cron_at = self.idle_since + CRON_AFTER
        """When to see to the crontab; monotonic. Once in this life."""
        self.cron: Optional[Thread] = None

    def serve(self) -> None:
        """observe → settle → plan → record → act, on every event, until there is no work."""
        self._read_nodes()
        self._see_to_journal()
        with self.store.transaction():
            specs.sweep_secrets(self.where, self.store)
        self.lookout.begin(self.store)
        if self.fleet.is_watched:
            self._note_trouble()  # who asks for the nodes' state sees that it isn't known yet
        elif self.lookout.has_real:
            self._tell_of_strangers()
        self._read_owed_logs()
        try:
            while True:
                now = time.monotonic()
                next_at = self._keep_links_up(now)
                if now >= self.tick_at:
                    self._tick()
                self._see_to_cron(now)
                if self.board.jobs or self._awaits_logs(now):
                    self.idle_since = now
                elif now > self.idle_since + self._linger():
                    break
                if self.superseded:
                    _note("%d: makes room for skyq %s" % (os.getpid(), self.store.get(NEWEST)))
                    break
                leave_at = now + REST if self.board.jobs else self.idle_since + self._linger()
                self._wait(min(next_at, self.tick_at, leave_at, self.cron_at))
        finally:
            os.unlink(self.where.socket)
            self.door.close()
            self.fleet.close(release=self.cluster == "local" and not self.board.jobs)
            self.couriers.close()
            if self.cron:
                self.cron.join(CRON_GOODBYE)
            self.store.close()

    def _see_to_journal(self) -> None:
        try:
            self.store.see_to_journal()
        except SkyqError as error:
            _note(str(error))  # a full disk: the next dispatcher does it

    def _linger(self) -> float:
        if self.store.get(CLOSING):
            return 0.0  # `skyq down` waits for this process to leave
        if self.fleet.has_workers:
            return LINGER_CONNECTED
        return LINGER_LOOKING if self.lookout.awaits else LINGER

    def _awaits_logs(self, now: float) -> bool:
        """Whether the end of some log is still on a node that may well send it."""
        owing = self.pulls.owing()
        patience = LINGER if owing and self.store.get(CLOSING) else OWED_PATIENCE
        return any(self.fleet.down(name, now) < patience for name in owing)

    def _read_owed_logs(self) -> None:
        for owed in self.store.owed_logs():
            job = self.store.job(owed.job_id)
            for its in self.store.attempts(job) if job else ():
                # Its node may have left, or be another one by now.
                if its.attempt == owed.attempt and self.board.node_of(its, owed.step) == owed.node:
                    self.pulls.owe(self._source(its, owed.step))

    def _source(self, job: Job, step: str) -> Source:
        node = self.board.node_of(job, step)
        path = specs.log_path(self._facts(), job, step)
        ranks = len(job.grants) if step.startswith("run") else 1
        remote = self.board.nodes[node].reach is not None
        return Source(job.id, job.uuid, job.attempt, step, node, path, remote, ranks)

    def _facts(self) -> specs.Cluster:
        return specs.Cluster(self.cluster, self.where, self.board.nodes, self.alone_until)

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
        connected = {fd: link for link in self.fleet.links.values() if (fd := link.fileno()) is not None}
        for fd in (*connected, *self.couriers.filenos()):
            poll.register(fd, select.POLLIN)
        # A connection that takes no more now is tried again soon: its reader is only busy.
        crowded = any(link.wants_to_write() for link in self.fleet.links.values())
        timeout = CROWDED if crowded else max(0.0, until - time.monotonic())
        ready = {fd for fd, _ in poll.poll(timeout * 1000)}
        if self.door.fileno() in ready:
            self._answer_knocks()
        for fd in ready.intersection(self.couriers.filenos()):
            self._see_courier(fd)
        for fd, link in connected.items():
            if self.fleet.links.get(link.node.name) is not link:
                continue  # a knock told that its node has left
            if link.wants_to_write():
                link.flush()
            if fd in ready and link.fileno() == fd:
                self._hear(link)

    def _answer_knocks(self) -> None:
        """Who gets no answer starts a dispatcher: after an upgrade that is the newer one's."""
        self.superseded = order(self.store.get(NEWEST)) > order(__version__)
        while True:
            try:
                caller, _ = self.door.accept()
            except BlockingIOError:
                break
            with caller:
                caller.setblocking(False)
                try:
                    caller.send(b"" if self.superseded else b"!")
                except OSError:
                    pass  # it went away: it will start a dispatcher, which finds this one
        self._read_nodes()
        self.tick_at = 0.0

    def _hear(self, link: Link) -> None:
        was_ready = link.ready
        now = time.monotonic()
        for message in link.hear(now):
            if self.pulls.hear(link.node.name, message):
                continue
            if message.get("is") == "strangers":
                self._hear_of_strangers(link, message)
                continue
            self.board.hear(link.node.name, message, now)
            if message.get("is") == "gone" and not message.get("stuck"):
                self._end_quarantines(link.node.name, lambda step: step != key_of(message))  # noqa: B023
            if message.get("unstarted"):
                self.fleet.pause(link.node.name, plain(message.get("why", "")[:200]))
        if link.ready and not was_ready:
            self.board.ask_again(link.node.name)
            self._ask_for_owed(link)
            self.tick_at = 0.0
        soon = 0.0 if self.board.dirty else time.monotonic() + FLUSH
        self.tick_at = min(self.tick_at, soon)

    def _hear_of_strangers(self, link: Link, message: Message) -> None:
        why = self.lookout.hear(link.node, message, self.board, time.monotonic())
        if why:
            _note("%s can't tell who uses its devices: %s" % (link.node.name, why))
        self.tick_at = 0.0

    def _see_courier(self, fd: int) -> None:
        """One has ended: who waited for it starts now, or can't."""
        node, why, errands = self.couriers.returned(fd)
        for job_id, step in errands:
            job = self.board.jobs.get(job_id)
            if job is None or step in self.board.phases.get(job_id, {step: None}):
                continue  # it was cancelled meanwhile
            if why and self.board.node_of(job, step) == node:
                if job_id in self.board.may_return:
                    self._conclude(job, step, self.board.where(node, why), unstarted=True)
                else:
                    self._start(job, step, without=True)  # it may run: only the node knows
            self.board.dirty.add(job_id)
        if why:
            self.fleet.pause(node, "its folder did not come: " + why)
        self.tick_at = 0.0

    def _keep_links_up(self, now: float) -> float:
        """Connect, claim, ping where it is time to; returns when to look again."""
        next_at = now + REST
        for link in self.fleet.links.values():
            next_at = min(next_at, link.keep_up(now))
            if link.losses:
                link.losses = 0
                self.couriers.forget(link.node.name)
                self.board.ask_again(link.node.name)
                self.pulls.ask_again(link.node.name)
                self.tick_at = min(self.tick_at, now + FLUSH)
                self._note_news()
            if link.down_at is not None:
                next_at = min(next_at, self._judge(link, now - link.down_at, now))
        next_at = min(next_at, self.lookout.keep_up(self.fleet.links, self.board, now))
        if self.lookout.gave_up:
            self.lookout.gave_up = False
            self.tick_at = now
        return next_at

    def _judge(self, link: Link, down: float, now: float) -> float:
        """What becomes of the jobs of an unreachable node; returns when to look again."""
        name = link.node.name
        if down >= GIVE_UP:
            self.board.give_up(name, "%s is %s" % (name, link.trouble))
        if down >= self.lost_after:
            self.board.lose(name, "node %s has been %s" % (name, link.trouble))
        if self.board.dirty:
            self.tick_at = now
        return now + min((limit - down for limit in (GIVE_UP, self.lost_after) if limit > down), default=REST)

    def _end_quarantines(self, node: str, still: Callable[[Key], bool]) -> None:
        """Of the devices whose processes are dead. `still`: whether any of a step may live."""
        kept = self.fleet.nodes[node].quarantined if node in self.fleet.nodes else ()
        for device in kept:
            job = self.store.job(device.job)
            if job is not None and still((job.uuid, device.attempt, device.step)):
                continue
            try:
                with self.store.transaction():
                    self.store.end_quarantine(node, device)
            except SkyqError as error:
                _note(str(error))  # it ends when the node is next connected to
                continue
            self.tick_at = 0.0
            self._read_nodes()

    def _unwanted(self, node: str, keys: List[Key]) -> List[Key]:
        """Of what a node still has something of: what belongs to no job that goes on."""
        self._end_quarantines(node, lambda step: step in keys)
        found = []
        for uuid, attempt, step in keys:
            job = self.store.job_of(uuid)
            if job is None or job.attempt != attempt or not self.board.wants(job, step):
                found.append((uuid, attempt, step))
        return found

    def _read_nodes(self) -> None:
        self.fleet.read(self.store)
        self.board.nodes = self.fleet.nodes
        self.lookout.read(self.store, self.fleet.nodes.values())
        self.alone_until = alone_until(self.store)
        self.lost_after = float(self.store.get("lost_after") or settings.LOST_AFTER)
        self.pulls.give_up(self.fleet.nodes)
        for name in abandoned(self.store):
            self.board.lose(name, "node %s was removed while it was unreachable" % name, alone=True)

    # The tick.

    def _tick(self) -> None:
        now = time.monotonic()
        self.board.dirty |= self.unasked & self.board.phases.keys()
        self.unasked.clear()
        try:
            nodes = self.lookout.mark(self.fleet.usable(now), not self.board.jobs, now)
            self.lookout.keep_up(self.fleet.links, self.board, now)
            acts = tick(self.store, self.board, nodes, self.fleet.away(), self.pulls)
        except SkyqError as error:
            _note(str(error))
            self._start_over()
            self.tick_at = self.idle_since = now + STORE_PAUSE  # what it didn't read may be work
            return
        self._act(acts)
        if acts.quarantined:
            self._read_nodes()
        self._note_trouble()
        for source, message in self.pulls.stuck():
            self.fleet.links[source.node].say(message)
        self.tick_at = min(self.fleet.pauses_end(), default=now + REST)
        if self.board.dirty:
            self.tick_at = now

    def _note_news(self) -> None:
        for text in self.fleet.news():
            _note(text)

    def _note_trouble(self) -> None:
        self._note_news()
        try:
            self.fleet.tell(self.store)
        except SkyqError as error:
            _note(str(error))  # the next tick tells it
        self._tell_of_strangers()

    def _tell_of_strangers(self) -> None:
        try:
            self.lookout.tell(self.store, self.fleet.links, time.monotonic())
        except SkyqError as error:
            _note(str(error))  # so does the next one here

    def _start_over(self) -> None:
        """The transaction failed: forget what it assumed, keep what is final.

        Until the next tick the new board knows no job, and what the nodes tell is lost on it: they are
        asked again about every step that isn't gone.
        """
        phases, nodes, self.board = self.board.phases, self.board.nodes, Board()
        self.board.nodes = nodes
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
        for job_id, step in acts.go:
            self.board.may_return.discard(job_id)
            if self._say(self.board.jobs[job_id], step, {"do": "go"}):
                self.board.going.add((job_id, step))
        self._close(acts)

    def _close(self, acts: Acts) -> None:
        """What is to be done after attempts that are over."""
        for job, step in acts.owed:
            self._owe(job, step)
        for uuid in acts.ended:
            specs.drop_secrets(self.where, uuid)
        for uuid in (*acts.ended, *acts.again):
            self.pulls.job_over(uuid)
        for link in self.fleet.links.values() if acts.ended or acts.again else ():
            self._ask_for_owed(link)

    def _ask_for_owed(self, link: Link) -> None:
        for _, message in self.pulls.to_ask(link.node.name) if link.ready else ():
            link.say(message)

    def _owe(self, job: Job, step: str) -> None:
        """A log whose job has ended before anybody asked for it."""
        try:
            source = self._source(job, step)
        except OSError as error:
            _note(str(error))  # the next dispatcher sees that it is owed
            return
        self.pulls.owe(source)

    def _start(self, job: Job, step: str, without: bool = False) -> None:
        """Ask a node for a step, once its folder is there; or at once, `without` it, if it may run there."""
        link = self.fleet.links[self.board.node_of(job, step)]
        if not link.ready:
            return  # it is asked when it is
        try:
            spec = self._spec(job, step, without)
            if spec is None:
                return  # it is asked when its folder is there
            spec["tail"] = self.pulls.wish(self._source(job, step))
        except OSError as error:
            # What the disk does not allow now may work later.
            self.fleet.pause(link.node.name, str(error))
            if job.id in self.board.may_return:
                self._conclude(job, step, str(error), unstarted=True)
            else:
                self.unasked.add(job.id)  # it may run: only the node knows
            return
        except SkyqError as error:
            self._conclude(job, step, str(error), unstarted=False)
            return
        if not spec.get("hold"):
            self.board.may_return.discard(job.id)
        if self._say(job, step, {"do": "start", "spec": spec}):
            self.board.phases[job.id][step] = Phase()

    def _spec(self, job: Job, step: str, without: bool) -> Optional[Message]:
        """What to tell the node; None: not yet, its folder is on its way. Raises OSError where that can't be
        read now, SkyqError where it never will be and nothing of the job can run.
        """
        try:
            spec = specs.step_spec(self._facts(), job, step, self.board.specs[job.id])
        except SkyqError as error:
            if job.id in self.board.may_return:
                raise
            return specs.known_step(str(error))  # it may run: only the node knows
        node = self.board.nodes[self.board.node_of(job, step)]
        cwd = self.board.specs[job.id].get("cwd", "") if node.reach else ""
        names = workdirs.copies_of(self.where, cwd)
        return spec if without or self.couriers.fetch(node.name, names, (job.id, step)) else None

    def _conclude(self, job: Job, step: str, why: str, unstarted: bool) -> None:
        """The end of a step that surely doesn't run. `unstarted`: another try may do."""
        self.board.phases[job.id][step] = Phase(GONE, UNKNOWN, why=why, unstarted=unstarted)
        self.board.dirty.add(job.id)

    def _say(self, job: Job, step: str, message: Message) -> bool:
        link = self.fleet.links[self.board.node_of(job, step)]
        if not link.ready:
            return False
        link.say({**message, "job": job.uuid, "attempt": job.attempt, "step": step})
        return True

    def _links_of(self, job: Job) -> List[Link]:
        return [self.fleet.links[name] for name in sorted({grant.node for grant in job.grants})]


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
    with short_name(where.socket) as name:
        door.bind(name)
    door.listen(128)
    door.setblocking(False)
    return door
