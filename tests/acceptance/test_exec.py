"""`skyq exec`: what it takes for a command, a task file, a mistake; and what it says."""

from __future__ import annotations

import contextlib
import signal
import subprocess

import psutil
import pytest

from tests.cluster import LocalQueue, Result, kill

HINT = "This job gets no device (CUDA_VISIBLE_DEVICES is empty). For one: --gpus H100:1"


def refused(queue: LocalQueue, *words: str, code: int = 1) -> Result:
    """A submit that must fail, in words, and leave no job."""
    result = queue.run("exec", "local", *words)
    assert result.code == code, str(result)
    assert "Traceback" not in result.err
    assert result.err.strip()
    assert queue.jobs() == {}
    return result


# Commands.


def test_a_command_runs_and_its_log_is_on_the_screen(queue: LocalQueue) -> None:
    result = queue.ok("exec", "local", "echo hi")
    lines = [line for line in result.lines if not line.startswith("│")]  # why it waits, on a slow machine

    assert lines[:4] == [
        "Command to run: echo hi",
        "Submitting job to cluster: local",
        "⚙︎ Job submitted, ID: 1",
        "├── Waiting for task resources on 1 node.",
    ]
    assert lines[4].startswith("└── Job started. Streaming logs... (Ctrl-C to exit log streaming;")
    result.line(r"\(sky-cmd, pid=\d+\) hi")
    assert result.lines[-1] == "✓ Job finished (status: SUCCEEDED)."
    assert result.err.splitlines() == [HINT]


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "local", "echo", "hi", "test"],
        ["echo", "-c", "local", "hi", "test"],
        ["echo", "hi", "test", "--cluster", "local"],
        ["local", "echo", "-n", "sky-cmd", "hi", "test"],
        ["local", "--", "echo", "hi", "test"],
        ["-c", "local", "--", "echo", "hi", "test"],
        ["--", "local", "echo", "hi", "test"],
    ],
)
def test_the_cluster_is_the_first_word_or_an_option_anywhere(queue: LocalQueue, words: list[str]) -> None:
    queue.ok("exec", *words).line(r"\(sky-cmd, pid=\d+\) hi test")


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ([], "Missing argument '[CLUSTER]' and '[ENTRYPOINT]...'."),
        (["local"], "Missing argument '[ENTRYPOINT]...'."),
        (["-c", "local"], "Missing argument '[ENTRYPOINT]...'."),
        (["local", "--"], "Missing argument '[ENTRYPOINT]...'."),
    ],
)
def test_a_missing_argument_is_a_usage_error(queue: LocalQueue, words: list[str], missing: str) -> None:
    result = queue.run("exec", *words)

    assert result.code == 2
    assert result.err.splitlines()[0].startswith("Usage: skyq exec ")
    assert result.err.splitlines()[-3:] == ["Try 'skyq exec -h' for help.", "", "Error: " + missing]


def test_options_of_the_command_stand_after_two_dashes(queue: LocalQueue) -> None:
    queue.file("sky_workdir/train.py", "import sys; print(sys.argv)\n")

    assert (
        "Error: No such option: --lr"
        in refused(queue, "python3", "train.py", "--lr", "1e-3", code=2).err.splitlines()
    )
    result = queue.ok("exec", "local", "--", "python3", "train.py", "--lr", "1e-3")

    assert result.lines[0] == "Command to run: python3 train.py --lr 1e-3"
    result.line(r"\(sky-cmd, pid=\d+\) \['train.py', '--lr', '1e-3'\]")


def test_one_word_is_a_shell_line(queue: LocalQueue) -> None:
    queue.ok("exec", "local", 'echo "a  b" && cd / && pwd').line(r"\(sky-cmd, pid=\d+\) a  b")

    assert queue.log(1) == "a  b\n/\n"


def test_one_word_after_two_dashes_is_a_shell_line_too(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "--", 'echo "a  b" | tr a c')

    assert queue.log(1) == "c  b\n"


def test_words_without_two_dashes_are_joined_by_one_space(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "echo", "a   b", "$((1+1))")

    assert queue.log(1) == "a b 2\n"


def test_several_words_after_two_dashes_keep_their_quoting(queue: LocalQueue) -> None:
    words = ["a  b", "$HOME", "it's", '"', "`x`", "*", "", "line\nbreak", "$(exit 1)"]
    queue.ok("exec", "local", "--", "printf", "<%s>\\n", *words)

    assert queue.log(1) == "".join("<%s>\n" % word for word in words)


