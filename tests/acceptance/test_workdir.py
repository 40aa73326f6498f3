"""Workdirs and file_mounts: each job its own copy, and what the last launch left for the others."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cluster import LocalQueue, Result

HOLD = "until [ -e ~/gate ]; do sleep 0.05; done; "


def project(queue: LocalQueue) -> Path:
    """A folder of a user's with one file."""
    return queue.file("project/train.py", "version 1\n").parent


def logged(queue: LocalQueue, result: Result) -> str:
    """What the job of that attached command wrote."""
    return queue.log(queue.job_id(result))


def test_a_job_runs_in_a_copy_of_its_workdir(queue: LocalQueue) -> None:
    folder = project(queue)
    result = queue.ok("exec", "local", "--workdir", "project", "cat train.py; echo changed > train.py; pwd")

    assert "  Syncing workdir (to 1 node): project -> ~/sky_workdir" in result.lines
    assert "✓ Synced workdir." in result.lines
    assert logged(queue, result).startswith("version 1\n")
    assert (folder / "train.py").read_text() == "version 1\n"


def test_a_queued_job_keeps_the_files_of_its_submission(queue: LocalQueue) -> None:
    folder = project(queue)
    first = queue.submit("--workdir", "project", HOLD + "cat train.py")
    (folder / "train.py").write_text("version 2\n")
    (folder / "new").touch()
    second = queue.submit("--workdir", "project", HOLD + "cat train.py; ls")
    (folder / "new").unlink()
    third = queue.submit("--workdir", "project", HOLD + "ls")
    queue.open_gate()
    queue.wait_all([first, second, third], "SUCCEEDED")

    assert queue.log(first) == "version 1\n"
    assert queue.log(second) == "version 2\nnew\ntrain.py\n"
    assert queue.log(third) == "train.py\n"  # what was deleted is gone


def test_what_setup_made_at_launch_is_there_for_later_jobs(queue: LocalQueue) -> None:
    """The flow of SkyPilot's page: launch with a workdir, then exec with and without one."""
    project(queue)
    task = "workdir: project\nsetup: mkdir -p .venv && echo tool > .venv/bin\nrun: cat .venv/bin train.py\n"
    queue.file("task.yaml", task)
    launched = queue.ok("launch", "-y", "task.yaml")
    without = queue.ok("exec", "local", "cat .venv/bin train.py; cat ~/sky_workdir/train.py")
    queue.file("project/train.py", "version 2\n")
    same = queue.ok("exec", "local", "task.yaml")

    assert logged(queue, launched) == "tool\nversion 1\n"
    assert logged(queue, without) == "tool\nversion 1\nversion 1\n"
    assert logged(queue, same) == "tool\nversion 2\n"


def test_files_of_jobs_before_the_first_workdir_stay_where_they_were(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "echo precious > result")
    project(queue)
    result = queue.ok("exec", "local", "--workdir", "project", "cat ~/sky_workdir/result train.py")

    assert logged(queue, result) == "precious\nversion 1\n"


