"""A newer skyq comes to a cluster whose jobs run, and another build of the same version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program import ROOT
from tests.ssh.remote import LAUNCHER, Gate, Remote, commands

Make = Callable[..., Remote]

NEWER = "99.1.0"


def build(tree: Path, version: str, more: str = "") -> Path:
    """A skyq.pyz of this code that calls itself that; `more` goes into its module skyq."""
    shutil.copytree(ROOT / "skyq", tree / "skyq", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("build_zipapp.py", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    (ROOT / ".wheels").mkdir(exist_ok=True)
    (tree / ".wheels").symlink_to(ROOT / ".wheels")
    (tree / "skyq/__init__.py").write_text(
        '"""Imports nothing."""\n\n__version__ = "%s"\n%s' % (version, more)
    )
    subprocess.run([sys.executable, "build_zipapp.py"], cwd=tree, check=True, capture_output=True)
    return tree / "skyq.pyz"


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A skyq.pyz that calls itself newer."""
    return build(tmp_path_factory.mktemp("newer"), NEWER)


def version(cluster: Remote) -> str:
    """Of the skyq on the client."""
    return cluster.client.run(["skyq", "--version"]).stdout.split()[1]


def dispatchers(cluster: Remote) -> list[int]:
    """Their pids on the head."""
    return [process.pid for process, words in commands(cluster.head) if "_dispatcher" in words]


def told_once(gate: Gate, nodes: int) -> str:
    """A script that notes on its node's disk that it began, and at the end exits with 7 if it is alone."""
    began, code = "echo b >>~/began.$SKYPILOT_INTERNAL_JOB_ID", 7 if nodes == 1 else 0
    return "%s; %s; echo ended $SKYPILOT_NODE_RANK of %d; exit %d" % (began, gate.wait, nodes, code)


def test_twenty_running_jobs_are_not_touched_by_an_upgrade(make_cluster: Make, newer: Path) -> None:
    cluster = make_cluster(4)
    shutil.copy(newer, cluster.client.home / "newer.pyz")
    gate = cluster.gate()
    jobs = {cluster.submit("--num-nodes", "2", told_once(gate, 2)): 2 for _ in range(5)}
    jobs.update({cluster.submit("--gpus", "H100:1", told_once(gate, 1)): 1 for _ in range(10)})
    jobs.update({cluster.submit("--gpus", "H100:0.5", told_once(gate, 1)): 1 for _ in range(5)})
    cluster.wait_all(jobs, "RUNNING")
    cluster.until(
        lambda: sum(gate.waiting(node.name) for node in cluster.lab.nodes) == 25, "all are at the gate"
    )
    before = dispatchers(cluster)

    said = cluster.client.run(["python3", "newer.pyz", "exec", "lab", "--gpus", "H100:1", "echo from newer"])
    assert said.returncode == 0 and "from newer" in said.stdout, said
    assert "has skyq %s: sending it %s" % (version(cluster), NEWER) in said.stderr, said
    assert [node.run([LAUNCHER, "--version"]).stdout for node in cluster.lab.nodes] == [
        "skyq %s\n" % NEWER
    ] * 4
    after = dispatchers(cluster)
    assert len(before) == len(after) == 1 and before != after, cluster.evidence()
    assert {job: record["status"] for job, record in cluster.jobs().items() if job in jobs} == dict.fromkeys(
        jobs, "RUNNING"
    )

    gate.open()
    ended = cluster.wait_all(jobs)
    for job, nodes in jobs.items():
        assert ended[job]["exit_codes"] == ([7] if nodes == 1 else [0, 0]), (ended[job], cluster.evidence())
        places = [each["node"] for each in ended[job]["nodes"]]
        begun = [cluster.lab.host(node).read("/home/ada/began.%d" % job) for node in places]
        assert begun == ["b\n"] * nodes
        wanted = sorted("ended %d of %d" % (rank, nodes) for rank in range(nodes))
        cluster.until(
            lambda job=job, wanted=wanted: sorted(re.findall("ended . of .", log(cluster, job))) == wanted,
            "the log of job %d is whole" % job,
        )

    # The older one goes on being served, and takes nothing back.
    assert "older" in cluster.ok("exec", "lab", "echo older").out
    assert cluster.head.run([LAUNCHER, "--version"]).stdout == "skyq %s\n" % NEWER


def log(cluster: Remote, job: int) -> str:
    """What `logs` shows."""
    return cluster.run("logs", "lab", str(job), "--no-follow", at=cluster.head).out


def test_two_builds_of_one_version_leave_each_other_alone(make_cluster: Make, tmp_path: Path) -> None:
    cluster = make_cluster(2)
    cluster.ok("exec", "lab", "true")
    script = cluster.head.read("/home/ada/.skyq/bin/skyq")
    (tmp_path / "other").mkdir()
    other = build(tmp_path / "other", version(cluster), "OTHER = 'a developer changed something'\n")
    shutil.copy(other, cluster.client.home / "other.pyz")
    for _ in range(2):
        said = cluster.client.run(["python3", "other.pyz", "exec", "lab", "echo", "other"])
        assert said.returncode == 0 and ") other" in said.stdout and said.stderr.count("\n") <= 1, said
        assert ") mine" in cluster.ok("exec", "lab", "echo", "mine").out
    assert cluster.head.read("/home/ada/.skyq/bin/skyq") == script