@pytest.mark.parametrize("flag", ["-d", "--detach", "--detach-run"])
def test_a_detached_submit_returns_while_the_job_runs(queue: LocalQueue, flag: str) -> None:
    result = queue.ok("exec", "local", flag, queue.until_open())

    assert result.lines[-2:] == ["⚙︎ Job submitted, ID: 1", ""]
    assert "Useful Commands" not in result.out
    queue.wait(1, "RUNNING")
    queue.open_gate()
    queue.wait(1, "SUCCEEDED")


def test_ids_count_up(queue: LocalQueue) -> None:
    assert [queue.submit(queue.until_open()) for _ in range(5)] == [1, 2, 3, 4, 5]

    assert not set(queue.states().values()) - {"PENDING", "RUNNING"}
    queue.open_gate()
    queue.wait_all(range(1, 6), "SUCCEEDED")


def test_the_grace_time_must_be_a_number(queue: LocalQueue) -> None:
    result = queue.run("exec", "local", "true", env={"SKYQ_GRACE_S": "soon"})

    assert result.code == 2
    assert "SKYQ_GRACE_S should be a number of seconds" in result.err
    assert queue.jobs() == {}


def test_an_attached_submit_exits_with_the_jobs_result(queue: LocalQueue) -> None:
    failed = queue.run("exec", "local", "echo before; exit 3")

    assert failed.code == 100
    failed.line(r"ERROR: Job 1 failed with return code list: \[3\] \(exit code 3\)")
    assert failed.lines[-1] == "✓ Job finished (status: FAILED)."


def test_an_attached_submit_exits_with_103_when_the_job_is_cancelled(queue: LocalQueue) -> None:
    process = queue.start("exec", "local", "touch ~/runs; sleep 600")
    queue.until((queue.user_home / "runs").exists, "the job runs")
    queue.ok("cancel", "local", "1", "-y")
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 103
    assert out.decode().splitlines()[-2:] == [
        "Job 1: cancelled by me",
        "✓ Job finished (status: CANCELLED).",
    ]


def test_ctrl_c_leaves_the_job_running_and_logs_attaches_again(queue: LocalQueue) -> None:
    process = queue.start("exec", "local", "echo one; %s; echo two" % queue.until_open())
    assert process.stdout is not None
    while b") one" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert err.decode().splitlines()[-1] == "Aborted!"
    assert queue.job(1)["status"] == "RUNNING"
    queue.open_gate()
    again = queue.ok("logs", "local", "1")
    again.line(r"\(sky-cmd, pid=\d+\) one")
    again.line(r"\(sky-cmd, pid=\d+\) two")


def test_an_attached_submit_outlives_the_dispatcher(queue: LocalQueue) -> None:
    process = queue.start("exec", "local", queue.until_open() + "; exit 3")
    queue.until(queue.job_processes, "the job runs")
    kill(queue.dispatcher())
    queue.open_gate()
    process.communicate(timeout=60)

    assert process.returncode == 100


def test_an_unknown_cluster_is_an_error(queue: LocalQueue) -> None:
    result = queue.run("exec", "nowhere", "echo hi")

    assert result.code == 1
    assert "Cluster 'nowhere' does not exist." in result.err


def test_a_blank_command_is_refused(queue: LocalQueue) -> None:
    assert refused(queue, "  ").err == "There is nothing to run: the command is blank.\n"


@pytest.mark.parametrize("text", [b"run: \xff\n", b"echo \xff\n"])
def test_what_is_not_utf_8_is_refused_in_words(queue: LocalQueue, text: bytes) -> None:
    (queue.user_home / "task.yaml").write_bytes(text)
    process = queue.start("exec", "local", "-", stdin=subprocess.PIPE)
    _, err = process.communicate(text, timeout=60)

    assert "not valid UTF-8" in err.decode()
    assert refused(queue, "task.yaml").err == "task.yaml is not UTF-8 text. Save it as UTF-8.\n"
    assert "not valid UTF-8" in refused(queue, "echo \udcff").err


