"""What a job finds around itself: variables, folder, shell, signals."""

from __future__ import annotations

import json
import os
import pwd
import re

import pytest

from tests.cluster import LocalQueue

PYTHON = "python3 -c"


def output(queue: LocalQueue, script: str, *options: str) -> str:
    """What a job with this script writes."""
    job_id = queue.job_id(queue.ok("exec", "local", *options, script))
    return queue.log(job_id)


def variables(queue: LocalQueue, *options: str) -> dict[str, str]:
    """The whole environment of a job."""
    text = output(queue, "env -0", *options)
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)


# SkyPilot's variables.


@pytest.mark.parametrize(
    ("options", "count"),
    [([], "0"), (["--gpus", "H100:0.2"], "1"), (["--gpus", "H100:1"], "1"), (["--gpus", "H100:3"], "3")],
)
def test_the_number_of_devices_is_rounded_up(queue: LocalQueue, options: list[str], count: str) -> None:
    assert variables(queue, *options)["SKYPILOT_NUM_GPUS_PER_NODE"] == count


def test_a_job_knows_its_place(queue: LocalQueue) -> None:
    env = variables(queue)

    assert env["SKYPILOT_NODE_RANK"] == "0"
    assert env["SKYPILOT_NUM_NODES"] == "1"
    assert env["SKYPILOT_NODE_IPS"] == "127.0.0.1"
    assert env["SKYPILOT_INTERNAL_JOB_ID"] == "1"
    assert env["SKYPILOT_USER"] == "me"
    assert json.loads(env["SKYPILOT_CLUSTER_INFO"])["cluster_name"] == "local"
    assert re.fullmatch(r"sky-\d{4}(-\d\d){5}-\d{6}_local_1", env["SKYPILOT_TASK_ID"])


def test_every_skypilot_variable_has_a_twin(queue: LocalQueue) -> None:
    env = variables(queue, "--gpus", "H100:2")
    names = {name.partition("_")[2] for name in env if name.startswith("SKYPILOT_")}

    assert len(names) == 8
    assert {name: env["SKYPILOT_" + name] for name in names} == {name: env["SKYQ_" + name] for name in names}


def test_what_distributed_training_wants_is_set_and_no_more(queue: LocalQueue) -> None:
    env = variables(queue, "--gpus", "H100:2")

    assert env["MASTER_ADDR"] == "127.0.0.1"
    assert env["MASTER_PORT"].isdigit()
    assert (env["NODE_RANK"], env["NNODES"], env["NPROC_PER_NODE"]) == ("0", "1", "2")
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS"} & env.keys()


def test_the_task_id_is_kept_when_the_user_sets_it(queue: LocalQueue) -> None:
    assert variables(queue, "--env", "SKYPILOT_TASK_ID=resumed")["SKYPILOT_TASK_ID"] == "resumed"


def test_what_only_skyq_knows_cannot_be_overridden(queue: LocalQueue) -> None:
    env = variables(queue, "--env", "SKYPILOT_NODE_RANK=7", "--env", "CUDA_VISIBLE_DEVICES=0,1,2,3")

    assert (env["SKYPILOT_NODE_RANK"], env["CUDA_VISIBLE_DEVICES"]) == ("0", "")


def test_setup_sees_its_own_variables(queue: LocalQueue) -> None:
    queue.file(
        "task.yaml", "resources: {accelerators: H100:2}\nsetup: env -0\nrun: exit 0\nenvs: {MINE: 1}\n"
    )
    queue.ok("launch", "-c", "local", "task.yaml")
    env = dict(entry.split("=", 1) for entry in queue.log(1, "setup.log").split("\0") if entry)

    assert env["SKYPILOT_SETUP_NODE_RANK"] == "0"
    assert env["SKYPILOT_SETUP_NODE_IPS"] == "127.0.0.1"
    assert env["SKYPILOT_SETUP_NUM_GPUS_PER_NODE"] == "2"
    assert env["SKYPILOT_NUM_NODES"] == env["MINE"] == "1"
    assert not {"SKYPILOT_NODE_RANK", "SKYPILOT_NODE_IPS", "CUDA_VISIBLE_DEVICES"} & env.keys()


# Devices.


def test_without_devices_the_variable_is_there_and_empty(queue: LocalQueue) -> None:
    script = "echo CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES, ${CUDA_VISIBLE_DEVICES+set}"

    assert output(queue, script) == "CUDA_VISIBLE_DEVICES=, set\n"


def test_whole_devices_are_the_lowest_free_ones(queue: LocalQueue) -> None:
    queue.submit("--gpus", "H100:1", "sleep 600")
    queue.wait(1, "RUNNING")
    env = variables(queue, "--gpus", "H100:2")

    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("1,2", "PCI_BUS_ID")


