"""The records that everything else is about. Frozen; standard library only. Named tuples, because dataclasses
cost every command 10 ms of import and a queue of 10,000 jobs five times as long to read.

Units: device amounts are integers, UNIT = one whole device; CPUs are milli-CPUs; memory is MB;
times ending in `_at` are UTC epoch seconds for people, never for decisions.
"""

from __future__ import annotations

from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

UNIT = 10_000
"""One whole device. A request's finest share is 1/10000 of a device."""

DEFAULT_CPUS = 500
"""Milli-CPUs that a job takes per node when it asks for none (SkyPilot: 0.5 CPU per job and node)."""

ENDING = 10.0
"""Seconds within which a script starts once it may, and within which nothing of it lives after a KILL."""

ANY_POOL = "*"

ANY_DEVICE = "GPU"
"""The accelerator name that any device satisfies."""


def without_secrets(fields: Dict[str, Any]) -> str:
    """For the repr of a record that has a field `secrets`: its names only."""
    return ", ".join("%s=%r" % (n, sorted(v) if n == "secrets" else v) for n, v in fields.items())


class Request(NamedTuple):
    """What one node must give to one rank: one of a task's alternatives."""

    accelerator: Optional[str] = None
    """Name as typed by the user (case doesn't matter), ANY_DEVICE, or None for no device."""
    amount: int = 0
    """Of that device, per node: below UNIT a share of one device, above it whole devices only."""
    cpus: int = DEFAULT_CPUS
    """Milli-CPUs consumed per node."""
    memory: int = 0
    """MB consumed per node; 0: not counted."""


class Recovery(NamedTuple):
    """After which bad ends a job is run again: another attempt, in the same folder, with the same id."""

    retries: int = 0
    """How many times after failures of its own: of `setup` or `run`."""
    codes: Tuple[int, ...] = ()
    """Exit codes after which it is run again without counting as one of those."""
    requeue: bool = False
    """Whether also when it was lost: with its machine, or with the shim that would know its exit status."""


class TimeLimit(NamedTuple):
    """How long `run` may last, and `setup`, on its own, too: then TERM, a grace time, KILL."""

    seconds: int = 0
    """From the script's start; 0: as long as it likes."""
    signal: str = ""
    """What `run` gets some time before: "USR1"; empty: nothing."""
    before: int = 0
    """How many seconds before."""
    grace: float = 0.0
    """Seconds between TERM and KILL, as they were when the job was submitted."""

    def most(self, scripts: int = 1) -> Optional[float]:
        """Seconds in which so many scripts, one after the other, have surely ended; None: it has no limit."""
        return scripts * (self.seconds + self.grace + ENDING) if self.seconds else None


class Git(NamedTuple):
    """A workdir that is fetched."""

    url: str
    ref: str = ""
    """Branch, tag or commit; empty: the remote's HEAD."""


class Batch(NamedTuple):
    """What the jobs of a task differ in that is many: a number, variables. Each combination is one job."""

    indices: Tuple[int, ...] = ()
    sweeps: Tuple[Tuple[str, Tuple[str, ...]], ...] = ()
    """Variables, each with its values."""
    at_once: int = 0
    """How many of the jobs may run at once; 0: all."""


class Array(NamedTuple):
    """The jobs of one batch, as the store has them. Their ids are a plain range."""

    first: int
    """The least id."""
    count: int  # type: ignore[assignment]
    at_once: int = 0
    """How many of them may run at once; 0: all."""

    @property
    def last(self) -> int:
        """The greatest id."""
        return self.first + self.count - 1