def test_a_screen_that_has_no_such_characters_is_no_error(queue: LocalQueue) -> None:
    result = queue.ok("exec", "local", "echo é", env={"PYTHONIOENCODING": "ascii"})

    assert "Command to run: echo ?" in result.lines
    assert queue.log(1) == "é\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(queue: LocalQueue, closed: str) -> None:
    # The shell closes them: a descriptor opened later gets the number 1, and must not get the output too.
    words = [*queue.program, "exec", "local", "echo", "hi"]
    done = subprocess.run(
        ["sh", "-c", '"$@" ' + closed, "sh", *words], env=queue.env, check=False, timeout=60
    )

    assert done.returncode == 0
    assert queue.log(1) == "hi\n"


# Task files.

TASK = """\
name: from-file
resources:
  accelerators: H100:2
envs:
  WHO: file
run: |
  echo "$WHO on $CUDA_VISIBLE_DEVICES"
"""


def test_a_task_file_runs(queue: LocalQueue) -> None:
    queue.file("task.yaml", TASK)
    result = queue.ok("exec", "local", "task.yaml")

    assert "YAML to run: task.yaml" in result.lines
    result.line(r"\(from-file, pid=\d+\) file on 0,1")
    assert queue.job(1)["resources"] == "1x[H100:2]"


def test_options_override_the_task_file(queue: LocalQueue) -> None:
    queue.file("task.yaml", TASK)
    options = ["-n", "other", "--gpus", "H100:1", "--env", "WHO=me", "--num-nodes", "1"]
    result = queue.ok("exec", "local", "task.yaml", *options)

    result.line(r"\(other, pid=\d+\) me on 0")
    assert queue.job(1)["resources"] == "1x[H100:1]"


def test_none_clears_the_task_files_devices(queue: LocalQueue) -> None:
    queue.file("task.yaml", TASK)

    queue.ok("exec", "local", "task.yaml", "--gpus", "none").line(r"\(from-file, pid=\d+\) file on ")
    assert queue.job(1)["resources"] == "1x[CPU:1+]"


def test_a_dash_reads_a_task_from_standard_input(queue: LocalQueue) -> None:
    result = queue.run("exec", "local", "-", input=TASK)

    assert result.code == 0, str(result)
    result.line(r"\(from-file, pid=\d+\) file on 0,1")


def test_a_dash_reads_a_script_from_standard_input(queue: LocalQueue) -> None:
    result = queue.run("exec", "local", "-", input="echo from\necho 'a  script'\n")

    assert result.code == 0, str(result)
    assert queue.log(1) == "from\na  script\n"


def test_a_shell_script_is_a_command(queue: LocalQueue) -> None:
    queue.file("sky_workdir/job.sh", "#!/bin/bash\necho I am $0\n").chmod(0o755)

    queue.ok("exec", "local", "./job.sh").line(r"\(sky-cmd, pid=\d+\) I am ./job.sh")


def test_a_missing_yaml_is_asked_about_and_not_run_by_default(queue: LocalQueue) -> None:
    result = queue.run("exec", "local", "nope.yaml", input="\n")

    assert result.code == 1
    assert result.out.startswith("'nope.yaml' looks like a yaml path but does not exist. Please check if")
    assert "It will be treated as a command to be run remotely. Continue? [y/N]: " in result.out
    assert result.err == "Aborted!\n"
    assert queue.jobs() == {}


def test_a_missing_yaml_is_run_as_a_command_when_confirmed(queue: LocalQueue) -> None:
    result = queue.run("exec", "local", "nope.yaml", input="y\n")

    assert result.code == 100
    result.line(r"ERROR: Job 1 failed with return code list: \[127\] \(exit code 127 \(command not found\)\)")


@pytest.mark.parametrize("text", ["", "# a comment\n\n", "---\n"])
def test_a_file_without_a_task_is_refused_by_name(queue: LocalQueue, text: str) -> None:
    queue.file("empty.yaml", text)

    assert "'empty.yaml' is empty or contains no task definition." in refused(queue, "empty.yaml").err


def test_two_tasks_in_one_file_are_a_usage_error(queue: LocalQueue) -> None:
    queue.file("two.yaml", "run: echo 1\n---\nrun: echo 2\n")

    assert "YAML specifies a DAG" in refused(queue, "two.yaml", code=2).err


