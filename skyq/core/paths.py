"""Every name under ~/.skyq, and nothing else builds one. Names only: no disk is touched here."""

from __future__ import annotations

import os.path

from skyq.core.typed import NamedTuple


class Home(NamedTuple):
    """The user's side: SKYQ_HOME (~/.skyq)."""

    root: str

    @property
    def inventory(self) -> str:
        """pools.yaml, the user's own file."""
        return os.path.join(self.root, "pools.yaml")

    @property
    def app(self) -> str:
        """Unpacked code, one folder per content hash."""
        return os.path.join(self.root, "app")

    @property
    def bin(self) -> str:
        """The launcher, and the files that came over SSH."""
        return os.path.join(self.root, "bin")

    @property
    def launcher(self) -> str:
        """What cron, sshd and other machines start, whichever version is in use."""
        return os.path.join(self.bin, "skyq")

    def build(self, version: str, content: str) -> str:
        """One skyq.pyz that came over SSH: named by its content, never overwritten."""
        return os.path.join(self.bin, "skyq-%s-%s.pyz" % (version, content))

    @property
    def known_hosts(self) -> str:
        """The host keys that skyq has pinned, beside those in ~/.ssh/known_hosts."""
        return os.path.join(self.root, "known_hosts")

    @property
    def handshakes(self) -> str:
        """Lock files: so many handshakes with one host are in flight at most."""
        return os.path.join(self.root, "handshakes")

    def members(self, cluster_id: str) -> str:
        """A folder with a file per node of that cluster whose home this is: it may be that of several."""
        return os.path.join(self.root, "members", cluster_id)

    @property
    def token(self) -> str:
        """A word that tells whether two machines have one home."""
        return os.path.join(self.root, "home-token")

    @property
    def wheels(self) -> str:
        """The libraries that this machine's skyq.pyz lacked for another machine."""
        return os.path.join(self.root, "wheels")

    @property
    def remotes(self) -> str:
        """One record per cluster whose head is another machine."""
        return os.path.join(self.root, "remotes")

    def remote(self, name: str) -> str:
        """Where the head of that cluster is, and how it is reached; JSON."""
        return os.path.join(self.remotes, name + ".json")

    @property
    def nodes(self) -> str:
        """What this machine has as a worker: one folder per cluster and machine."""
        return os.path.join(self.root, "nodes")

    def node(self, cluster: str, machine: str) -> str:
        """A worker's run directories; `machine` names it, because homes may be shared by all."""
        return os.path.join(self.nodes, "%s.%s" % (cluster, machine), "run")

    @property
    def clusters(self) -> str:
        """One folder per cluster that this machine is the head of."""
        return os.path.join(self.root, "clusters")

    def cluster(self, name: str) -> ClusterDir:
        """The state of a cluster that this machine is the head of."""
        return ClusterDir(os.path.join(self.clusters, name))


class ClusterDir(NamedTuple):
    """The head's side of one cluster: a private folder on a local file system."""

    root: str

    @property
    def database(self) -> str:
        """The queue."""
        return os.path.join(self.root, "queue.db")

    @property
    def journal(self) -> str:
        """Its second copy, of which `skyq recover` makes it anew."""
        return os.path.join(self.root, "journal")

    @property
    def tick_lock(self) -> str:
        """Held by the dispatcher for its life."""
        return os.path.join(self.root, "tick.lock")

    @property
    def socket(self) -> str:
        """Where the dispatcher is woken."""
        return os.path.join(self.root, "dispatcher.sock")

    @property
    def dispatcher_log(self) -> str:
        """What the dispatcher and the node agents said."""
        return os.path.join(self.root, "dispatcher.log")

    @property
    def ticked(self) -> str:
        """Touched by each `skyq tick`: its time tells when cron was last seen at work."""
        return os.path.join(self.root, "ticked")

    @property
    def secrets(self) -> str:
        """Secret values of unfinished jobs, one 0600 file each."""
        return os.path.join(self.root, "secrets")

    def secret_file(self, uuid: str) -> str:
        """The secret values of one job; gone when the job has ended."""
        return os.path.join(self.secrets, uuid + ".json")

    @property
    def logs(self) -> str:
        """One folder per job."""
        return os.path.join(self.root, "logs")

    def job_logs(self, job_id: int, name: str) -> str:
        """The folder that `queue` names under LOG."""
        return os.path.join(self.logs, "%d-%s" % (job_id, name or "task"))

    @property
    def workdirs(self) -> str:
        """One folder per job that was submitted with a workdir: its own copy."""
        return os.path.join(self.root, "work")

    def workdir(self, uuid: str) -> str:
        """The copy of one job."""
        return os.path.join(self.workdirs, uuid)

    @property
    def key(self) -> str:
        """The private key by which the head reaches its workers; the public one is beside it, with .pub."""
        return os.path.join(self.root, "ssh", "id_ed25519")

    @property
    def known_hosts(self) -> str:
        """The host keys of the workers, as the client that made the cluster saw them."""
        return os.path.join(self.root, "ssh", "known_hosts")

    @property
    def founding(self) -> str:
        """Locked by who makes the cluster."""
        return os.path.join(self.root, "founding.lock")

    @property
    def runs(self) -> str:
        """The run directories of this machine's ranks."""
        return os.path.join(self.root, "run")