class Task(NamedTuple):
    """The checked spec of a job: a task file with the command line's overrides applied."""

    name: Optional[str] = None
    num_nodes: int = 1
    alternatives: Tuple[Request, ...] = (Request(),)
    """In order of preference; open until the job starts; all ranks take the same one."""
    priority: int = 0
    setup: Optional[str] = None
    run: Optional[str] = None
    workdir: Optional[str] = None
    git: Optional[Git] = None
    """Instead of workdir."""
    envs: Dict[str, str] = {}
    secrets: Dict[str, str] = {}
    """Exported like envs; shown nowhere."""
    file_mounts: Dict[str, str] = {}
    cpus_shown: str = ""
    """The cpus field as written ("4+"), for the RESOURCES column of a job without devices."""
    least_cpus: int = 0
    """Milli-CPUs that a host has which `launch` takes; 0: any."""
    least_memory: int = 0
    """MB, the same."""
    recovery: Recovery = Recovery()
    after: Tuple[Tuple[str, str], ...] = ()
    """Jobs that it waits for, as typed, each with what shall have become of it (core/after.py)."""
    pool: str = ""
    """From which `launch` takes hosts; ANY_POOL: whichever; empty: not said."""
    warnings: Tuple[str, ...] = ()
    """One line each, for the person who submits."""
    batch: Optional[Batch] = None
    """None: it is one job."""
    time_limit: TimeLimit = TimeLimit()
    terminal: bool = False
    """Whether somebody comes to it: `skyq run`."""

    def __repr__(self) -> str:
        return "Task(%s)" % without_secrets(self._asdict())


class Device(NamedTuple):
    """One accelerator of a node."""

    index: int  # type: ignore[assignment]
    """What CUDA_VISIBLE_DEVICES calls it."""
    accelerator: str
    """SkyPilot's name: H100, A100-80GB."""
    uuid: str = ""
    """The vendor's UUID; empty for declared devices."""


class Reach(NamedTuple):
    """How the head reaches a worker by SSH."""

    host: str
    port: int
    user: str


class Quarantine(NamedTuple):
    """A device of a node that nobody may get: processes of an ended job have it, and can't be killed."""

    device: int
    job: int
    attempt: int
    step: str
    since: float
    """UTC epoch seconds, for people."""
    who: str
    """The processes: "pid 4711 (python)"."""


class Stranger(NamedTuple):
    """A device that others use, without any queue, or that is there no more: nothing new starts on it."""

    device: int
    who: str
    """ "pid 4711 python of bob, 4096 MB"; "": it isn't known yet whether somebody does."""
    missing: bool = False
    """Nobody uses it: nvidia-smi doesn't list it under its number, and `who` is what that says."""


class Node(NamedTuple):
    """One machine of the cluster, as the scheduler sees it."""

    name: str
    index: int  # type: ignore[assignment]
    """Cluster order; 0 is the head."""
    devices: Tuple[Device, ...] = ()
    cpus: int = 0
    memory: int = 0
    unusable: str = ""
    """Why nothing new may start here (drained, unreachable since …); empty: it may."""
    ip: str = "127.0.0.1"
    """What the other nodes call it."""
    reach: Optional[Reach] = None
    """None: the head itself."""
    quarantined: Tuple[Quarantine, ...] = ()
    """What of its devices nobody may get now."""
    strangers: Tuple[Stranger, ...] = ()
    """What of its devices others use, or is missing."""

    @property
    def at_hand(self) -> Node:
        """Without the devices that nobody may get now."""
        kept = {each.device for each in self.quarantined}
        kept.update(each.device for each in self.strangers if each.who)
        return self._replace(devices=tuple(d for d in self.devices if d.index not in kept)) if kept else self


class Grant(NamedTuple):
    """The allocation of one rank: which node, which devices and how much of each, CPUs and memory."""

    node: str
    rank: int
    devices: Tuple[Tuple[int, int], ...] = ()
    """(device index, amount) in index order."""
    cpus: int = 0
    memory: int = 0


