"""The docker and podman that a job sees: what they make of a command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyq.node import wrapper
from skyq.node.wrapper import Refused

STEP = "job.1.run-0"
LABEL = ["--label", "skyq.step=" + STEP]
A, B = "GPU-aaaa", "GPU-bbbb"
TWO = {"SKYQ_GPU_IDS": "2,3", "SKYQ_GPU_UUIDS": A + "," + B, "CUDA_VISIBLE_DEVICES": "2,3"}
ONE = {"SKYQ_GPU_IDS": "2", "SKYQ_GPU_UUIDS": A, "CUDA_VISIBLE_DEVICES": "2"}
DECLARED = {"SKYQ_GPU_IDS": "2,3", "SKYQ_GPU_UUIDS": "", "CUDA_VISIBLE_DEVICES": "2,3"}
NONE = {"SKYQ_GPU_IDS": "", "SKYQ_GPU_UUIDS": "", "CUDA_VISIBLE_DEVICES": ""}
SETUP: dict[str, str] = {}
SEES_TWO = ["--env", "CUDA_VISIBLE_DEVICES=%s,%s" % (A, B)]
BOTH = '"device=%s,%s"' % (A, B)


def docker(words: list[str], env: dict[str, str] = TWO) -> list[str]:
    return wrapper.rewritten(words, False, STEP, env)


def podman(words: list[str], env: dict[str, str] = TWO) -> list[str]:
    return wrapper.rewritten(words, True, STEP, env)


# All devices.


@pytest.mark.parametrize(
    ("spelled", "becomes"),
    [
        (["--gpus", "all"], BOTH),
        (["--gpus=all"], BOTH),
        (["--gpus", '"all"'], BOTH),
        (["--gpus", "-1"], BOTH),
        (["--gpus", "count=all"], BOTH),
        (["--gpus", "all,capabilities=utility"], BOTH + ",capabilities=utility"),
        (["--gpus", "capabilities=utility,all"], BOTH + ",capabilities=utility"),
        (["--gpus", 'all,"capabilities=compute,utility"'], BOTH + ',"capabilities=compute,utility"'),
        (["--gpus", "driver=nvidia,count=all"], BOTH + ",driver=nvidia"),
    ],
)
def test_all_devices_in_any_spelling_are_the_jobs(spelled: list[str], becomes: str) -> None:
    expected = ["run", *LABEL, *SEES_TWO, "--rm", "--gpus", becomes, "cuda", "nvidia-smi"]
    assert docker(["run", "--rm", *spelled, "cuda", "nvidia-smi"]) == expected


def test_one_device_needs_no_quotes() -> None:
    sees = ["--env", "CUDA_VISIBLE_DEVICES=" + A]
    expected = ["run", *LABEL, *sees, "--gpus", "device=" + A, "cuda"]
    assert docker(["run", "--gpus", "all", "cuda"], ONE) == expected


@pytest.mark.parametrize("verb", [["run"], ["create"], ["container", "run"], ["container", "create"]])
@pytest.mark.parametrize("before", [[], ["-H", "tcp://x:1"], ["--context=c", "-D"], ["-Dl", "debug"]])
def test_every_command_that_makes_a_container(before: list[str], verb: list[str]) -> None:
    words = [*before, *verb, "--gpus", "all", "cuda"]
    assert docker(words) == [*before, *verb, *LABEL, *SEES_TWO, "--gpus", BOTH, "cuda"]


def test_podman_gets_devices_by_cdi_names() -> None:
    named = ["--device", "nvidia.com/gpu=" + A, "--device", "nvidia.com/gpu=" + B]
    assert podman(["run", "--gpus", "all", "cuda"]) == ["run", *LABEL, *SEES_TWO, *named, "cuda"]
    assert podman(["run", "--device=nvidia.com/gpu=all", "cuda"]) == [
        "run",
        *LABEL,
        *SEES_TWO,
        *named,
        "cuda",
    ]
    assert docker(["run", "--device", "nvidia.com/gpu=all", "c"]) == ["run", *LABEL, *SEES_TWO, *named, "c"]


def test_devices_without_uuids_are_given_by_index() -> None:
    sees = ["--env", "CUDA_VISIBLE_DEVICES=2,3", "--env", "CUDA_DEVICE_ORDER=PCI_BUS_ID"]
    for run in (docker, podman):
        assert run(["run", "--gpus=all", "cuda"], DECLARED) == ["run", *LABEL, *sees, "--gpus=all", "cuda"]


def test_a_job_without_devices_sees_none() -> None:
    sees = ["--env", "CUDA_VISIBLE_DEVICES="]
    for spelled in (["--gpus", "all"], ["--gpus", "1"]):
        assert docker(["run", *spelled, "cuda"], NONE) == ["run", *LABEL, *sees, *spelled, "cuda"]


def test_setup_sees_all_as_its_other_programs_do() -> None:
    assert docker(["run", "--gpus", "all", "cuda"], SETUP) == ["run", *LABEL, "--gpus", "all", "cuda"]


# Some devices.


def test_dockers_number_of_devices_is_taken_from_the_jobs() -> None:
    expected = ["run", *LABEL, *SEES_TWO, "--gpus", "device=" + A, "cuda"]
    for spelled in (["--gpus", "1"], ["--gpus=count=1"]):
        assert docker(["run", *spelled, "cuda"]) == expected
    assert docker(["run", "--gpus", "capabilities=utility", "c"])[-2:] == [
        "device=%s,capabilities=utility" % A,
        "c",
    ]
    assert docker(["run", "--gpus", "2", "cuda"])[-2:] == [BOTH, "cuda"]


def test_more_devices_than_the_job_has_are_refused() -> None:
    with pytest.raises(Refused, match="--gpus 3: this job has 2"):
        docker(["run", "--gpus", "3", "cuda"])


@pytest.mark.parametrize(
    "named",
    [
        ["--gpus", "device=1"],
        ["--gpus", '"device=0,1"'],
        ["--gpus=device=GPU-x,capabilities=utility"],
        ["--device", "nvidia.com/gpu=1"],
        ["--device", "/dev/fuse"],
    ],
)
def test_devices_that_are_named_are_left_alone(named: list[str]) -> None:
    words = [*named, "-e", "CUDA_VISIBLE_DEVICES=1", "cuda"]
    for run in (docker, podman):
        assert run(["run", *words]) == ["run", *LABEL, *words]


def test_podmans_number_names_a_device() -> None:
    assert podman(["run", "--gpus", "1", "cuda"]) == ["run", *LABEL, "--gpus", "1", "cuda"]


@pytest.mark.parametrize("odd", ["", "0", "-2", "some", "driver=amd,count=all"])
def test_what_docker_alone_can_judge_is_left_to_it(odd: str) -> None:
    assert docker(["run", "--gpus", odd, "cuda"])[-3:] == ["--gpus", odd, "cuda"]


# The user's own CUDA_VISIBLE_DEVICES.


@pytest.mark.parametrize(
    ("own", "becomes"),
    [
        (["-e", "CUDA_VISIBLE_DEVICES"], SEES_TWO),
        (["-e", "CUDA_VISIBLE_DEVICES=2,3"], SEES_TWO),
        (["--env=CUDA_VISIBLE_DEVICES=3,2"], ["--env", "CUDA_VISIBLE_DEVICES=%s,%s" % (B, A)]),
        (["-eCUDA_VISIBLE_DEVICES=3"], ["--env", "CUDA_VISIBLE_DEVICES=" + B]),
        (["-ite", "CUDA_VISIBLE_DEVICES=3"], ["-it", "--env", "CUDA_VISIBLE_DEVICES=" + B]),
        (["-e", "CUDA_VISIBLE_DEVICES=0"], ["-e", "CUDA_VISIBLE_DEVICES=0"]),
        (["-e", "CUDA_VISIBLE_DEVICES="], ["-e", "CUDA_VISIBLE_DEVICES="]),
        (["-e", "CUDA_VISIBLE_DEVICES=" + B], ["-e", "CUDA_VISIBLE_DEVICES=" + B]),
    ],
)
def test_the_users_own_choice_stays_but_the_machines_numbers_become_uuids(
    own: list[str], becomes: list[str]
) -> None:
    assert docker(["run", "--gpus", "all", *own, "c"]) == ["run", *LABEL, "--gpus", BOTH, *becomes, "c"]


def test_a_loop_over_the_jobs_devices_passes_one_each() -> None:
    env = {**TWO, "CUDA_VISIBLE_DEVICES": "3"}
    assert docker(["run", "-e", "CUDA_VISIBLE_DEVICES", "--gpus=all", "c"], env)[3:5] == [
        "--env",
        "CUDA_VISIBLE_DEVICES=" + B,
    ]


# Where the options end, and which words are options at all.


@pytest.mark.parametrize(
    "words",
    [
        ["cuda", "sh", "-c", "--gpus", "all"],
        ["-it", "--rm", "cuda", "--gpus", "all"],
        ["-e", "--gpus", "all", "sh"],
        ["--", "cuda", "--gpus", "all"],
        ["-it", "-p", "80:80", "-v/a:/b", "--memory-swap", "-1", "cuda", "--gpus=all"],
        ["--gpu", "all", "cuda"],
        ["--label", "gpus=all", "cuda"],
        [],
    ],
)
def test_what_only_looks_like_it_is_left_alone(words: list[str]) -> None:
    assert docker(["run", *words]) == ["run", *LABEL, *words]


@pytest.mark.parametrize(
    "before", [["-it"], ["--pids-limit", "-1"], ["-v", "/a:/b"], ["-h", "host"], ["--newer-option"], ["-P"]]
)
def test_options_in_front_do_not_hide_it(before: list[str]) -> None:
    assert docker(["run", *before, "--gpus", "all", "cuda"])[-3:] == ["--gpus", BOTH, "cuda"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["ps", "-a"],
        ["build", "-t", "run", "."],
        ["exec", "-it", "x", "run", "--gpus", "all"],
        ["compose", "run", "--gpus", "all", "x"],
        ["container", "ls"],
        ["--version"],
        ["-H"],
        ["container"],
        ["--", "x"],
    ],
)
def test_other_commands_pass_unchanged(words: list[str]) -> None:
    assert docker(words) == words
    assert podman(words) == words


WORDS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            "run",
            "create",
            "container",
            "-it",
            "-e",
            "-e=A",
            "--env",
            "CUDA_VISIBLE_DEVICES=0",
            "--",
            "-",
            "--rm",
        ]
    ),
    st.sampled_from(["--name", "--device", "/dev/fuse", "image", "sh", "-H", "--context", "--label", "a=b"]),
).filter(lambda word: "gpu" not in word)


@given(st.lists(WORDS, max_size=12), st.booleans(), st.sampled_from([TWO, ONE, DECLARED, NONE, SETUP]))
def test_without_gpus_nothing_but_the_label_is_added(
    words: list[str], is_podman: bool, env: dict[str, str]
) -> None:
    verb = wrapper.verb_at(words)
    expected = words if verb < 0 else [*words[: verb + 1], *LABEL, *words[verb + 1 :]]

    assert wrapper.rewritten(words, is_podman, STEP, env) == expected
    assert verb < 0 or words[verb] in ("run", "create")


@given(st.lists(st.text(max_size=6), max_size=8))
def test_what_is_run_in_the_container_is_never_touched(command: list[str]) -> None:
    assert docker(["run", "--gpus", "all", "image", *command])[-len(command) - 1 :] == ["image", *command]


# The real program.


def program(folder: Path, name: str, text: str = "#!/bin/sh\n") -> str:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_the_next_program_on_path_is_the_real_one(tmp_path: Path) -> None:
    ours, real = tmp_path / "ours", tmp_path / "real"
    program(ours, "docker", "#!/bin/sh\n%s: …\n" % wrapper.MARK)
    found = program(real, "docker")
    link = tmp_path / "link"
    link.symlink_to(ours)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "docker").write_text("not executable")
    (tmp_path / "folder" / "docker").mkdir(parents=True)

    path = ":".join(
        str(each) for each in (tmp_path / "gone", link, ours, tmp_path / "plain", tmp_path / "folder")
    )
    assert wrapper.real_program("docker", "%s::%s" % (path, real)) == found
    assert wrapper.real_program("docker", path) == ""


def test_podman_by_the_name_of_docker_is_podman(tmp_path: Path) -> None:
    link = tmp_path / "docker"
    link.symlink_to(program(tmp_path / "bin", "podman", "\x7fELF"))
    script = program(tmp_path / "debian", "docker", '#!/bin/sh\nexec /usr/bin/podman "$@"\n')

    assert wrapper.is_podman(str(link))
    assert wrapper.is_podman(script)
    assert not wrapper.is_podman(program(tmp_path / "other", "docker", "\x7fELF podman"))


def test_an_engine_is_noted_once_and_where_its_containers_are(tmp_path: Path) -> None:
    run = tmp_path / STEP
    run.mkdir()
    env = {"SKYQ_STEP_ID": STEP, "DOCKER_HOST": "tcp://x:1", "TOKEN": "hunter2"}
    for image in ("a", "b"):
        new = wrapper.prepared(["-H", "y", "container", "run", image], "/bin/docker", str(tmp_path), env)
        assert new == ["-H", "y", "container", "run", *LABEL, image]

    (note,) = (run / "containers").iterdir()
    assert note.read_bytes().split(b"\0") == [
        *(b"program=/bin/docker", b"option=-H", b"option=y", b"env=DOCKER_HOST=tcp://x:1", b""),
    ]
    wrapper.prepared(["run", "a"], "/bin/docker", str(tmp_path), env)
    assert len(os.listdir(run / "containers")) == 2


@pytest.mark.parametrize("env", [{}, {"SKYQ_STEP_ID": "gone"}, {"SKYQ_STEP_ID": "../x"}])
def test_outside_of_a_job_nothing_is_changed(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "x").mkdir()
    words = ["run", "--gpus", "all", "cuda"]

    assert wrapper.prepared(words, "/bin/docker", str(tmp_path / "runs"), {**TWO, **env}) == words