def test_links_modes_empty_folders_and_odd_names_survive(queue: LocalQueue) -> None:
    folder = project(queue)
    (folder / "a b\nc'\"$(touch canary)").write_text("odd\n")
    (folder / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (folder / "run.sh").chmod(0o750)
    (folder / "empty" / "inner").mkdir(parents=True)
    (folder / "link").symlink_to("train.py")
    (folder / "broken").symlink_to("/nowhere")
    (folder / os.fsdecode(b"\xff")).touch()
    result = queue.ok(
        *("exec", "local", "--workdir", "project"),
        "./run.sh; cat link a*; ls -d empty/inner; readlink broken; ls -A | wc -l; stat -c %a run.sh",
    )

    assert logged(queue, result) == "ran\nversion 1\nodd\nempty/inner\n/nowhere\n8\n750\n"


def test_a_pipe_or_socket_is_left_out_with_a_word(queue: LocalQueue) -> None:
    folder = project(queue)
    os.mkfifo(folder / "pipe")
    result = queue.ok("exec", "local", "--workdir", "project", "ls")

    assert logged(queue, result) == "train.py\n"
    assert "neither file, folder nor link: pipe" in result.err


def test_gitignore_rules_of_every_folder_and_skyignore_instead(queue: LocalQueue) -> None:
    queue.file("project/.gitignore", "*.log\n/build/\n!keep.log\n")
    queue.file("project/sub/.gitignore", "secret\n!other.log\n")
    for name in ("a.log", "keep.log", "build/x", "sub/build/x", "sub/secret", "sub/other.log", "secret"):
        queue.file("project/" + name, "")
    queue.file("project/.git/info/exclude", "local-only\n")
    queue.file("project/local-only", "")
    by_git = queue.ok("exec", "local", "--workdir", "project", "find . -type f | sort")
    queue.file("project/.skyignore", "sub\n.*\n")
    by_sky = queue.ok("exec", "local", "--workdir", "project", "find . -type f | sort")

    assert logged(queue, by_git).split() == [
        *("./.git/info/exclude", "./.gitignore", "./keep.log", "./secret"),
        *("./sub/.gitignore", "./sub/build/x", "./sub/other.log"),
    ]
    assert logged(queue, by_sky).split() == ["./a.log", "./build/x", "./keep.log", "./local-only", "./secret"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--workdir", "nowhere", "true"], 2, "Directory 'nowhere' does not exist."),
        (["--workdir", "file", "true"], 2, "Directory 'file' does not exist."),
        (["task.yaml"], 1, "Workdir must be a valid directory (or a symlink to one): nowhere"),
        (["--workdir", ".", "--git-url", "x", "true"], 1, "Cannot specify both --workdir and --git-url"),
        (["--git-url=--upload-pack=x", "true"], 1, "can't be used"),
        (["--git-url", "ext::sh -c x", "true"], 1, "can't be used"),
        (["--git-ref", "main", "true"], 1, "give --git-url too"),
    ],
)
def test_what_is_no_workdir_is_refused_and_nothing_is_left(
    queue: LocalQueue, words: list[str], code: int, said: str
) -> None:
    queue.file("file", "")
    queue.file("task.yaml", "workdir: nowhere\nrun: pwd\n")
    result = queue.run("exec", "local", *words)

    assert (result.code, said in result.err) == (code, True), str(result)
    assert queue.jobs() == {}
    assert list(queue.state_dir.glob("work/*")) == []


def test_an_unreadable_file_is_named_and_nothing_is_submitted(queue: LocalQueue) -> None:
    folder = project(queue)
    (folder / "private").mkdir()
    (folder / "private").chmod(0)
    if os.access(folder / "private", os.R_OK):
        pytest.skip("root can read everything: an unreadable file can't be made")
    result = queue.run("exec", "local", "--workdir", "project", "true")

    assert result.code == 1 and "private can't be read" in result.err
    assert queue.jobs() == {}


def test_a_killed_copy_leaves_no_job_and_no_folder_that_a_job_could_run_in(queue: LocalQueue) -> None:
    folder = project(queue)
    (folder / "large").write_bytes(b"x" * 300_000_000)
    process = queue.start("exec", "local", "-d", "--workdir", "project", "true")
    queue.until(lambda: list(queue.state_dir.glob("work/*.part/large")), "the copy has begun")
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert queue.jobs() == {}
    assert [path.suffix for path in queue.state_dir.glob("work/*")] == [".part"]
    assert not (queue.user_home / "sky_workdir").exists()


def test_a_large_workdir_is_shown_with_its_largest_entries(queue: LocalQueue) -> None:
    folder = project(queue)
    (folder / "checkpoints").mkdir()
    with open(folder / "checkpoints" / "big", "wb") as file:
        file.truncate(300 * 1024**2)  # sparse: large only by its name
    result = queue.ok("exec", "local", "--workdir", "project", "true")

    assert result.line(r"  300.0 MB in \d+ files; the largest:")
    assert result.line(r" +300.0 MB  checkpoints")


