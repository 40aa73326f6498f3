"""A secret is nowhere but in the job's environment; and no value of a user's is ever taken for a command."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from skyq.core.logtext import plain
from tests.cluster import LocalQueue, Result, kill, words_of


class Watch(threading.Thread):
    """Looks at the command lines of all processes, again and again, for a text."""

    def __init__(self, text: str) -> None:
        super().__init__(daemon=True)
        self.text = text.encode()
        self.looks = 0
        self.seen: list[bytes] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            for entry in os.listdir("/proc"):
                if entry.isdigit():
                    self._look(entry)
            self.looks += 1

    def _look(self, pid: str) -> None:
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as file:
                words = file.read()
        except OSError:
            return
        if self.text in words:
            self.seen.append(words)


def files_with(root: Path, text: str) -> list[str]:
    """The files below a folder that hold a text."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and text.encode() in path.read_bytes():
                found.append(str(path.relative_to(root)))
    return found


def open_to_others(queue: LocalQueue) -> list[str]:
    """What of the queue's state another account could reach: a mode that says so."""
    found = []
    for folder, folders, names in os.walk(queue.state_dir):
        for name in [*folders, *names, "."]:
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if stat.S_IMODE(mode) & 0o077 and not stat.S_ISLNK(mode):
                found.append("%o %s" % (stat.S_IMODE(mode), os.path.join(folder, name)))
    return found


def test_a_secret_is_in_no_argv_log_database_or_file_that_another_could_read(queue: LocalQueue) -> None:
    value = os.urandom(12).hex()
    watch = Watch(value)
    watch.start()
    blocker = queue.submit("--gpus", "H100:4", queue.until_open())
    job = queue.submit(
        *(
            "--gpus",
            "H100:1",
            "--secret",
            "TOKEN",
            "echo ${#TOKEN}; touch ~/runs; %s" % queue.until_open("b"),
        ),
        env={"TOKEN": value},
    )
    while_it_waits = files_with(queue.home, value)
    queue.open_gate()
    queue.until((queue.user_home / "runs").exists, "the job runs")
    while_it_runs = files_with(queue.home, value)
    asked = ("queue local -o json", "status", "why %d" % job, "logs local --no-follow")
    told = "".join(str(queue.run(*words.split())) for words in asked)
    others = open_to_others(queue)
    queue.open_gate("b")
    queue.wait_all([blocker, job], "SUCCEEDED")
    watch.over.set()
    watch.join()

    assert [name.rpartition("/")[0] for name in while_it_waits] == ["clusters/local/secrets"]
    assert while_it_runs == while_it_waits
    assert files_with(queue.root, value) == []
    assert queue.log(job) == "%d\n" % len(value)
    assert value not in told
    assert watch.seen == [] and watch.looks > 1
    assert others == []
    assert open_to_others(queue) == []


@pytest.mark.parametrize(
    "end", ["cancelled while it waits", "cancelled while it runs", "failed", "shim killed"]
)
def test_the_file_of_a_secret_is_gone_when_the_job_has_ended(queue: LocalQueue, end: str) -> None:
    value = os.urandom(12).hex()
    waits = end == "cancelled waiting"
    if waits:
        queue.submit("--gpus", "H100:4", queue.until_open())
    script = "echo $$ > ~/pid; exit 3" if end == "failed" else "echo $$ > ~/pid; sleep 600"
    job = queue.submit("--gpus", "H100:4", "--secret", "TOKEN", script, env={"TOKEN": value})
    assert waits or queue.until_file("pid")
    if end == "shim killed":
        shim = next(p for p in queue.job_processes() if "_node" in words_of(p))
        kill(shim)
    elif end != "failed":
        queue.ok("cancel", "local", "-y", str(job))
    queue.wait(job)

    queue.until(lambda: files_with(queue.home, value) == [], "the file is gone")


def test_what_a_killed_submit_or_dispatcher_left_of_secrets_is_swept_away(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "--secret", "TOKEN", "true", env={"TOKEN": "x"})
    queue.until(lambda: not queue.own_processes(), "the dispatcher leaves")
    secrets = queue.state_dir / "secrets"
    folder = next((queue.state_dir / "run").iterdir())
    ended = secrets / (folder.name.partition(".")[0] + ".json")
    for path in (ended, secrets / ("0" * 32 + ".json")):
        path.write_text("{}")
    kept = queue.submit("--secret", "TOKEN", queue.until_open(), env={"TOKEN": "x"})

    queue.wait(kept, "RUNNING")
    assert len(list(secrets.iterdir())) == 1
    assert not ended.exists()
    queue.open_gate()
    queue.wait(kept, "SUCCEEDED")


