"""docker and podman in a job: the job's devices, and an end with the job."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster import LocalQueue, kill
from tests.engine import Engine
from tests.program import ROOT
from tests.real_engines import Docker, Podman, Real, Unusable

SMI = """\
#!/bin/sh
for index in 0 1 2 3 4 5 6 7; do echo "$index, GPU-0000000$index-aaaa, NVIDIA H100 80GB HBM3"; done
"""
UUIDS = ["GPU-0000000%d-aaaa" % index for index in range(8)]  # as SMI says


@pytest.fixture
def engine(queue: LocalQueue, tmp_path: Path) -> Iterator[Engine]:
    """A docker that is on every job's PATH."""
    found = Engine(tmp_path / "engine")
    queue.bashrc("export PATH=%s:$PATH\n" % found.bin)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def real_podman() -> Iterator[Real]:
    """A podman that runs containers, and has the devices to give."""
    yield from working("PODMAN", lambda root: Podman(root, UUIDS))


@pytest.fixture(scope="module")
def real_docker() -> Iterator[Real]:
    """A docker that runs containers."""
    yield from working("DOCKER", Docker)


def working(name: str, make: Callable[[Path], Real]) -> Iterator[Real]:
    """An engine, or a loud skip. In a folder with a short name: an engine's sockets lie deep in it."""
    with tempfile.TemporaryDirectory(prefix="skyq-", ignore_cleanup_errors=True) as root:
        try:
            found = make(Path(root))
        except Unusable as why:
            pytest.skip("NO REAL CONTAINER OF %s WAS TESTED: %s" % (name, why))
        yield found
        found.close()


@pytest.fixture
def podman(real_podman: Real, queue: LocalQueue) -> Real:
    """One whose containers a queue's jobs can make."""
    return seen_by(queue, real_podman)


@pytest.fixture
def docker(real_docker: Real, queue: LocalQueue) -> Real:
    """One whose containers a queue's jobs can make."""
    return seen_by(queue, real_docker)


