"""A secret's value is where its job can read it and nowhere else; and no value of a user's is ever run."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import LocalQueue, Result
from tests.waiting import wait_until

SECRET = "s3cr3t-" + os.urandom(8).hex()  # no other test that runs at the same time has it
SEES_IT = 'printf %s "$TOKEN" | sha256sum'  # printf is part of bash: the value is in no argv of the job's own
SEEN = hashlib.sha256(SECRET.encode()).hexdigest()
LOOK_AGAIN = 0.01  # seconds between two looks at all processes


class Argvs:
    """Looks at every process's command line, all the time, for a text."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.found: set[str] = set()
        self.looks = 0
        self.ended = threading.Event()

    def watch(self) -> None:
        while not self.ended.wait(LOOK_AGAIN):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    words = Path("/proc", pid, "cmdline").read_bytes()
                except OSError:
                    continue
                if self.text in words:
                    self.found.add(words.replace(b"\0", b" ").decode())
            self.looks += 1


@contextmanager
def watched_argvs(text: str) -> Iterator[Argvs]:
    """Watches while the block runs, and sees at least one whole look after its last line."""
    argvs = Argvs(text)
    thread = threading.Thread(target=argvs.watch)
    thread.start()
    try:
        yield argvs
    finally:
        argvs.ended.set()
        thread.join()


@contextmanager
def any_umask() -> Iterator[None]:
    """What is private must not be so by the caller's umask."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def holders(queue: LocalQueue, text: str = SECRET) -> list[Path]:
    """The files of the whole queue, the job's home too, that hold a text."""
    skipped = {queue.home / "app", queue.user_home / "task.yaml", queue.user_home / "secrets.env"}
    return [path for path in files(queue.root, skipped) if text.encode() in path.read_bytes()]


