"""`skyq doctor`: what is well and what isn't, each with what to do about it."""

from __future__ import annotations

import os
import sys

from skyq import __version__, folders, program
from skyq.cli import cluster, many
from skyq.cli.parser import Parser
from skyq.cli.render import Style
from skyq.core import states
from skyq.core.errors import SkyqError
from skyq.core.finding import Finding
from skyq.core.model import Device
from skyq.core.paths import Home, RunDir
from skyq.head.checkup import short
from skyq.head.head import Head
from skyq.store.place import home_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.node.checkup import Run

GREEN = "32"
WIDTH = 15  # columns of the names
PATIENCE = 10.0  # seconds to find out which workers can be reached

_EXAMPLES = """\
  skyq doctor
  skyq doctor -o json | jq '.local[] | select(.ok | not)'
"""


def parser() -> Parser:
    """Its flags."""
    found = Parser(
        "doctor", "[OPTIONS] [CLUSTERS]...", "Tell what is well, and what to do about the rest.", _EXAMPLES
    )
    found.add_argument("clusters", nargs="*", metavar="CLUSTERS", help="all of them if none is named")
    found.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return found


def main(words: list[str]) -> int:
    """Exit code 0 if all is well, else 1."""
    found = parser().read(words)
    names = list(dict.fromkeys(found.clusters)) or cluster.known()
    question = many.Question("doctor", ["-o", found.output], _show, _record, lambda name, error: str(error))
    return many.ask(names, question, found.output == "json")


def _record(name: str) -> tuple[object, int]:
    all_ = examine(name)
    return [finding._asdict() for finding in all_], int(not all(finding.ok for finding in all_))


def _show(name: str) -> int:
    all_ = examine(name)
    style = Style.of(sys.stdout.isatty(), os.environ)
    print(style.bold("Cluster " + name))
    for finding in all_:
        print(_shown(finding, style))
    return int(not all(finding.ok for finding in all_))


def _shown(finding: Finding, style: Style) -> str:
    mark = style.paint(GREEN, "ok") if finding.ok else style.red("!!")
    first, *more = finding.text.splitlines()
    lines = ["%s  %-*s %s" % (mark, WIDTH, finding.check, first)]
    lines += [" " * (WIDTH + 5) + line for line in more]
    lines += [" " * (WIDTH + 5) + style.bold("→ " + line) for line in finding.todo.splitlines()]
    return "\n".join(lines)


def examine(name: str) -> list[Finding]:
    """Everything about one cluster. SkyqError if there is no such cluster."""
    found = [_python(), _file()]
    try:
        head = cluster.open_head(name, refresh=False)
    except SkyqError as error:
        what, _, todo = str(error).partition("\n")
        return [*found, Finding("state", False, what, todo or "Nothing can be queued until that is mended.")]
    from skyq.head import checkup

    return [*found, *checkup.findings(head), *_node(head), _claim(head)]


def _python() -> Finding:
    text = "%d.%d.%d, %s" % (*sys.version_info[:3], sys.executable)
    try:
        used = program.argv()[0]
    except SkyqError as error:
        return Finding("python", False, text + "; it lacks the libraries", str(error))
    if used != sys.executable:
        text += "; the file holds no libraries for it, so %s runs the queue" % used
    return Finding("python", True, text)


def _file() -> Finding:
    if not program.DEPS:
        return Finding("file", True, "skyq %s, a checkout: %s" % (__version__, program.ROOT))
    text = "skyq %s, code %s" % (__version__, os.path.basename(program.ROOT))
    if not os.path.isdir(program.ROOT):
        todo = "Set SKYQ_HOME to a folder on a disk with room."
        return Finding("file", False, "skyq %s, not unpacked: each start is slow" % __version__, todo)
    text += ", unpacked in %s" % short(os.path.dirname(program.ROOT))
    if os.path.dirname(program.ROOT) in folders.places()[-2:]:
        todo = "Give %s room and rights, so that it stays there." % short(Home(home_root()).app)
        return Finding("file", False, text + ", which may be emptied at a reboot", todo)
    if not os.path.exists(program.archive()):
        text += "; %s, where it came from, is gone (jobs don't need it)" % short(program.archive())
    return Finding("file", True, text)


def _node(head: Head) -> list[Finding]:
    from skyq.node import checkup

    found = []
    try:
        found.append(_devices(head))
        found.append(checkup.device_use(_runs(head)))
    except SkyqError as error:
        what, _, todo = str(error).partition("\n")
        found.append(Finding("devices", False, what, todo))
    return [*found, checkup.containment(), *_workers(head)]


def _workers(head: Head) -> list[Finding]:
    """One for each other node."""
    from skyq.node import checkup

    head.see_nodes(PATIENCE)
    rungs = head.ungrouped()
    found = []
    for node in head.nodes():
        if node.reach is not None:
            text = node.unusable or "answers; " + (_counted(node.devices) or "no devices")
            if node.name in rungs:
                text += "\n" + checkup.contained_by(rungs[node.name])
            todo = (
                "Nothing new starts there until it answers; jobs that run there go on."
                if node.unusable
                else ""
            )
            found.append(Finding(node.name, not node.unusable, text, todo))
    return found


def _devices(head: Head) -> Finding:
    from skyq.node import probe

    is_local = head.cluster == cluster.LOCAL
    node = cluster.local_node(Home(home_root())) if is_local else head.nodes()[0]
    declared, there = node.devices, probe.devices()
    if not declared and not there:
        return Finding("devices", True, "none: there is no nvidia-smi that sees one, and none is declared")
    text = "%s: %s" % (_counted(declared), " ".join(str(device.index) for device in declared))
    if there and len(declared) > len(there):
        todo = "Correct `accelerators` in %s." % short(Home(home_root()).inventory)
        if not is_local:
            todo = "See what became of the others (nvidia-smi). Jobs that are given them fail."
        return Finding("devices", False, text + ", as declared; but nvidia-smi sees %d" % len(there), todo)
    return Finding("devices", True, text + ("" if there else ", as declared in pools.yaml"))


def _counted(devices: tuple[Device, ...]) -> str:
    names = [device.accelerator for device in devices]
    return ", ".join("%dx %s" % (names.count(name), name) for name in dict.fromkeys(names))


def _runs(head: Head) -> list[Run]:
    from skyq.node.checkup import Run

    found = []
    for job in head.jobs(None, unfinished=True):
        devices = [index for grant in job.grants for index, _ in grant.devices]
        for step in head.step_logs(job) if job.state in states.ACTIVE else ():
            found.append(Run(job.id, RunDir.of(head.where.runs, job.uuid, job.attempt, step), devices))
    return found


def _claim(head: Head) -> Finding:
    from skyq.node import claim

    found = claim.read(cluster.claim_dir())
    if found is None:
        return Finding("claim", True, "this machine is free for a queue")
    why = claim.refusal(cluster.claim_dir(), head.store.get("cluster_id"), head.where.root)
    if why:
        what, _, todo = why.partition("\n")
        return Finding("claim", False, what, todo)
    return Finding("claim", True, "this machine is this queue's")
