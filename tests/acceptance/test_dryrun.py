"""What helps to type and to script: dry runs, quiet, names and patterns for ids, completion, NO_COLOR."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.cluster import LocalQueue


def test_a_dry_run_tells_where_the_job_would_land_and_submits_nothing(queue: LocalQueue) -> None:
    free = queue.ok("exec", "local", "--dryrun", "--gpus", "H100:2", "true")
    queue.submit("--gpus", "H100:3", "sleep 600")
    queue.wait(1, "RUNNING")
    busy = queue.ok("exec", "local", "--dryrun", "--gpus", "H100:2", "true")
    launched = queue.ok("launch", "--dryrun", "--gpus", "H100:1", "true")
    never = queue.run("exec", "local", "--dryrun", "--gpus", "H100:5", "true")

    assert free.lines[-1] == "It would start now, on localhost (devices 0, 1)."
    assert busy.lines[-1] == "It would wait: needs 2 H100 on one node; 1 free (job 1 holds 3)."
    assert launched.lines[-1] == "It would start now, on localhost (device 3)."
    assert never.code == 1 and "Requested resources do not match" in never.err
    assert list(queue.jobs()) == [1]


def test_quiet_prints_what_the_job_prints_and_with_detach_its_id(queue: LocalQueue) -> None:
    attached = queue.run("exec", "local", "-q", "echo a; echo b; exit 3")
    detached = queue.ok("exec", "local", "-q", "-d", "true")

    assert (attached.code, attached.out, attached.err) == (100, "a\nb\n", "")
    assert (detached.out, detached.err) == ("2\n", "")


def test_names_and_patterns_stand_for_ids(queue: LocalQueue) -> None:
    for name in ("sweep-1", "sweep-2", "other"):
        queue.submit("-n", name, "sleep 600")
    cancelled = queue.ok("cancel", "local", "-y", "sweep-*")

    assert cancelled.lines[0] == "Cancelling jobs (2, 1) on cluster 'local'..."
    assert queue.states() == {1: "CANCELLED", 2: "CANCELLED", 3: "RUNNING"}
    assert queue.run("logs", "local", "sweep-1", "--status").out == "Job 1: CANCELLED\n"
    assert queue.ok("why", "local", "other").lines[0] == "Job 3 (other): RUNNING"
    assert queue.run("cancel", "local", "-y", "nobody").code == 2
    assert queue.ok("logs", "local", "-s", "sweep-?").out.count(" logs: ") == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["qu"], ["queue"]),
        (["queue", ""], ["local"]),
        (["exec", "local", "--git"], ["--git-ref", "--git-url"]),
        (["cancel", "local", ""], ["1", "mine"]),
        (["exec", "local", "--", "--g"], []),
        (["nonsense", ""], []),
    ],
)
def test_completion_offers_what_fits(queue: LocalQueue, words: list[str], expected: list[str]) -> None:
    queue.submit("-n", "mine", "true")

    assert queue.ok("_complete", *words).lines == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_what_the_shell_understands(queue: LocalQueue, shell: str) -> None:
    script = queue.ok("completion", shell).out
    assert "skyq _complete" in script
    if shutil.which(shell) is None:
        pytest.skip("no %s here: its script is only printed, not read" % shell)
    checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_bash_completes_a_verb(queue: LocalQueue) -> None:
    queue.file("skyq", '#!/bin/sh\nexec %s "$@"\n' % " ".join(queue.program)).chmod(0o755)
    script = (
        'eval "$(skyq completion bash)"; COMP_WORDS=(skyq ca); COMP_CWORD=1; _skyq; echo "${COMPREPLY[@]}"'
    )
    environ = {**queue.env, "PATH": "%s:%s" % (queue.user_home, queue.env["PATH"])}
    done = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("cancel\n", "")