def test_two_jobs_of_half_the_devices_have_none_in_common(queue: LocalQueue) -> None:
    queue.declare(H100=8)
    show = "echo $CUDA_VISIBLE_DEVICES; sleep 600"
    ids = [queue.submit("--gpus", "H100:4", show), queue.submit("--gpus", "H100:4", show)]
    queue.until(lambda: all(queue.log(i).endswith("\n") for i in ids), "both have said what they see")

    assert [queue.log(i) for i in ids] == ["0,1,2,3\n", "4,5,6,7\n"]


# The folder, the shell, the account.


def test_the_folder_is_sky_workdir_from_the_first_job_on(queue: LocalQueue) -> None:
    assert output(queue, "pwd") == "%s\n" % (queue.user_home / "sky_workdir")


def test_bashrc_is_sourced_past_its_guard(queue: LocalQueue) -> None:
    queue.bashrc("case $- in *i*) ;; *) return;; esac\necho noise\nexport FROM_RC='a  b' PATH=$PATH:/mine\n")

    assert output(queue, 'echo "$FROM_RC"; echo ${PATH##*:}') == "a  b\n/mine\n"


@pytest.mark.parametrize("text", ["exit 3\n", "if then fi (\n", "set -e; false\n", "exec cat\n"])
def test_a_broken_bashrc_breaks_no_job(queue: LocalQueue, text: str) -> None:
    queue.bashrc("export BEFORE=1\n" + text)

    assert output(queue, "echo alive; type -t exec; exit 0") == "alive\nbuiltin\n"


def test_bashrc_does_not_override_what_the_job_was_given(queue: LocalQueue) -> None:
    queue.bashrc("export CUDA_VISIBLE_DEVICES=7 MINE=rc SKYPILOT_NODE_RANK=9; set -u\n")
    script = "echo $CUDA_VISIBLE_DEVICES $MINE $SKYPILOT_NODE_RANK $UNSET"

    assert output(queue, script, "--gpus", "H100:1", "--env", "MINE=flag") == "0 flag 0\n"


def test_nothing_of_the_submitting_shell_comes_along(queue: LocalQueue) -> None:
    queue.run("exec", "local", "env -0", env={"MINE": "1", "LD_PRELOAD": "", "TERM": "xterm", "PWD": "/x"})
    env = dict(entry.split("=", 1) for entry in queue.log(1).split("\0") if entry)

    assert not {"MINE", "LD_PRELOAD", "TERM", "SKYQ_HOME", "SKYQ_CLAIM_DIR", "PYTHONUTF8"} & env.keys()
    assert env["HOME"] == str(queue.user_home)
    assert env["USER"] == env["LOGNAME"] == pwd.getpwuid(os.getuid()).pw_name
    assert env["SHELL"] and env["LANG"] and env["PATH"]


def test_values_arrive_byte_for_byte(queue: LocalQueue) -> None:
    value = "a 'b' \"c\" $HOME `id` \\ \t* é\nsecond line\n"
    queue.ok("exec", "local", "--env", "V=" + value, 'printf %s "$V"')

    assert queue.log(1) == value


def test_the_exit_code_is_that_of_the_last_command(queue: LocalQueue) -> None:
    assert output(queue, "false\necho ok") == "ok\n"

    assert queue.run("exec", "local", "echo first\nfalse").code == 100
    assert queue.run("exec", "local", "exit 3; echo never").code == 100
    assert [queue.job(i)["exit_codes"] for i in (1, 2, 3)] == [[0], [1], [3]]


def test_standard_input_is_empty(queue: LocalQueue) -> None:
    assert output(queue, "read x; echo $?; cat; test -t 0; echo $?") == "1\n1\n"


def test_both_outputs_go_to_the_log_in_order_and_bash_adds_nothing(queue: LocalQueue) -> None:
    script = "echo 1; echo 2 >&2; (echo 3 >&2); echo 4 | cat; echo 5"

    assert output(queue, script) == "1\n2\n3\n4\n5\n"


def test_python_prints_unbuffered(queue: LocalQueue) -> None:
    queue.submit("--", "python3", "-c", "import time; print('now'); time.sleep(600)")

    queue.until(lambda: queue.log(1) == "now\n", "the line is in the log while the job runs")
    assert queue.job(1)["status"] == "RUNNING"


def test_signals_and_umask_are_the_defaults(queue: LocalQueue) -> None:
    # Python leaves SIGPIPE ignored: `yes` would complain instead of dying of it.
    script = "yes | head -1; echo ${PIPESTATUS[0]}; umask; trap; grep -E 'Sig(Blk|Ign)' /proc/self/status"

    assert output(queue, script).split() == [
        *("y", "141", "0022"),
        *("SigBlk:", "0" * 16, "SigIgn:", "0" * 16),
    ]


def test_bashisms_work_and_job_control_is_off(queue: LocalQueue) -> None:
    assert output(queue, "[[ a == a ]] && x=(1 2) && echo ${#x[@]}; echo $-; echo a!b") == "2\nhB\na!b\n"


def test_a_background_process_does_not_hold_the_job(queue: LocalQueue) -> None:
    result = queue.run("exec", "local", "sleep 600 & exit 3")

    assert result.code == 100
    queue.until(lambda: not queue.job_processes(), "what the job left is gone")