def test_a_header_document_names_the_one_task_that_follows(queue: LocalQueue) -> None:
    queue.file("header.yaml", "name: header\n---\nrun: echo hi\n")

    queue.ok("exec", "local", "header.yaml").line(r"\(header, pid=\d+\) hi")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runn: echo hi\n", "Instead of 'runn', did you mean 'run'?"),
        ("foo: 1\nrun: echo hi\n", "Found unsupported field 'foo'."),
        ("run: echo 1\nrun: echo 2\n", "Duplicate key 'run' in YAML at line 2 (also defined at line 1)."),
        ('num_nodes: "2"\nrun: x\n', "'2' is not of type 'integer'. Check problematic field(s): $.num_nodes"),
        ("run: [a, b]\n", "is not of type 'string'"),
        ("run: 5\n", "5 is not of type 'string'"),
        ("- run\n- echo\n", "It is a list, not a mapping of fields."),
        ("run: 'a\n", "unexpected end of stream"),
        ("run: !!python/object:os.system echo\n", "line 1"),
        ("name: bad name\nrun: echo hi\n", "Invalid task name 'bad name'."),
        ("envs:\n  A:\nrun: echo hi\n", "Environment variable 'A' is None."),
        ("secrets:\n  A:\nrun: echo hi\n", "Secret variable 'A' is None."),
        ("resources:\n  accelerators: H100:x\nrun: echo hi\n", "Found: 'H100:x'"),
    ],
)
def test_a_mistake_in_a_task_file_is_told_with_file_and_line(queue: LocalQueue, text: str, said: str) -> None:
    queue.file("task.yaml", text)
    err = refused(queue, "task.yaml").err

    assert said in err
    assert "task.yaml" in err and "line " in err


def test_a_task_without_run_is_refused_and_nothing_is_tailed(queue: LocalQueue) -> None:
    queue.file("setup.yaml", "setup: echo hi\n")
    result = refused(queue, "setup.yaml")

    assert "There is nothing to run: setup.yaml has no `run`." in result.err
    assert "Job" not in result.out


def test_what_only_a_cloud_has_is_ignored_with_one_warning(queue: LocalQueue) -> None:
    queue.file(
        "cloud.yaml",
        "resources: {cloud: aws, infra: aws, use_spot: true, ports: 80, disk_size: 100}\nrun: echo hi\n",
    )
    result = queue.ok("exec", "local", "cloud.yaml")

    result.line(r"\(task, pid=\d+\) hi")
    warnings = [line for line in result.err.splitlines() if "Warning" in line]
    assert len(warnings) == 1
    for field in ("cloud", "infra", "use_spot", "ports", "disk_size"):
        assert "resources." + field in warnings[0]


def test_flags_that_only_a_cloud_has_are_ignored_with_one_warning(queue: LocalQueue) -> None:
    result = queue.ok("exec", "local", "--infra", "aws", "--use-spot", "-t", "p5", "echo hi")

    result.line(r"\(sky-cmd, pid=\d+\) hi")
    warnings = [line for line in result.err.splitlines() if "Warning" in line]
    assert warnings == ["Warning: --infra, --use-spot, -t: no meaning here, ignored."]


# What is asked for.


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        ("H100:x", "The \"accelerators\" field as a str should be <name> or <name>:<cnt>. Found: 'H100:x'"),
        ("H100:0", "Accelerator count must be a positive number. Got: 'H100': 0."),
        ("H100:-1", "Accelerator count must be a positive number. Got: 'H100': -1."),
        ("H100:1.5", "Ask for H100:1 or H100:2."),
        ("H100:0.00001", "The nearest is H100:0.0001."),
        ("80GB+", "Accelerators by memory"),
    ],
)
def test_devices_that_cannot_be_given_are_refused_at_submit(queue: LocalQueue, gpus: str, said: str) -> None:
    assert said in refused(queue, "--gpus", gpus, "echo hi").err


@pytest.mark.parametrize(
    ("options", "requested"),
    [
        (["--gpus", "A100:1"], "1x {'A100': 1}"),
        (["--gpus", "H100:9"], "1x {'H100': 9}"),
        (["--gpus", "H100:1", "--num-nodes", "2"], "2x {'H100': 1}"),
        (["--cpus", "9"], "1x 9 CPUs"),
        (["--memory", "17"], "1x 0.5 CPUs, 17 GB"),
        (["--gpus", "H100:4", "--cpus", "9"], "1x {'H100': 4}, 9 CPUs"),
    ],
)
def test_more_than_there_is_is_refused_with_what_there_is(
    queue: LocalQueue, options: list[str], requested: str
) -> None:
    err = refused(queue, *options, "echo hi").err.splitlines()

    assert err[0] == "Requested resources do not match the existing cluster."
    assert err[1].startswith("  Requested:\t" + requested)
    assert err[2] == "  Existing:\t1x {'H100': 4}, 8 CPUs, 16 GB"
    assert err[3].startswith("To fix: ")


