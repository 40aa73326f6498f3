"""pools.yaml, SKYQ_HOME and the machine's claim: what `local` is, and whose."""

from __future__ import annotations

import json
import os
import stat

import pytest

from tests.cluster import LocalQueue, Record


def node(queue: LocalQueue, **env: str) -> Record:
    """This machine, as `status` sees it."""
    (found,) = queue.ok("status", "local", "-o", "json", env=env).json()["local"]
    return dict(found)


def pools(queue: LocalQueue, text: str) -> None:
    (queue.home / "pools.yaml").write_text(text)


# What this machine has.


def test_what_is_declared_counts(queue: LocalQueue) -> None:
    pools(
        queue,
        "local:\n  hosts:\n    - ip: localhost\n      accelerators: {H100: 2, L4: 1}\n"
        "      cpus: 3\n      memory: 5\n",
    )
    found = node(queue)

    assert [device["accelerator"] for device in found["devices"]] == ["H100", "H100", "L4"]
    assert (found["cpus"], found["memory_mb"]) == (3, 5 * 1024)
    queue.ok("exec", "local", "--gpus", "L4:1", "echo $CUDA_VISIBLE_DEVICES").line(r"\(sky-cmd, pid=\d+\) 2")


def test_what_is_not_declared_is_found_out(queue: LocalQueue) -> None:
    pools(queue, "local:\n  hosts:\n    - {ip: localhost, accelerators: {H100: 1}}\n")
    found = node(queue)

    assert len(found["devices"]) == 1
    assert 0 < found["cpus"] <= (os.cpu_count() or 1)
    assert found["memory_mb"] > 0


def test_without_an_inventory_everything_is_found_out(queue: LocalQueue) -> None:
    (queue.home / "pools.yaml").unlink()
    tools = queue.user_home / "bin"
    tools.mkdir()
    smi = tools / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\necho '0, GPU-a, NVIDIA H100 80GB HBM3'\necho '1, GPU-b, NVIDIA A100-SXM4-80GB'\n"
    )
    smi.chmod(0o755)
    found = node(queue, PATH="%s:%s" % (tools, queue.env["PATH"]))

    assert [(d["accelerator"], d["uuid"]) for d in found["devices"]] == [
        ("H100", "GPU-a"),
        ("A100-80GB", "GPU-b"),
    ]


def test_a_broken_nvidia_smi_is_an_error_and_not_a_machine_without_devices(queue: LocalQueue) -> None:
    (queue.home / "pools.yaml").unlink()
    tools = queue.user_home / "bin"
    tools.mkdir()
    smi = tools / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    smi.chmod(0o755)
    result = queue.run("exec", "local", "echo hi", env={"PATH": "%s:%s" % (tools, queue.env["PATH"])})

    assert result.code == 1
    assert "The devices of this machine can't be read" in result.err
    assert "Driver/library version mismatch" in result.err


def test_a_change_of_the_inventory_counts_at_the_next_command(queue: LocalQueue) -> None:
    assert len(node(queue)["devices"]) == 4
    queue.submit("--gpus", "H100:4", "sleep 600")
    queue.wait(1, "RUNNING")
    queue.declare(H100=8)

    assert len(node(queue)["devices"]) == 8
    assert queue.log(
        queue.job_id(queue.ok("exec", "local", "--gpus", "H100:4", "echo $CUDA_VISIBLE_DEVICES"))
    ) == ("4,5,6,7\n")


def test_other_pools_of_the_file_do_no_harm(queue: LocalQueue) -> None:
    pools(
        queue,
        "lab:\n  user: me\n  identity_file: ~/.ssh/k\n  hosts:\n    - 10.0.0.1\n    - ip: 10.0.0.2\n"
        "      password: x\nlocal:\n  hosts:\n    - {ip: localhost, accelerators: {H100: 1}}\n",
    )

    assert len(node(queue)["devices"]) == 1