@pytest.fixture(params=["podman", "docker"])
def real(request: pytest.FixtureRequest) -> Real:
    """Each of them."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Real)
    return found


def seen_by(queue: LocalQueue, engine: Real) -> Real:
    """The engine, and a queue of eight devices."""
    queue.program = [*engine.prefix, *queue.program]
    with_uuids(queue)
    return engine


def with_uuids(queue: LocalQueue) -> None:
    """Eight devices that nvidia-smi tells of."""
    smi = queue.root / "smi" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(SMI)
    smi.chmod(0o755)
    queue.env["PATH"] = "%s:%s" % (smi.parent, queue.env["PATH"])
    (queue.home / "pools.yaml").unlink()


def asked(engine: Engine) -> list[str]:
    """The words of the only `run`, without label and image."""
    ((verb, label, step, *words, image),) = engine.calls("run")
    assert (verb, label, step.partition("=")[0], image) == ("run", "--label", "skyq.step", "polite")
    return words


def shim(queue: LocalQueue) -> psutil.Process:
    """Of the only job."""
    (found,) = [process for process in queue.job_processes() if "_node" in process.cmdline()]
    return found


# Devices.


def test_a_container_of_a_job_sees_the_jobs_devices_by_uuid(queue: LocalQueue, engine: Engine) -> None:
    with_uuids(queue)
    queue.submit("--gpus", "H100:2", queue.until_open())
    queue.wait(1, "RUNNING")
    queue.ok("exec", "local", "--gpus", "H100:2", "docker run -d --gpus=all polite; echo $SKYQ_GPU_UUIDS")

    two = "GPU-00000002-aaaa,GPU-00000003-aaaa"
    assert asked(engine) == ["--env", "CUDA_VISIBLE_DEVICES=" + two, "-d", "--gpus", '"device=%s"' % two]
    assert queue.log(2).splitlines()[1:] == [two]


def test_a_share_of_a_device_is_that_device(queue: LocalQueue, engine: Engine) -> None:
    with_uuids(queue)
    queue.ok("exec", "local", "--gpus", "H100:0.5", "docker run -d --gpus '\"all\"' polite")

    one = "GPU-00000000-aaaa"
    assert asked(engine) == ["--env", "CUDA_VISIBLE_DEVICES=" + one, "-d", "--gpus", "device=" + one]


def test_podman_gets_them_by_their_cdi_names(queue: LocalQueue, tmp_path: Path) -> None:
    engine = Engine(tmp_path / "engine", "podman")
    try:
        with_uuids(queue)
        queue.bashrc("export PATH=%s:$PATH\n" % engine.bin)
        queue.ok("exec", "local", "--gpus", "H100:1", "podman run -d --gpus=all polite")

        one = "GPU-00000000-aaaa"
        assert asked(engine) == [
            *("--env", "CUDA_VISIBLE_DEVICES=" + one, "-d", "--device", "nvidia.com/gpu=" + one)
        ]
    finally:
        engine.close()


def test_declared_devices_are_given_by_index(queue: LocalQueue, engine: Engine) -> None:
    queue.submit("--gpus", "H100:2", queue.until_open())
    queue.wait(1, "RUNNING")
    queue.ok("exec", "local", "--gpus", "H100:2", "docker run -d --gpus all polite")

    sees = ["--env", "CUDA_VISIBLE_DEVICES=2,3", "--env", "CUDA_DEVICE_ORDER=PCI_BUS_ID"]
    assert asked(engine) == [*sees, "-d", "--gpus", "all"]


def test_a_job_without_devices_shows_its_containers_none(queue: LocalQueue, engine: Engine) -> None:
    queue.ok("exec", "local", "docker run -d --gpus all polite")

    assert asked(engine) == ["--env", "CUDA_VISIBLE_DEVICES=", "-d", "--gpus", "all"]


@pytest.mark.parametrize("named", ["'\"device=0,1\"'", "device=2", "'device=GPU-x,capabilities=utility'"])
def test_devices_that_the_script_names_are_left_alone(queue: LocalQueue, engine: Engine, named: str) -> None:
    queue.ok("exec", "local", "--gpus", "H100:1", "docker run -d --gpus %s polite" % named)

    assert asked(engine) == ["-d", "--gpus", named.strip("'")]


def test_without_gpus_only_the_label_is_added(queue: LocalQueue, engine: Engine) -> None:
    words = "-v '/a b:/c' -e A='x  \"y\"' --name=\"$(printf 'a\\nb')\" -e B=$'\\xff'"
    script = "docker run -d %s polite; docker version" % words
    queue.ok("exec", "local", "--gpus", "H100:1", script)

    assert asked(engine) == ["-d", "-v", "/a b:/c", "-e", 'A=x  "y"', "--name=a\nb", "-e", "B=\udcff"]
    assert ["version"] in engine.calls()


def test_more_devices_than_the_job_has_are_refused(queue: LocalQueue, engine: Engine) -> None:
    with_uuids(queue)
    result = queue.run("exec", "local", "--gpus", "H100:1", "docker run --gpus 2 polite; echo $?")

    assert queue.log(1) == "skyq: --gpus 2: this job has 1\n125\n", str(result)
    assert engine.calls() == []


def test_setup_sees_all_devices(queue: LocalQueue, engine: Engine) -> None:
    queue.file("task.yaml", "setup: docker run -d --gpus all polite\nrun: 'true'\n")
    queue.ok("launch", "-c", "local", "task.yaml", "-y")

    assert asked(engine) == ["-d", "--gpus", "all"]


# Where the wrapper stands.


def test_it_is_first_on_path_whatever_sets_that(queue: LocalQueue, engine: Engine) -> None:
    path = "%s:/usr/bin:/bin" % engine.bin
    queue.ok("exec", "local", "--env", "PATH=" + path, "docker run -d polite; echo $PATH")

    assert engine.calls("run")[0][1] == "--label"
    assert queue.log(1).splitlines()[-1].endswith("/docker:" + path)


def test_every_way_to_start_a_program_finds_it(queue: LocalQueue, engine: Engine) -> None:
    queue.ok(
        "exec",
        "local",
        "sh -c 'docker run -d polite'; env docker run -d polite; (cd /; exec docker run -d polite)\n"
        'python3 -c \'import subprocess; subprocess.run(["docker", "run", "-d", "polite"])\'',
    )

    assert [argv[1] for argv in engine.calls("run")] == ["--label"] * 4


def test_the_real_program_gets_the_environment_and_default_signals(queue: LocalQueue, engine: Engine) -> None:
    script = "grep SigIgn /proc/self/status\ndocker run -d polite"
    queue.ok("exec", "local", "--env", "A=x y", script)

    told = next(call for call in engine.told() if call["argv"][1] == "run")  # type: ignore[index]
    environ = told["env"]
    assert isinstance(environ, dict) and environ["A"] == "x y" and "PYTHONPATH" not in environ


def test_where_there_is_no_docker_all_is_as_usual(queue: LocalQueue, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("bash", "sh", "mkdir", "rm"):
        (bare / name).symlink_to(shutil.which(name) or "")
    docker = bare / "docker"
    docker.write_text("#!/bin/sh\n")
    docker.chmod(0o755)
    script = "command -v podman; echo $?; podman; echo $?; rm %s; hash -r; docker run x; echo $?" % docker
    queue.run("exec", "local", "--env", "PATH=%s" % bare, script)

    lines = queue.log(1).splitlines()
    assert lines[0] == "1"
    assert lines[1].endswith("podman: command not found")
    assert lines[2:] == ["127", "docker: command not found", "127"]


def test_a_job_without_containers_asks_no_engine(queue: LocalQueue, engine: Engine) -> None:
    queue.ok("exec", "local", "docker ps -q --filter label=mine; sleep 1000 & true")

    assert len(engine.calls()) == 1


# The end.


def test_cancel_ends_the_containers(queue: LocalQueue, engine: Engine) -> None:
    queue.submit("docker run --rm polite; echo the end of it")
    one = engine.one()
    queue.ok("cancel", "local", "1", "-y")

    queue.wait(1, "CANCELLED")
    assert engine.living() == []
    assert (one, "TERM") in engine.signals


def test_a_container_that_ignores_term_is_killed_after_the_grace_time(
    queue: LocalQueue, engine: Engine
) -> None:
    queue.submit("docker run --rm stubborn & docker run -d stubborn; wait")
    queue.until(lambda: len(engine.living()) == 2, "two containers run")
    queue.ok("cancel", "local", "1", "-y")

    queue.wait(1, "CANCELLED")
    assert engine.living() == []
    assert sorted(name for _, name in engine.signals if name == "KILL") == ["KILL", "KILL"]


def test_a_detached_container_ends_with_its_job_like_any_leftover(queue: LocalQueue, engine: Engine) -> None:
    queue.ok("exec", "local", "docker run -d polite; docker run -d stubborn; exit 0")

    assert queue.job(1)["status"] == "SUCCEEDED"
    assert engine.living() == []
    assert [name for _, name in engine.signals] == ["TERM", "TERM", "KILL"]


def test_devices_are_not_given_on_before_the_containers_are_gone(queue: LocalQueue, engine: Engine) -> None:
    queue.submit("--gpus", "H100:4", "docker run -d stubborn")
    queue.submit("--gpus", "H100:4", "ls %s/living > ~/seen; echo done >> ~/seen" % engine.root)

    assert queue.until_file("seen") == "done\n"


def test_a_container_of_setup_serves_the_run_and_ends_with_the_job(queue: LocalQueue, engine: Engine) -> None:
    queue.file("task.yaml", "setup: docker run -d polite\nrun: ls %s/living | wc -l\n" % engine.root)
    queue.ok("launch", "-c", "local", "task.yaml", "-y")

    assert queue.log(1) == "1\n"
    assert engine.living() == []


def test_another_jobs_containers_live_on(queue: LocalQueue, engine: Engine) -> None:
    queue.submit("docker run polite")
    first = engine.one()
    queue.submit("docker run polite")
    queue.until(lambda: len(engine.living()) == 2, "two containers run")
    queue.ok("cancel", "local", "2", "-y")
    queue.wait(2, "CANCELLED")

    assert engine.living() == [first]


def test_containers_end_where_the_shim_was_killed(queue: LocalQueue, engine: Engine) -> None:
    queue.submit("docker run -d stubborn; docker run polite")
    queue.until(lambda: len(engine.living()) == 2, "two containers run")
    kill(shim(queue))

    queue.wait(1, "FAILED_DRIVER")
    assert engine.living() == []


def test_containers_end_by_the_next_node_agent_where_all_of_skyq_was_killed(
    queue: LocalQueue, engine: Engine
) -> None:
    queue.submit("docker run -d stubborn; sleep 1000")
    engine.one()
    for process in [*queue.own_processes(), shim(queue)]:
        kill(process)

    queue.ok("queue", "local")
    queue.wait(1, "FAILED_DRIVER")
    assert engine.living() == []


def test_an_engine_that_fails_holds_up_nothing_and_the_log_says_so(queue: LocalQueue, engine: Engine) -> None:
    engine.set("down")
    result = queue.run("exec", "local", "docker run polite; true")

    assert result.code == 0, str(result)
    assert queue.log(1).splitlines()[-1] == (
        "skyq: containers of this job may be left: "
        "docker: Cannot connect to the engine. Is the daemon running?"
    )
    assert len(engine.calls("ps")) == 3


def test_the_engine_is_asked_where_the_script_asked_it(queue: LocalQueue, engine: Engine) -> None:
    queue.ok("exec", "local", "export DOCKER_HOST=tcp://there:1 SECRET=x; docker run -d polite")

    told = [call for call in engine.told() if call["argv"][1] == "ps"]  # type: ignore[index]
    for call in told:
        environ = call["env"]
        assert isinstance(environ, dict)
        assert environ["DOCKER_HOST"] == "tcp://there:1"
        assert "SECRET" not in environ and "SKYQ_STEP_ID" not in environ
    assert told


# Real ones.


def using(engine: Real, script: str, *words: str) -> list[str]:
    """The words of an exec whose script finds the test's engine; @ stands for its name."""
    path = "/usr/local/bin:/usr/bin:/bin"
    env = [word for pair in {"PATH": path, **engine.env}.items() for word in ("--env", "%s=%s" % pair)]
    return [*env, *words, script.replace("@", engine.name)]