@pytest.mark.parametrize(
    "wanted",
    ["[A100:4, H100:2]", "{A100:4, H100:2}", "{A100: 4, H100: 2}"],
)
def test_of_several_accelerators_one_that_is_there_is_taken(queue: LocalQueue, wanted: str) -> None:
    queue.file("task.yaml", "resources:\n  accelerators: %s\nrun: echo $CUDA_VISIBLE_DEVICES\n" % wanted)

    queue.ok("exec", "local", "task.yaml").line(r"\(task, pid=\d+\) 0,1")
    assert queue.job(1)["resources"] == "1x[H100:2]"


def test_any_of_takes_an_alternative_that_is_there(queue: LocalQueue) -> None:
    queue.file(
        "task.yaml",
        "resources:\n  any_of:\n    - accelerators: A100:4\n    - accelerators: H100:3\nrun: exit 0\n",
    )

    queue.ok("exec", "local", "task.yaml")
    assert queue.job(1)["resources"] == "1x[H100:3]"


@pytest.mark.parametrize("name", ["h100:1", "H100", "gpu:1", "nvidia:H100:1"])
def test_case_does_not_matter_and_gpu_means_any(queue: LocalQueue, name: str) -> None:
    queue.ok("exec", "local", "--gpus", name, "echo $CUDA_VISIBLE_DEVICES").line(r"\(sky-cmd, pid=\d+\) 0")


def test_cpus_and_memory_of_exec_count(queue: LocalQueue) -> None:
    queue.submit("--cpus", "6", "--memory", "12", "sleep 600")
    queue.wait(1, "RUNNING")
    more_cpus, more_memory, fits = (
        queue.submit("--cpus", "3", "sleep 600"),
        queue.submit("--memory", "5", "sleep 600"),
        queue.submit("--cpus", "2", "--memory", "4", "sleep 600"),
    )
    jobs = queue.wait_all([fits], "RUNNING")

    assert jobs[more_cpus]["reason"] == "needs 3 CPUs on one node; 0 CPUs free"
    assert jobs[more_memory]["status"] == "PENDING"


def test_a_job_without_devices_on_a_machine_that_has_some_gets_a_hint(queue: LocalQueue) -> None:
    assert HINT in queue.ok("exec", "local", "-d", "true").err
    assert queue.ok("exec", "local", "-d", "--gpus", "H100:1", "true").err == ""


@pytest.mark.parametrize("name", ["bad name", "-x", "a---b", "x" * 64, ""])
def test_a_bad_name_is_refused(queue: LocalQueue, name: str) -> None:
    assert "Invalid task name" in refused(queue, "--name=" + name, "echo hi").err


def test_a_bad_number_of_nodes_is_refused(queue: LocalQueue) -> None:
    assert "num_nodes should be a positive int. Got: 0" in refused(queue, "--num-nodes", "0", "true").err


