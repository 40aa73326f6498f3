"""Verbs of a cluster whose head is elsewhere: typed here, run there, seen here."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from tests.acceptance.test_logs import read_until, shown
from tests.cli.laptop import Far, Laptop
from tests.cluster import words_of


def ended(head: Far, script: str, *options: str) -> int:
    job_id = head.submit(*options, script)
    head.wait(job_id)
    return job_id


# exec and launch: read here, carried out there.


def test_exec_shows_what_the_job_says_and_exits_with_its_result(laptop: Laptop, head: Far) -> None:
    result = laptop.run("exec", "lab", "echo hello; exit 3")

    assert result.lines[:2] == ["Command to run: echo hello; exit 3", "Submitting job to cluster: lab"]
    assert "⚙︎ Job submitted, ID: 1" in result.lines
    result.line(r"\(sky-cmd, pid=\d+\) hello")
    assert result.lines[-1] == "✓ Job finished (status: FAILED)."
    assert result.code == 100


def test_exec_says_the_same_as_on_the_head(laptop: Laptop, head: Far) -> None:
    here = head.run("exec", "lab", "--gpus", "H100:1", "-n", "same", "echo hello")
    there = laptop.run("exec", "lab", "--gpus", "H100:1", "-n", "same", "echo hello")

    def without_numbers(text: str) -> str:
        return re.sub(r"\d+", "N", text)

    assert without_numbers(there.out) == without_numbers(here.out)
    assert (there.err, there.code) == (here.err, here.code) == ("", 0)


def test_a_task_file_and_the_environment_are_the_laptops(laptop: Laptop, head: Far) -> None:
    laptop.file("task.yaml", "name: mine\nenvs: {A: file}\nrun: echo $A $B $C\n")
    laptop.file("more.env", "C=dotenv\n")
    result = laptop.ok("exec", "lab", "task.yaml", "--env", "B", "--env-file", "more.env", env={"B": "shell"})

    assert "YAML to run: task.yaml" in result.lines
    assert shown(result) == ["file shell dotenv"]


def test_a_task_from_standard_input(laptop: Laptop, head: Far) -> None:
    result = laptop.ok("exec", "lab", "-", input="name: typed\nrun: echo from stdin\n")

    result.line(r"\(typed, pid=\d+\) from stdin")


def test_the_laptops_user_submits(laptop: Laptop, head: Far) -> None:
    laptop.ok("exec", "lab", "-d", "true")
    laptop.ok("exec", "lab", "-d", "true", env={"SKYQ_USER": "grace"})

    assert [head.job(job_id)["username"] for job_id in (1, 2)] == ["ada", "grace"]


def test_launch_runs_setup_first_and_says_what_to_type_next(laptop: Laptop, head: Far) -> None:
    laptop.file("task.yaml", "setup: echo s\nrun: echo r\n")
    result = laptop.ok("launch", "-c", "lab", "task.yaml")

    assert shown(result) == ["s", "r"]
    assert "✓ Setup detached." in result.lines
    assert "├── To stream job logs:\t\tskyq logs lab 1" in result.lines


def test_detached_and_quiet_prints_the_id_alone(laptop: Laptop, head: Far) -> None:
    result = laptop.ok("exec", "lab", "-d", "-q", "true")

    assert (result.out, result.err) == ("1\n", "")
    assert laptop.ok("exec", "lab", "-q", "echo x").out == "x\n"


def test_a_dry_run_submits_nothing(laptop: Laptop, head: Far) -> None:
    result = laptop.ok("exec", "lab", "--dryrun", "--gpus", "H100:2", "true")

    assert "It would start now, on node0 (devices 0, 1)." in result.lines
    assert head.jobs() == {}


def test_what_can_never_run_is_refused_by_the_head(laptop: Laptop, head: Far) -> None:
    result = laptop.run("exec", "lab", "--gpus", "A100:1", "true")

    assert result.code == 1
    assert "Requested resources do not match the existing cluster." in result.err
    assert head.jobs() == {}


def test_warnings_and_hints_come_too(laptop: Laptop, head: Far) -> None:
    laptop.file("task.yaml", "resources: {use_spot: true}\nrun: 'true'\n")
    result = laptop.ok("exec", "lab", "-d", "task.yaml")

    assert "Warning: " in result.err and "use_spot" in result.err
    assert "For one: --gpus H100:1" in result.err


def test_a_workdir_goes_along_and_what_did_not_change_stays_at_home(laptop: Laptop, head: Far) -> None:
    folder = laptop.file("proj/a", "one").parent
    laptop.file("proj/.gitignore", "secret\n")
    laptop.file("proj/secret", "x")
    (folder / "link").symlink_to("a")
    (folder / "a").chmod(0o750)
    show = "ls -A; stat -c %a a; cat link"
    first = laptop.ok("exec", "lab", "-q", "--workdir", "proj", show + "; touch made")
    assert first.out.split() == [".gitignore", "a", "link", "750", "one"]
    laptop.file("proj/a", "two, longer")
    (folder / "link").unlink()
    second = laptop.ok("exec", "lab", "-q", "--workdir", "proj", "ls -A; cat a")
    assert second.out.splitlines() == [".gitignore", "a", "made", "two, longer"]


def test_a_repository_is_fetched_by_the_head(laptop: Laptop, head: Far) -> None:
    folder = laptop.file("repo/file", "committed").parent
    for words in ("init -q", "add .", "-c user.name=me -c user.email=me@x commit -qm first"):
        subprocess.run(["git", "-C", str(folder), *words.split()], check=True)
    assert laptop.ok("exec", "lab", "-q", "--git-url", str(folder), "cat file").out.rstrip() == "committed"


def test_file_mounts_go_along_with_launch_and_are_no_matter_to_exec(laptop: Laptop, head: Far) -> None:
    away = laptop.user_home / "far" / "away"
    laptop.file("data/x", "hello")
    laptop.file(
        "task.yaml", "file_mounts: {in/side: data, %s: data/x}\nrun: cat in/side/x %s\n" % (away, away)
    )
    assert laptop.ok("launch", "-c", "lab", "-q", "task.yaml").out.rstrip() == "hellohello"
    laptop.file("exec.yaml", "file_mounts: {other: data}\nrun: ls other\n")
    assert laptop.run("exec", "lab", "exec.yaml").code == 100


def test_files_that_can_not_go_along_are_told_of_and_nothing_is_submitted(laptop: Laptop, head: Far) -> None:
    for option in ("--workdir", "--git-url"):
        result = laptop.run("exec", "lab", option, "/nowhere", "true")
        assert result.code and "/nowhere" in result.err, str(result)
    assert head.jobs() == {}


def test_a_secret_is_in_no_command_line_and_no_environment_on_the_head(laptop: Laptop, head: Far) -> None:
    process = laptop.start("exec", "lab", "--secret", "KEY=s3cr3t", "echo got ${#KEY}; " + head.until_open())
    read_until(process, b"got 6\n")
    seen = [words_of(process) for process in head.processes()]
    agents = [agent.environ() for agent in head.agents()]
    head.open_gate()
    process.communicate(timeout=60)

    assert len(agents) == 1
    assert "s3cr3t" not in repr(seen) + repr(agents)


# Questions.


def test_queue_is_the_heads_and_names_its_paths(laptop: Laptop, head: Far) -> None:
    ended(head, "true", "-n", "first")
    result = laptop.ok("queue", "lab", "-u")

    assert result.lines[0] == "Job queue of all users on cluster lab"
    assert "~/" not in result.out  # the head's HOME isn't SKYQ_HOME's parent here
    assert str(head.state_dir / "logs" / "1-first") in result.out
    assert (
        laptop.ok("queue", "lab", "-u", "-o", "json").json()
        == head.ok("queue", "lab", "-u", "-o", "json").json()
    )


def test_queue_shows_ones_own_jobs(laptop: Laptop, head: Far) -> None:
    ended(head, "true", "-n", "theirs")
    laptop.ok("exec", "lab", "-n", "mine", "true")

    assert [record["job_name"] for record in laptop.ok("queue", "lab", "-o", "json").json()["lab"]] == [
        "mine"
    ]


def test_several_clusters_are_asked_at_once_and_one_without_a_way_to_it_stops_no_other(
    laptop: Laptop, head: Far
) -> None:
    laptop.knows_unreachable("moon", "moon.example.org refuses the connection.\nTry: ssh moon")
    ended(head, "true")
    shown_ = laptop.run("queue", "-u")
    merged = laptop.run("queue", "-u", "-o", "json")

    assert shown_.code == merged.code == 1
    titles = [line for line in shown_.lines if line.startswith("Job queue")]
    assert titles == ["Job queue of all users on cluster %s" % name for name in ("local", "lab")]
    assert shown_.lines.count("") == 1
    failed = "Failed to get the job queue for cluster 'moon'.\n  moon.example.org refuses the connection.\n"
    assert shown_.err == merged.err == failed + "Try: ssh moon\n"
    assert {name: len(jobs) for name, jobs in merged.json().items()} == {"local": 0, "lab": 1}


def test_status_names_nodes_and_devices(laptop: Laptop, head: Far) -> None:
    head.submit("--gpus", "H100:3", head.until_open())
    head.wait(1, "RUNNING")
    result = laptop.ok("status", "lab")
    head.open_gate()

    assert result.lines[0] == "Cluster lab: 1 running, 0 waiting"
    result.line(r"node0 +UP +H100: 3 of 4 in use .*")
    assert laptop.ok("status", "-o", "json").json().keys() == {"local", "lab"}


def test_doctor_tells_of_the_head(laptop: Laptop, head: Far) -> None:
    result = laptop.run("doctor", "lab")

    assert result.lines[0] == "Cluster lab"
    result.line(r"ok +claim .*")
    assert laptop.run("doctor", "lab", "-o", "json").json().keys() == {"lab"}


def test_why_tells_how_a_job_ended(laptop: Laptop, head: Far) -> None:
    ended(head, "echo last words; exit 7")
    result = laptop.ok("why", "lab", "1")

    assert result.lines[0] == "Job 1 (sky-cmd): FAILED"
    assert "├──     last words" in result.lines


@pytest.mark.parametrize("verb", ["queue", "logs", "cancel", "status", "why", "doctor", "exec"])
def test_an_unknown_cluster_is_an_error(laptop: Laptop, verb: str) -> None:
    result = laptop.run(verb, "nowhere", *(["1"] if verb in ("why", "exec") else []))

    assert result.code == 1
    assert "Cluster 'nowhere' does not exist." in result.err


def test_wrong_usage_is_told_without_asking_anybody(laptop: Laptop) -> None:
    with laptop.cut_off():
        for words in (["queue", "lab", "--nope"], ["logs", "lab", "1", "2"], ["cancel", "lab", "1", "-a"]):
            assert laptop.run(*words).code == 2


def test_completion_waits_for_no_other_machine(laptop: Laptop) -> None:
    with laptop.cut_off():
        assert laptop.ok("_complete", "logs", "").out == "lab\nlocal\n"
        assert laptop.ok("_complete", "logs", "lab", "").out == ""


# Logs.


def test_logs_follows_and_exits_with_the_result(laptop: Laptop, head: Far) -> None:
    head.submit("echo one; %s; echo two; exit 1" % head.until_open())
    process = laptop.start("logs", "lab")
    read_until(process, b") one\n")
    head.open_gate()
    out, err = process.communicate(timeout=60)

    assert process.returncode == 100
    assert b") two\n" in out
    assert err == b""


def test_logs_says_the_same_as_on_the_head(laptop: Laptop, head: Far) -> None:
    ended(head, r"seq 1500; printf '10%%\r20%%\nbad \xff\xfe\nno newline'")

    for options in ([], ["--no-follow"], ["--tail", "3"], ["--status"], ["1", "--tail", "0"], ["99"]):
        here, there = (machine.run("logs", "lab", *options) for machine in (head, laptop))
        assert (there.out, there.err, there.code) == (here.out, here.err, here.code), options


def test_a_log_of_many_megabytes_arrives_byte_by_byte(laptop: Laptop, head: Far) -> None:
    ended(head, "seq 1000000")
    out, _ = laptop.start("logs", "lab", "--no-follow").communicate(timeout=120)

    text = b"".join(line.partition(b") ")[2] for line in out.splitlines(keepends=True) if line[:1] == b"(")
    assert text == head.raw_log(1)


# Prompts.


@pytest.mark.parametrize(("typed", "state"), [("n\n", "RUNNING"), ("", "RUNNING"), ("\n", "CANCELLED")])
def test_cancel_asks_here(laptop: Laptop, head: Far, typed: str, state: str) -> None:
    head.submit("sleep 600")
    head.wait(1, "RUNNING")
    result = laptop.run("cancel", "lab", "1", input=typed)

    assert result.out.startswith("Cancelling job 1 on cluster(s): lab. Proceed? [Y/n]: ")
    assert head.wait(1, state)["status"] == state
    assert (result.code, "Aborted!" in result.err) == ((0, False) if state == "CANCELLED" else (1, True))


def test_cancel_of_ones_own_jobs_is_of_the_laptops_user(laptop: Laptop, head: Far) -> None:
    head.submit("sleep 600")
    laptop.ok("exec", "lab", "-d", "sleep 600")
    head.wait_all([1, 2], "RUNNING")
    laptop.ok("cancel", "lab", "-a", "-y")

    assert head.wait(2, "CANCELLED")["reason"] == "cancelled by ada"
    assert head.job(1)["status"] == "RUNNING"


def test_clean_asks_here(laptop: Laptop, head: Far) -> None:
    ended(head, "echo x")
    log = head.log_folder(1) / "tasks/run.log"

    assert laptop.run("clean", "lab", "--older", "0m", "--logs", input="n\n").code == 1
    assert log.exists()
    assert laptop.ok("clean", "lab", "--older", "0m", "--logs", input="y\n").lines[-1].endswith("Removed.")
    assert not log.exists()


def test_down_asks_twice_ends_the_queue_and_forgets_it_here(laptop: Laptop, head: Far) -> None:
    ended(head, "echo x")
    assert laptop.run("down", "lab", input="n\n").code == 1
    assert "lab" in laptop.known.read_text()
    result = laptop.ok("down", "lab", input="y\ny\n")

    assert "Terminating cluster lab...done." in result.lines
    assert "lab" not in laptop.known.read_text()
    assert not head.state_dir.exists()


# Terminals, pipes, and leaving.


def test_on_a_terminal_there_are_colours_and_the_prompt_is_answered(laptop: Laptop, head: Far) -> None:
    head.submit("sleep 600")
    head.wait(1, "RUNNING")
    code, screen = laptop.on_terminal("cancel", "lab", "1", typed=b"n\n")
    assert (code, screen.splitlines()[-1]) == (
        1,
        "Cancelling job 1 on cluster(s): lab. Proceed? [Y/n]: Aborted!",
    )
    code, screen = laptop.on_terminal("queue", "lab", "-u")

    assert "\x1b[32mRUNNING\x1b[0m" in screen
    assert "\x1b" not in laptop.ok("queue", "lab", "-u").out


def test_escapes_of_a_job_are_made_harmless_on_a_terminal(laptop: Laptop, head: Far) -> None:
    ended(head, r"printf '\e]0;title\a\e[31mred\e[0m\n'")
    _, screen = laptop.on_terminal("logs", "lab", "--no-follow")

    assert "\x1b]0;" not in screen and "\x1b[31mred" in screen
    assert "\x1b]0;title" in laptop.ok("logs", "lab", "--no-follow").out


def gone(laptop: Laptop, head: Far) -> None:
    head.until(lambda: not head.agents(), "the agent ends with its client", within=5)


@pytest.mark.parametrize("verb", [["logs", "lab"], ["exec", "lab", "echo one; sleep 600"]])
def test_ctrl_c_leaves_the_job_running_and_ends_the_agent(laptop: Laptop, head: Far, verb: list[str]) -> None:
    if verb[0] == "logs":
        head.submit("echo one; sleep 600")
    process = laptop.start(*verb)
    read_until(process, b") one\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert (process.returncode, err.decode().splitlines()[-1]) == (1, "Aborted!")
    gone(laptop, head)
    assert head.job(1)["status"] == "RUNNING"


def test_a_killed_client_ends_the_agent(laptop: Laptop, head: Far) -> None:
    head.submit("echo one; sleep 600")
    process = laptop.start("logs", "lab")
    read_until(process, b") one\n")
    process.kill()
    process.communicate()

    gone(laptop, head)
    assert head.job(1)["status"] == "RUNNING"


def test_a_reader_that_has_seen_enough_is_no_error_and_ends_the_agent(laptop: Laptop, head: Far) -> None:
    ended(head, "seq 1000000")
    process = laptop.start("logs", "lab", "--no-follow", "--tail", "0")
    read_until(process, b") 5\n")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(60)

    assert err == b""
    gone(laptop, head)


def test_a_reader_that_rests_keeps_its_place(laptop: Laptop, head: Far) -> None:
    """Nobody reads for longer than the silence that would end the conversation: pings go on."""
    ended(head, "seq 200000")
    process = laptop.start("logs", "lab", "--no-follow", env={"TYPED_SILENCE": "1"})
    first = read_until(process, b") 5\n")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    rest, err = process.communicate(timeout=60)

    assert err == b""
    assert (first + rest).count(b") 200000\n") == 1