def test_a_job_whose_secrets_are_lost_fails_alone(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:4", queue.until_open())
    job = queue.submit("--gpus", "H100:4", "--secret", "TOKEN", "true", env={"TOKEN": "x"})
    other = queue.submit("--gpus", "H100:4", "true")
    for path in (queue.state_dir / "secrets").iterdir():
        path.unlink()
    queue.open_gate()

    assert "secrets can't be read" in queue.wait(job, "FAILED_DRIVER")["reason"]
    queue.wait(other, "SUCCEEDED")


@pytest.mark.parametrize("left", ["nothing", "a folder", "no JSON", "no secrets"])
def test_a_job_that_runs_goes_on_when_its_secrets_are_lost(queue: LocalQueue, left: str) -> None:
    """The next dispatcher can't tell what it would start, but asks the node for what it has."""
    script = "touch ~/runs; %s; echo ${#TOKEN}; exit 7" % queue.until_open()
    job = queue.submit("--gpus", "H100:4", "--secret", "TOKEN", script, env={"TOKEN": "xyz"})
    queue.until((queue.user_home / "runs").exists, "the job runs")
    other = queue.submit("--gpus", "H100:4", "touch ~/other")
    kill(queue.dispatcher())
    (path,) = (queue.state_dir / "secrets").iterdir()
    path.unlink()
    if left == "a folder":
        path.mkdir()
    elif left != "nothing":
        path.write_text("x" if left == "no JSON" else "[1]")
    queue.ok("tick", "local")
    queue.dispatcher()
    queue.ok("status")
    assert queue.states() == {job: "RUNNING", other: "PENDING"}

    queue.open_gate()
    assert queue.wait(job, "FAILED")["reason"] == "exit code 7"
    assert queue.log(job) == "3\n"
    queue.wait(other, "SUCCEEDED")


EVIL = (
    "$(touch canary)",
    "`touch canary`",
    "'; touch canary; '",
    '"; touch canary; "',
    "a\ntouch canary\n",
    "-rf",
    "--help",
    "\x1b]0;owned\a",
    "x\\",
    "{}%s%n*?[!]~#&|<> ",
)


def harmless(result: Result) -> Result:
    """What a command said about evil text: in words, and nothing that a terminal would obey."""
    assert result.code in (0, 1, 2), str(result)
    assert "Traceback" not in result.err, str(result)
    assert "\x1b" not in result.out + result.err, str(result)
    return result


def test_no_variable_secret_or_word_is_ever_taken_for_a_command(queue: LocalQueue) -> None:
    envs = [word for number, text in enumerate(EVIL) for word in ("--env", "A%d=%s" % (number, text))]
    secrets = {"B%d" % number: text for number, text in enumerate(EVIL)}
    names = [word for name in secrets for word in ("--secret", name)]
    tell = "import os, sys; print([os.environ[k + str(n)] for k in 'AB' for n in range(%d)] + sys.argv[1:])"
    words = ["--", sys.executable, "-c", tell % len(EVIL), *EVIL]
    queue.ok("exec", "local", *envs, *names, *words, env=secrets)

    assert queue.log(1) == "%s\n" % [*EVIL, *EVIL, *EVIL]
    assert list(queue.root.rglob("canary")) == []


def test_no_name_of_a_user_or_folder_is_ever_taken_for_a_command(queue: LocalQueue) -> None:
    for text in EVIL:
        (queue.user_home / text).mkdir()
        queue.submit("--workdir", str(queue.user_home / text), "true", env={"SKYQ_USER": text})
    jobs = queue.wait_all(range(1, len(EVIL) + 1), "SUCCEEDED")

    assert [jobs[number]["username"] for number in sorted(jobs)] == [plain(text) for text in EVIL]
    for words in (["queue", "local", "-u"], ["status"], *(["why", str(number)] for number in sorted(jobs))):
        harmless(queue.run(*words))
    assert list(queue.root.rglob("canary")) == []


def test_a_bad_name_of_a_job_device_or_cluster_is_refused_in_words(queue: LocalQueue) -> None:
    for text in EVIL:
        for words in (["local", "-n", text], ["-c", text], ["local", "--gpus", text + ":1"]):
            assert harmless(queue.run("exec", *words, "true")).code != 0
        for words in (
            ["logs", text],
            ["cancel", "local", "-y", text],
            ["why", "local", text],
            ["queue", text],
        ):
            harmless(queue.run(*words))

    assert queue.jobs() == {}
    assert list(queue.root.rglob("canary")) == []


def test_a_bad_host_or_device_of_the_inventory_is_refused_in_words(queue: LocalQueue) -> None:
    for text in EVIL:
        for host in ({"ip": text}, {"ip": "localhost", "accelerators": {text: 1}}, text):
            (queue.home / "pools.yaml").write_text(json.dumps({"local": {"hosts": [host]}}))
            harmless(queue.run("queue", "local"))

    assert list(queue.root.rglob("canary")) == []


def test_the_queue_may_live_in_a_folder_of_any_name(tmp_path: Path, queue: LocalQueue) -> None:
    other = LocalQueue(tmp_path / 'it\'s $(touch canary) "q"\n -x `y`', queue.program)
    try:
        assert other.ok("exec", "local", "echo hi").lines[-1] == "✓ Job finished (status: SUCCEEDED)."
        assert other.log(1) == "hi\n"
    finally:
        other.close()
    assert list(tmp_path.rglob("canary")) == []