def sleeping(test: int, engine: Real) -> int:
    """A number of seconds by which the containers of one test are known, whatever runs beside it."""
    return 47_000_000 + test * 1000 + ord(engine.name[0])


def sleepers(seconds: int) -> list[psutil.Process]:
    """The processes of `sleep SECONDS`, in containers too; zombies aside."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["cmdline"] == ["sleep", str(seconds)] and process.info["status"] != "zombie"
    ]


def test_a_real_podman_gives_the_jobs_devices(queue: LocalQueue, podman: Real) -> None:
    queue.submit("--gpus", "H100:3", queue.until_open())
    queue.wait(1, "RUNNING")
    script = "podman run --rm --device nvidia.com/gpu=all tiny printenv"
    queue.ok("exec", "local", *using(podman, script, "--gpus", "H100:2"))

    told = dict(line.split("=", 1) for line in queue.log(2).splitlines())
    given = {name: value for name, value in told.items() if name.startswith("GIVEN")}
    assert given == {"GIVEN_3": UUIDS[3], "GIVEN_4": UUIDS[4]}
    assert told["CUDA_VISIBLE_DEVICES"] == ",".join(UUIDS[3:5])


def test_a_real_docker_is_asked_for_the_jobs_devices(queue: LocalQueue, docker: Real) -> None:
    queue.submit("--gpus", "H100:3", queue.until_open())
    queue.wait(1, "RUNNING")
    create = "docker create --gpus all,capabilities=utility tiny sh"
    script = "docker inspect --format '{{json .HostConfig.DeviceRequests}} {{.Config.Env}}' $(%s)" % create
    queue.ok("exec", "local", *using(docker, script, "--gpus", "H100:2"))

    requests, _, env = queue.log(2).partition(" ")
    (request,) = json.loads(requests)
    assert (request["DeviceIDs"], request["Count"]) == (UUIDS[3:5], 0)
    assert sorted(request["Capabilities"][0]) == ["gpu", "utility"]
    assert "CUDA_VISIBLE_DEVICES=" + ",".join(UUIDS[3:5]) in env
    docker("container", "prune", "-f")


def test_the_docker_sample_with_podman_by_the_name_of_docker(
    queue: LocalQueue, podman: Real, tmp_path: Path
) -> None:
    (tmp_path / "docker").symlink_to(shutil.which("podman") or "")
    sample = str(ROOT / "sample_tasks" / "docker.yaml")
    path = "PATH=%s:/usr/bin:/bin" % tmp_path
    queue.ok("exec", "local", *using(podman, sample, "--env", "IMAGE=tiny", "--env", path))

    assert queue.log(1) == "in the container: %s\n" % UUIDS[0]


def test_real_containers_end_at_cancel_and_are_removed(queue: LocalQueue, real: Real) -> None:
    seconds = sleeping(1, real)
    queue.submit(*using(real, "@ run -d tiny sleep %d\n@ run --rm tiny sleep %d" % (seconds, seconds)))
    queue.until(lambda: len(sleepers(seconds)) == 2, "two containers run")
    queue.ok("cancel", "local", "1", "-y")
    queue.wait(1, "CANCELLED")

    assert sleepers(seconds) == []
    assert real("ps", "-q") == ""
    assert len(real("ps", "-aq").split()) == 1
    real("container", "prune", "-f")


def test_a_real_container_that_is_left_ends_with_its_job(queue: LocalQueue, real: Real) -> None:
    seconds = sleeping(2, real)
    queue.ok("exec", "local", *using(real, "@ run --rm -d tiny sleep %d" % seconds))

    assert sleepers(seconds) == []
    assert "skyq:" not in queue.log(1)
    queue.until(lambda: real("ps", "-aq") == "", "the container is removed")


def test_a_real_container_may_end_in_peace(queue: LocalQueue, real: Real) -> None:
    script = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done"
    queue.submit(*using(real, '@ run --rm tiny sh -c "echo here; %s"' % script))
    queue.until(lambda: "here" in queue.log(1), "the container runs")
    queue.ok("cancel", "local", "1", "-y")
    queue.wait(1, "CANCELLED")

    assert "bye" in queue.log(1).splitlines()


def test_a_real_container_ends_where_the_shim_was_killed(queue: LocalQueue, real: Real) -> None:
    seconds = sleeping(3, real)
    queue.submit(*using(real, "@ run --rm tiny sleep %d" % seconds))
    queue.until(lambda: len(sleepers(seconds)) == 1, "the container runs")
    kill(shim(queue))
    queue.wait(1, "FAILED_DRIVER")

    assert sleepers(seconds) == []
    assert "skyq:" not in queue.log(1)
    queue.until(lambda: real("ps", "-aq") == "", "the container is removed")