def test_a_higher_priority_goes_first(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:4", queue.until_open())
    late = "--gpus H100:4 --priority"
    for priority in (0, -5, 7):
        queue.submit(*late.split(), str(priority), "echo %d >> ~/order" % priority)
    queue.open_gate()
    queue.wait_all([1, 2, 3, 4], "SUCCEEDED")

    assert (queue.user_home / "order").read_text().split() == ["7", "0", "-5"]


# Variables.


def test_env_without_a_value_copies_this_shells(queue: LocalQueue) -> None:
    queue.run("exec", "local", "--env", "FOO", "echo $FOO", env={"FOO": "a b  'c'"})

    assert queue.log(1) == "a b c\n".replace("c", "'c'")


def test_env_without_a_value_that_is_not_set_is_a_usage_error(queue: LocalQueue) -> None:
    err = refused(queue, "--env", "FOO", "true", code=2).err
    assert "FOO is not set in local environment." in err


def test_env_is_split_at_the_first_equals_sign_and_the_last_one_wins(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "--env", "A=1", "--env", "A=a=b", "--env", "B=", 'echo "$A,$B"')

    assert queue.log(1) == "a=b,\n"


@pytest.mark.parametrize("pair", ["1BAD=x", "=x", "A-B=x", "A B=x", "$(x)=y"])
def test_a_bad_env_name_is_a_usage_error(queue: LocalQueue, pair: str) -> None:
    assert "Invalid env key: " in refused(queue, "--env", pair, "true", code=2).err


def test_env_beats_env_file_beats_task_file(queue: LocalQueue) -> None:
    queue.file("task.yaml", "envs: {A: yaml, B: yaml, C: yaml}\nrun: echo $A $B $C\n")
    queue.file("vars.env", "export B=file # not this\nA='fi le'\n")
    queue.ok("exec", "local", "task.yaml", "--env-file", "vars.env", "--env", "A=flag")

    assert queue.log(1) == "flag file yaml\n"


def test_a_missing_env_file_is_a_usage_error(queue: LocalQueue) -> None:
    err = refused(queue, "--env-file", "nope.env", "true", code=2).err
    assert "Dotenv file does not exist: nope.env" in err


def test_null_in_a_task_file_may_be_given_on_the_command_line(queue: LocalQueue) -> None:
    queue.file("task.yaml", "envs: {A: , B: '', C: true, D: 3.10}\nrun: echo \"$A,$B,$C,$D\"\n")
    queue.ok("exec", "local", "task.yaml", "--env", "A=given")

    assert queue.log(1) == "given,,True,3.10\n"


# Secrets.


def command_lines(queue: LocalQueue) -> list[str]:
    """The words of all that lives; what has just ended has none."""
    found: list[str] = []
    for process in queue.processes():
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            found += process.cmdline()
    return found


def test_a_secret_is_there_in_the_job_and_nowhere_else(queue: LocalQueue) -> None:
    value = "s3cr3t-VALUE"
    queue.file("task.yaml", "secrets:\n  TOKEN:\nrun: |\n  echo ${#TOKEN}\n  %s\n" % queue.until_open())
    result = queue.ok("exec", "local", "task.yaml", "-d", "--secret", "TOKEN", env={"TOKEN": value})
    queue.until(lambda: queue.log(1) == "12\n", "the job has its secret")

    shown = [queue.ok(*words) for words in (["queue", "local"], ["queue", "-o", "json"], ["why", "1"])]
    shown.append(queue.ok("logs", "local", "1", "--no-follow"))
    assert not any(value in str(each) for each in [result, *shown])
    assert not any(value in word for word in command_lines(queue))
    kept = [path for path in queue.home.rglob("*") if path.is_file() and value.encode() in path.read_bytes()]
    assert all(path.parent.name == "secrets" and path.stat().st_mode & 0o777 == 0o600 for path in kept)
    queue.open_gate()
    queue.wait(1, "SUCCEEDED")
    queue.until(
        lambda: (
            not any(
                path.is_file() and value.encode() in path.read_bytes() for path in queue.state_dir.rglob("*")
            )
        ),
        "the secret's value is gone from the disk",
    )


def test_secret_beats_secret_file_beats_env_file_beats_env(queue: LocalQueue) -> None:
    queue.file("all.env", "A=env-file\nB=env-file\nC=env-file\n")
    queue.file("some.env", "A=secret-file\nB=secret-file\n")
    files = ["--env-file", "all.env", "--secret-file", "some.env"]
    queue.ok("exec", "local", *files, "--secret", "A=secret", "echo $A $B $C")

    assert queue.log(1) == "secret secret-file env-file\n"


def test_a_secret_that_the_task_file_leaves_open_may_stand_in_the_env_file(queue: LocalQueue) -> None:
    queue.file("task.yaml", "secrets:\n  TOKEN:\nrun: echo $TOKEN $OTHER\n")
    queue.file("all.env", "TOKEN=t-o-k-e-n\nOTHER=other\n")
    queue.ok("exec", "local", "task.yaml", "--env-file", "all.env")

    assert queue.log(1) == "t-o-k-e-n other\n"
    assert b"t-o-k-e-n" not in b"".join(path.read_bytes() for path in queue.state_dir.glob("queue.db*"))


def test_an_error_never_shows_a_secret(queue: LocalQueue) -> None:
    result = refused(queue, "--secret", "1BAD=hunter2", "true", code=2)

    assert "1BAD" in result.err
    assert "hunter2" not in str(Result((), result.code, result.out, result.err))