def test_a_workdir_that_does_not_fit_is_refused_with_the_path(queue: LocalQueue) -> None:
    folder = project(queue)
    with open(folder / "huge", "wb") as file:
        file.truncate(8 * 1024**4)
    result = queue.run("exec", "local", "--workdir", "project", "true")

    assert result.code == 1 and "No room for the job's copy of its files: 8192.0 GB needed" in result.err
    assert str(queue.state_dir) in result.err and "skyq clean" in result.err
    assert queue.jobs() == {}


def test_a_copy_shares_no_inode_with_the_workdir(queue: LocalQueue) -> None:
    folder = project(queue)
    result = queue.ok("exec", "local", "--workdir", "project", "stat -c %i:%h train.py")

    assert logged(queue, result) == "%s:1\n" % logged(queue, result).split(":")[0]
    assert logged(queue, result) != "%d:1\n" % (folder / "train.py").stat().st_ino


# file_mounts.


def test_file_mounts_reach_the_copy_and_the_paths_they_name(queue: LocalQueue) -> None:
    project(queue)
    queue.file("data/set/a", "A\n")
    queue.file("conf.yaml", "conf\n")
    mounts = "{inside/conf.yaml: conf.yaml, ~/mounted/data: data, sub: ./data/set}"
    run = "cat inside/conf.yaml sub/a ~/mounted/data/set/a"
    task = "workdir: project\nfile_mounts: %s\nrun: %s\n" % (mounts, run)
    queue.file("task.yaml", task)
    launched = queue.ok("launch", "-y", "task.yaml")
    queue.file("data/set/a", "B\n")
    again = queue.ok("launch", "-y", "task.yaml")
    executed = queue.ok("exec", "local", "task.yaml")  # file_mounts are for launch; what it left is there

    assert logged(queue, launched) == "conf\nA\nA\n"
    assert logged(queue, again) == "conf\nB\nB\n"
    assert logged(queue, executed) == "conf\nB\nB\n"


@pytest.mark.parametrize(
    ("mounts", "said"),
    [
        ("{~/there: data}", "exists, and was not put there by skyq"),
        ("{../up: data}", "leads out of the workdir"),
        ("{x: nowhere}", "File mount source 'nowhere' does not exist locally."),
        ("{link/x: data}", "lies behind a link of the workdir"),
        ("{x: 's3://bucket/x'}", "A URL can't be mounted"),
    ],
)
def test_a_file_mount_that_would_harm_or_cannot_be_is_refused(
    queue: LocalQueue, mounts: str, said: str
) -> None:
    folder = project(queue)
    (folder / "link").symlink_to(queue.user_home)
    queue.file("data/a", "")
    mine = queue.file("there/mine", "mine")
    queue.file("task.yaml", "workdir: project\nfile_mounts: %s\nrun: 'true'\n" % mounts)
    result = queue.run("launch", "-y", "task.yaml")

    assert result.code == 1 and said in result.err, str(result)
    assert queue.jobs() == {}
    assert mine.read_text() == "mine"


# git.


@pytest.fixture
def repository(queue: LocalQueue) -> str:
    """A git repository with two commits; the first is tagged v1."""

    def git(*words: str) -> None:
        identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        subprocess.run(["git", *identity, *words], cwd=queue.user_home / "repo", check=True)

    queue.file("repo/f", "one\n")
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "1")
    git("tag", "v1")
    queue.file("repo/f", "two\n")
    git("commit", "-qam", "2")
    return str(queue.user_home / "repo")