class Waiting(NamedTuple):
    """A PENDING job, as the scheduler sees it."""

    id: int
    num_nodes: int
    alternatives: Tuple[Request, ...]
    priority: int = 0
    overtaken: Optional[float] = None
    """Seconds since a later job first started where this one, the first blocked, might; None: none did."""
    limit: Optional[float] = None
    """Seconds after its start by which it has surely ended; None: it has no limit."""
    array: Optional[Array] = None
    """If it is one of those of which only some may run at once."""

    @classmethod
    def of(cls, job: Job) -> Waiting:
        """Of a PENDING job."""
        return cls(
            *(job.id, job.num_nodes, job.alternatives, job.priority, job.overtaken),
            limit=job.longest,
            array=job.array if job.array and job.array.at_once else None,
        )


class Holding(NamedTuple):
    """An ACTIVE job, as the scheduler sees it."""

    id: int
    grants: Tuple[Grant, ...]
    ends_in: Optional[float] = None
    """Seconds until its time limit has ended it for sure; None: it has none, or it isn't known yet."""
    array: Optional[Array] = None
    """See Waiting."""

    @classmethod
    def of(cls, job: Job) -> Holding:
        """Of an ACTIVE job."""
        return cls(job.id, job.grants, array=job.array if job.array and job.array.at_once else None)


class Start(NamedTuple):
    """A decision: this job starts now, on these grants (rank order), by this alternative."""

    job: int
    alternative: int
    grants: Tuple[Grant, ...]


class Snapshot(NamedTuple):
    """All that a plan may depend on."""

    nodes: Tuple[Node, ...]
    """In cluster order."""
    holding: Tuple[Holding, ...] = ()
    waiting: Tuple[Waiting, ...] = ()
    """In any order; the plan orders by priority (higher first), then id."""
    reserve_after: Optional[float] = None
    """Seconds that the first blocked job may be overtaken before a place is kept for it; None: none is."""
    reserved: Optional[Start] = None
    """The place that the last plan kept."""


class Job(NamedTuple):
    """One submission of a task, as the store holds it."""

    id: int
    uuid: str
    name: Optional[str]
    user: str
    state: str
    submitted_at: float
    started_at: Optional[float]
    """When RUNNING began: setup doesn't count."""
    ended_at: Optional[float]
    num_nodes: int
    alternatives: Tuple[Request, ...]
    priority: int
    attempt: int
    """Names its run directories: grows with each try, also with one that could not start anything."""
    alternative: Optional[int]
    """Index of the alternative that was taken; None before the start."""
    cancel_requested_at: Optional[float]
    reason: str
    """A sentence; for a final state never empty."""
    exit_codes: Tuple[int, ...]
    """Per rank, once ended: 0..255, 128+N for signal N."""
    has_setup: bool
    cpus_shown: str
    task_id: str
    pids: Dict[str, int]
    """Step name → pid of its script, as far as known."""
    grants: Tuple[Grant, ...]
    """Where the current attempt runs or ran."""
    setup_on: Tuple[str, ...]
    """The nodes that its setup runs or ran on, in cluster order."""
    rev: int
    """Grows with each change of the store; a reader asks for what came after the last one it saw."""
    recovery: Recovery = Recovery()
    failures: int = 0
    """Attempts before this one that failed by themselves, and count as retries."""
    losses: int = 0
    """Attempts before this one that were lost, or ended with one of the codes that don't count."""
    awaits: Tuple[str, ...] = ()
    """Nodes on which a lost attempt may still run: none starts before these are back, or removed."""
    overtaken: Optional[float] = None
    """See Waiting; as it was written down last."""
    after: Tuple[Tuple[int, str], ...] = ()
    """Jobs that it waits for; see core/after.py."""
    held: str = ""
    """By whom it is kept from starting, since when; empty: it isn't."""
    array: Optional[Array] = None
    """Of which it is one; None: it came alone."""
    time_limit: TimeLimit = TimeLimit()

    @property
    def number(self) -> int:
        """Of the attempt, as people count: 1, 2, … Tries that started nothing don't count."""
        return 1 + self.failures + self.losses

    @property
    def longest(self) -> Optional[float]:
        """Seconds after its start by which it has surely ended; None: it has no limit."""
        return self.time_limit.most(2 if self.has_setup else 1)