def files(root: Path, skipped: set[Path]) -> Iterator[Path]:
    """All regular files below a folder."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) not in skipped]
        for name in names:
            path = Path(folder, name)
            if path not in skipped and path.is_file():
                yield path


def open_to_others(path: Path) -> bool:
    """Whether anybody else than its owner may do anything with it."""
    return bool(path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def submitted(queue: LocalQueue, how: str, *options: str) -> int:
    """A job that gets the secret in one of the ways there are, tells its hash, and waits."""
    script = "%s; %s" % (SEES_IT, queue.until_open())
    if how == "YAML":
        task = queue.file("task.yaml", "run: |\n  %s\nsecrets:\n  TOKEN: %s\n" % (script, SECRET))
        return queue.submit(*options, str(task))
    if how == "--secret-file":
        queue.file("secrets.env", "TOKEN=%s\n" % SECRET)
        return queue.submit(*options, how, "secrets.env", script)
    if how == "--secret NAME":
        return queue.submit(*options, "--secret", "TOKEN", script, env={"TOKEN": SECRET})
    return queue.submit(*options, "--secret", "TOKEN=" + SECRET, script)


WAYS = ["--secret NAME", "--secret-file", "YAML", "--secret NAME=VALUE"]


@pytest.mark.parametrize("how", WAYS)
def test_the_job_sees_its_secret_and_nobody_else_does(queue: LocalQueue, how: str) -> None:
    typed = how == "--secret NAME=VALUE"  # then it stands in the argv of the submit itself
    job_id = submitted(queue, how) if typed else 1
    with any_umask(), watched_argvs(SECRET) as argvs:
        if not typed:
            submitted(queue, how)
        queue.until(lambda: queue.log(job_id).endswith("\n"), "the job has told what it sees")
        while_it_runs = holders(queue)
        queue.ok("queue", "local")
        queue.ok("queue", "local", "-o", "json")
        queue.ok("why", str(job_id))
        queue.open_gate()
        queue.wait(job_id, "SUCCEEDED")
    looked = [queue.ok("logs", "local"), queue.ok("queue", "local", "-u", "-o", "json")]

    assert queue.log(job_id).split()[0] == SEEN
    assert argvs.looks > 0
    assert argvs.found == set()
    assert [path.parent for path in while_it_runs] == [queue.state_dir / "secrets"]
    queue.until(lambda: holders(queue) == [], "the secret is gone")
    assert not any(SECRET in result.out + result.err for result in looked)


def test_the_witness_of_argvs_sees_what_is_there() -> None:
    with watched_argvs(SECRET) as argvs, subprocess.Popen(
        ["bash", "-c", "read", SECRET], stdin=-1
    ) as process:
        wait_until(lambda: argvs.found, "it is seen")
        process.kill()

    assert argvs.found == {"bash -c read %s " % SECRET}


def test_the_file_of_a_secret_is_for_its_owner_alone_whatever_the_umask(queue: LocalQueue) -> None:
    with any_umask():
        submitted(queue, "--secret NAME")
        queue.wait(1, "RUNNING")
        (path,) = holders(queue)

    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert not any(open_to_others(folder) for folder in path.parents if queue.home in folder.parents)


def test_state_directories_and_what_is_in_them_are_for_their_owner_alone(
    queue: LocalQueue, skyq_argv: list[str]
) -> None:
    home = queue.root / "new"
    with any_umask():
        queue.ok("exec", "local", "echo hi", env={"SKYQ_HOME": str(home)})
        state = home / "clusters" / "local"
        kept = [state, *(Path(top, name) for top, inner, _ in os.walk(state) for name in inner)]
        written = list(files(state, set()))

    assert (state / "queue.db") in written
    assert [path for path in [home, home / "clusters", *kept] if open_to_others(path)] == []
    assert [path for path in written if open_to_others(path)] == []


def test_setup_and_run_both_see_the_secret(queue: LocalQueue) -> None:
    queue.file("task.yaml", "setup: %s\nrun: %s\nsecrets: {TOKEN: %s}\n" % (SEES_IT, SEES_IT, SECRET))
    with watched_argvs(SECRET) as argvs:
        queue.ok("launch", "-c", "local", "task.yaml", "-d", "-y")
        queue.wait(1, "SUCCEEDED")

    assert queue.log(1, "setup.log").split()[0] == queue.log(1).split()[0] == SEEN
    assert argvs.found == set()
    queue.until(lambda: holders(queue) == [], "the secret is gone")


def test_a_secret_wins_over_a_variable_of_the_same_name(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "--env", "TOKEN=x", "--secret", "TOKEN", SEES_IT, env={"TOKEN": SECRET})

    assert queue.log(1).split()[0] == SEEN


# Its end.


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_the_file_of_a_secret_is_gone_when_its_job_has_ended(queue: LocalQueue, end: str) -> None:
    then = {"SUCCEEDED": "true", "FAILED": "exit 3", "CANCELLED": "sleep 600"}[end]
    queue.submit("--secret", "TOKEN", queue.until_open() + "; " + then, env={"TOKEN": SECRET})
    queue.wait(1, "RUNNING")
    assert len(holders(queue)) == 1
    if end == "CANCELLED":
        queue.ok("cancel", "local", "1", "-y")
    queue.open_gate()
    queue.wait(1, end)

    queue.until(lambda: holders(queue) == [], "the secret is gone")


def test_so_it_is_when_the_job_is_cancelled_while_it_waits(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:4", "sleep 600")
    waiting = submitted(queue, "--secret NAME", "--gpus", "H100:4")
    assert len(holders(queue)) == 1
    queue.ok("cancel", "local", str(waiting), "-y")

    assert queue.states()[waiting] == "CANCELLED"
    assert holders(queue) == []


def test_so_it_is_when_the_job_is_refused(queue: LocalQueue) -> None:
    result = queue.run(
        "exec", "local", "--gpus", "A100:8", "--secret", "TOKEN", "true", env={"TOKEN": SECRET}
    )

    assert result.code == 1
    assert SECRET not in result.out + result.err
    assert holders(queue) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--secret", "1BAD=" + SECRET],
        ["--secret", "=" + SECRET],
        ["--secret", "TOKEN=%s\xff" % SECRET, "--gpus", "X:9"],
        ["--secret-file", "broken.env"],
        ["broken.yaml"],
    ],
    ids=["bad name", "no name", "refused", "file", "YAML"],
)
def test_no_error_message_shows_a_secret(queue: LocalQueue, words: list[str]) -> None:
    queue.file("broken.env", "TOKEN='%s\n" % SECRET)
    queue.file("broken.yaml", "run: true\nsecrets:\n  TOKEN: [%s]\n" % SECRET)
    result = queue.run("exec", "local", *words, *([] if "broken.yaml" in words else ["true"]))

    assert result.code in (1, 2), str(result)
    assert SECRET not in result.out + result.err


# Harmless names and values. The canary would appear if a shell ever read one of them.


def evil(canary: Path) -> list[str]:
    """What a shell, an option parser or a terminal would trip over."""
    touch = "touch %s" % canary
    return [
        "$(%s)" % touch,
        "`%s`" % touch,
        "'; %s; '" % touch,
        '"; %s; "' % touch,
        "a\n%s\nb" % touch,
        "-x; %s" % touch,
        "--help",
        "a && %s" % touch,
        "() { :; }; %s" % touch,
        "\\'\"$HOME*?[~] \t é",
        "%s %d %(x)s {0}",
        "\x1b]0;title\x07\x1b[2J",
    ]


@pytest.fixture
def canary(queue: LocalQueue) -> Path:
    """What must never exist."""
    return queue.root / "canary"


def refused(result: Result) -> bool:
    """With one message for people, not with a traceback, nor with control characters for the terminal."""
    return result.code in (1, 2) and "Traceback" not in result.err and "\x1b" not in result.err


def test_values_of_variables_and_secrets_arrive_as_they_are(queue: LocalQueue, canary: Path) -> None:
    values = {"V%d" % number: value for number, value in enumerate(evil(canary))}
    envs = [word for name, value in values.items() for word in ("--env", name + "=" + value)]
    secrets = [word for name, value in values.items() for word in ("--secret", "S%s=%s" % (name, value))]
    queue.bashrc("export V0=rc SV1=rc\n")
    queue.ok("exec", "local", *envs, *secrets, "env -0")
    found = dict(entry.split("=", 1) for entry in queue.log(1).split("\0") if entry)

    assert {name: found[name] for name in values} == values
    assert {name: found["S" + name] for name in values} == values
    assert not canary.exists()


def test_words_of_a_command_arrive_as_they_are(queue: LocalQueue, canary: Path) -> None:
    words = [*evil(canary), "", "-d", "local"]
    queue.ok("exec", "local", "--", "printf", r"%s\0", *words)

    assert queue.log(1).split("\0")[:-1] == words
    assert not canary.exists()


def test_evil_names_are_refused_before_anything_happens(queue: LocalQueue, canary: Path) -> None:
    names = [*evil(canary), "../../x", "a/b", ".", "-n", "\n", " "]
    for name in names:
        assert refused(result := queue.run("exec", "local", "-d", "--name=" + name, "true")), str(result)
        assert refused(result := queue.run("queue", "./" + name)), str(result)
    assert refused(result := queue.run("exec", "local", "--env", "$(touch %s)=1" % canary, "true")), str(
        result
    )

    assert queue.jobs() == {}
    assert not canary.exists()


def test_a_workdir_may_have_any_name_and_hold_any_names(queue: LocalQueue, canary: Path) -> None:
    names = [name.replace("/", "∕") for name in evil(canary)]
    for number, name in enumerate(names, 1):
        queue.file("-work/%s/%s" % (name, name), "x%d" % number)
    queue.ok("exec", "local", "--workdir=-work", "find . -type f -print0 | sort -z")
    queue.ok("exec", "local", "--workdir", "-work/" + names[0], "cat ./*")

    assert queue.log(1).split("\0")[:-1] == sorted(
        ("./%s/%s" % (name, name) for name in names), key=str.encode
    ), queue.evidence()
    assert queue.log(2) == "x1"
    assert not canary.exists()


def test_a_users_name_may_be_anything(queue: LocalQueue, canary: Path) -> None:
    for name in evil(canary):
        queue.ok("exec", "local", "-d", "true", env={"SKYQ_USER": name})
    queue.wait_all(queue.jobs())
    result = queue.ok("queue", "local", "-u")

    assert "\x1b" not in result.out
    assert len(result.lines) == 2 + len(evil(canary))
    assert not canary.exists()