def test_a_git_workdir_is_fetched_at_the_ref_that_is_asked_for(queue: LocalQueue, repository: str) -> None:
    queue.file("task.yaml", "workdir: {url: 'file://%s', ref: v1}\nrun: cat f\n" % repository)
    commit = subprocess.run(
        ["git", "rev-parse", "v1"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.strip()

    assert logged(queue, queue.ok("exec", "local", "task.yaml")) == "one\n"
    assert logged(queue, queue.ok("exec", "local", "task.yaml", "--git-ref", "main")) == "two\n"
    assert logged(queue, queue.ok("exec", "local", "--git-url", repository, "cat f")) == "two\n"
    assert (
        logged(queue, queue.ok("exec", "local", "--git-url", repository, "--git-ref", commit, "cat f"))
        == "one\n"
    )


def test_a_git_ref_that_is_not_there_is_named(queue: LocalQueue, repository: str) -> None:
    result = queue.run("exec", "local", "--git-url", repository, "--git-ref", "nope", "cat f")

    assert result.code == 1 and "The repository has no branch, tag or commit 'nope'." in result.err
    assert queue.jobs() == {}


# clean.


def test_clean_removes_what_ended_jobs_left_but_not_what_is_shown(queue: LocalQueue) -> None:
    project(queue)
    for _ in range(2):
        queue.ok("exec", "local", "--workdir", "project", "true")
    queue.submit("--workdir", "project", queue.until_open())
    copies = [path for path in queue.state_dir.glob("work/*") if path.is_dir()]
    running = Path(os.readlink(queue.user_home / "sky_workdir"))
    result = queue.ok("clean", "--older", "0m", "-y", "--logs")

    assert len(copies) == 3 and running in copies
    assert result.lines[-1] == "Removed."
    assert [path for path in queue.state_dir.glob("work/*") if path.is_dir()] == [running]
    assert [path.name for path in queue.state_dir.glob("logs/*")] == ["3-sky-cmd"]
    queue.open_gate()
    queue.wait(3, "SUCCEEDED")


def test_clean_keeps_the_copies_that_the_current_one_shows_parts_of(queue: LocalQueue) -> None:
    project(queue)
    queue.file("task.yaml", "workdir: project\nsetup: touch made\nrun: ls\n")
    queue.ok("launch", "-y", "task.yaml")
    queue.ok("exec", "local", "task.yaml")
    queue.ok("clean", "--older", "0m", "-y")
    result = queue.ok("exec", "local", "cat made && ls")

    assert logged(queue, result) == "made\ntrain.py\n"


def test_clean_removes_the_copies_of_submits_that_were_killed_before_their_job_was_queued(
    queue: LocalQueue,
) -> None:
    project(queue)
    queue.ok("exec", "local", "--workdir", "project", "true")
    of_job = set(queue.state_dir.glob("work/*"))
    for name in ("0" * 32, "1" * 32 + "-mount-0", "2" * 32):
        (queue.state_dir / "work" / name / "sub").mkdir(parents=True)
        manifest = queue.state_dir / "work" / (name + ".json")
        manifest.write_text("{}")
        if not name.startswith("2"):  # whose client may still come back
            os.utime(manifest, (0, 0))
    queue.ok("clean", "-y")

    left = set(queue.state_dir.glob("work/*")) - of_job
    assert sorted(path.name for path in left) == ["2" * 32, "2" * 32 + ".json"]


def test_clean_asks_first_and_takes_only_what_is_old_enough(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")
    old = queue.ok("clean")
    asked = queue.run("clean", "--older", "0m", input="n\n")

    assert old.lines == ["Nothing to remove: no job that ended over 30d ago left anything."]
    assert asked.code == 1 and "Remove them? [y/N]: " in asked.out
    assert len(list(queue.state_dir.glob("run/*.run-0"))) == 1
    assert queue.run("clean", "--older", "soon").code == 2


def test_copies_are_for_this_account_only(queue: LocalQueue) -> None:
    project(queue)
    queue.ok("exec", "local", "--workdir", "project", "true")

    modes = [stat.S_IMODE(path.stat().st_mode) for path in queue.state_dir.glob("work/*")]
    assert modes and all(mode & 0o077 == 0 for mode in modes)