def host_word(index: int) -> str:
    """What SkyPilot calls the node with that index in the cluster."""
    return "worker%d" % index if index else "head"


def attempt_logs(job_logs: str, number: int) -> str:
    """Where the logs of one attempt lie: those of the first one in the job's folder itself."""
    return os.path.join(job_logs, "attempt-%d" % number) if number > 1 else job_logs


def step_log(job_logs: str, step: str, single: bool, host: str = "head") -> str:
    """The raw log of one step under attempt_logs(): SkyPilot's names. `host`: host_word() of its node.

    tasks/run.log and tasks/setup.log on a cluster of one node (`single`); tasks/RANK-HOST.log and
    tasks/setup-HOST.log on a larger one.
    """
    kind, _, number = step.partition("-")
    if single:
        name = kind + ".log"
    elif kind == "run":
        name = "%s-%s.log" % (number, host)
    else:
        name = "setup-%s.log" % host
    return os.path.join(job_logs, "tasks", name)


def run_index(job_logs: str) -> str:
    """The order in which the text of several ranks came, under attempt_logs()."""
    return os.path.join(job_logs, "run.idx")


class RunDir(NamedTuple):
    """One step of one attempt on its node."""

    root: str

    @classmethod
    def of(cls, runs: str, uuid: str, attempt: int, step: str) -> RunDir:
        """The directory that names the attempt: its lock and records decide who starts it.

        One flat name, because each folder level would be one more fsync before every start.
        """
        return cls(os.path.join(runs, "%s.%d.%s" % (uuid, attempt, step)))

    @property
    def alive(self) -> str:
        """Locked (flock) by the shim for its life."""
        return os.path.join(self.root, "alive")

    @property
    def prepared(self) -> str:
        """Who is ready and waits for the word to go: what `started` will say, not yet durable."""
        return os.path.join(self.root, "prepared")

    @property
    def started(self) -> str:
        """Who started: written, and on disk, before the script runs."""
        return os.path.join(self.root, "started")

    @property
    def exit(self) -> str:
        """How the script ended, or the fence that forbids a start."""
        return os.path.join(self.root, "exit")

    @property
    def stuck(self) -> str:
        """The processes that no KILL ends, while there are some."""
        return os.path.join(self.root, "stuck")

    @property
    def refusal(self) -> str:
        """Why a shim could not start it: disk full, no bash."""
        return os.path.join(self.root, "refusal")

    @property
    def script(self) -> str:
        """The user's text, nothing else."""
        return os.path.join(self.root, "script")

    @property
    def terminal(self) -> str:
        """The socket of a terminal that waits for somebody to come to it."""
        return os.path.join(self.root, "terminal")

    @property
    def parting(self) -> str:
        """Why its terminal ended it, if it did."""
        return os.path.join(self.root, "parting")

    @property
    def out(self) -> str:
        """The log, where the head didn't name another place for it."""
        return os.path.join(self.root, "out")

    @property
    def containers(self) -> str:
        """The engines that the step has made containers with; wrapper.py writes it, and knows this name."""
        return os.path.join(self.root, "containers")


class Wrappers(NamedTuple):
    """What goes first on a job's PATH."""

    root: str

    @classmethod
    def beside(cls, runs: str) -> Wrappers:
        """Those for the jobs whose run directories are there."""
        return cls(os.path.join(os.path.dirname(os.path.abspath(runs)), "wrappers"))

    @property
    def program(self) -> str:
        """What they all run."""
        return os.path.join(self.root, "wrapper.py")

    def launcher(self, name: str) -> str:
        """What a job runs as docker or podman, in a folder of its own: prelude.sh knows these names."""
        return os.path.join(self.root, name, name)


class ClaimDir(NamedTuple):
    """A sticky local directory that all accounts of a machine share."""

    root: str

    @property
    def claim(self) -> str:
        """Which cluster owns this machine."""
        return os.path.join(self.root, "skyq-host.claim")

    @property
    def shims(self) -> str:
        """Every living shim of the machine holds a shared lock on it."""
        return os.path.join(self.root, "skyq-host.shims")