# Mistakes in it.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("local: [", "line 1"),
        ("- local\n", "The file should be a mapping"),
        ("local: {}\n", "Pool 'local' should have `hosts:`"),
        ("local:\n  hosts: []\n", "Pool 'local' should have `hosts:`"),
        ("local:\n  hosts:\n    - ip: 10.0.0.1\n", "Pool 'local' is this machine"),
        ("local:\n  hosts:\n    - {ip: localhost, accelerators: H100}\n", "line 3"),
        ("local:\n  hosts:\n    - {ip: localhost, cpus: many}\n", "many"),
        ("local:\n  hosts: [localhost]\nlocal:\n  hosts: [localhost]\n", "Duplicate key 'local'"),
    ],
)
def test_a_mistake_is_told_with_the_file_and_no_command_goes_on(
    queue: LocalQueue, text: str, said: str
) -> None:
    pools(queue, text)

    for words in (["exec", "local", "echo hi"], ["queue", "local"], ["status"]):
        result = queue.run(*words)
        assert result.code == 1
        assert said in result.err
        assert str(queue.home / "pools.yaml") in result.err
        assert "Traceback" not in result.err


def test_an_inventory_that_cannot_be_read_is_an_error(queue: LocalQueue) -> None:
    (queue.home / "pools.yaml").write_bytes(b"local: \xff\xfe\n")
    result = queue.run("queue", "local")

    assert result.code == 1
    assert "pools.yaml" in result.err and "Traceback" not in result.err


def test_a_key_that_nobody_knows_is_told(queue: LocalQueue) -> None:
    pools(queue, "local:\n  hosts:\n    - {ip: localhost, acelerators: {H100: 1}}\n")
    result = queue.run("status")

    assert "Did you mean 'accelerators'?" in result.err


# SKYQ_HOME.


def test_everything_lives_under_skyq_home_and_is_private(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "true")

    assert sorted(path.name for path in queue.user_home.iterdir()) == ["sky_workdir"]
    for path in [queue.home, *queue.home.rglob("*")]:
        if "app" not in path.parts:
            found = path.lstat()
            private = stat.S_ISSOCK(found.st_mode) or not found.st_mode & 0o077
            assert private or path.name == "pools.yaml", path


def test_a_relative_skyq_home_is_meant_from_where_the_command_is_typed(queue: LocalQueue) -> None:
    place = queue.user_home / "place"
    place.mkdir(0o700)
    (place / "app").symlink_to(queue.home / "app")
    result = queue.ok("exec", "local", "echo hi", env={"SKYQ_HOME": "place", "SKYQ_CLAIM_DIR": "."})

    result.line(r"\(sky-cmd, pid=\d+\) hi")
    assert (place / "clusters" / "local" / "queue.db").exists()


def test_without_skyq_home_it_is_a_folder_of_the_users_home(queue: LocalQueue) -> None:
    place = queue.user_home / ".skyq"
    place.mkdir(0o700)
    (place / "app").symlink_to(queue.home / "app")
    (place / "pools.yaml").write_text((queue.home / "pools.yaml").read_text())
    result = queue.ok("exec", "local", "echo hi", env={"SKYQ_HOME": ""})

    result.line(r"\(sky-cmd, pid=\d+\) hi")
    assert (place / "clusters" / "local" / "queue.db").exists()
    assert not queue.state_dir.exists()


def test_a_home_that_cannot_be_written_is_told(queue: LocalQueue) -> None:
    queue.file("file", "")
    result = queue.run("queue", "local", env={"SKYQ_HOME": str(queue.user_home / "file" / "home")})

    assert result.code == 1
    assert "Set SKYQ_HOME to a folder that you can write." in result.err
    assert "Traceback" not in result.err


# The machine's claim.


def test_a_machine_serves_one_queue_at_a_time_and_names_it(queue: LocalQueue, tmp_path: object) -> None:
    other = LocalQueue(queue.root / "other", queue.program, queue.home / "app")
    other.env["SKYQ_CLAIM_DIR"] = str(queue.claims)
    queue.submit("sleep 600")
    queue.wait(1, "RUNNING")
    try:
        refused = other.run("exec", "local", "echo hi")
        assert refused.code == 1
        assert "This machine belongs to cluster 'local' of" in refused.err
        assert other.jobs() == {}
    finally:
        other.close()


def test_local_gives_its_claim_back_when_there_is_no_work(queue: LocalQueue) -> None:
    queue.submit("sleep 600")
    queue.wait(1, "RUNNING")
    claim = queue.claims / "skyq-host.claim"
    assert json.loads(claim.read_text())["cluster"] == "local"
    queue.ok("cancel", "local", "1", "-y")

    queue.until(lambda: not queue.processes(), "the dispatcher and the node agent leave")
    assert not claim.exists()
