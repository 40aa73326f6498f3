"""What is cut from skyq.pyz, for real: it must start where it comes to."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from skyq import folders
from skyq.client.slices import Whole
from skyq.client.wheels import Target, all_targets
from skyq.core.errors import SkyqError


def whole(path: str | Path, tmp_path: Path) -> Whole:
    return Whole(str(path), str(tmp_path / "wheels"), lambda line: None)


def test_the_same_file_gives_the_same_slice(pyz: str, tmp_path: Path) -> None:
    assert whole(pyz, tmp_path).for_worker() == whole(pyz, tmp_path).for_worker()


def test_a_worker_gets_own_code_alone_and_a_head_its_libraries(pyz: str, tmp_path: Path) -> None:
    worker = whole(pyz, tmp_path).for_worker()
    head = whole(pyz, tmp_path).for_head(folders.tag())

    assert len(worker.data) < 1.5e6 < len(head.data)
    assert head.data == Path(pyz).read_bytes(), "a file for one platform is the slice for it"
    assert worker.name != head.name and worker.name.startswith("skyq-")


@pytest.mark.parametrize("kind", ["worker", "head"])
def test_a_slice_starts_from_the_same_unpacked_code(pyz: str, tmp_path: Path, kind: str) -> None:
    cut = whole(pyz, tmp_path)
    data = (cut.for_worker() if kind == "worker" else cut.for_head(folders.tag())).data
    (tmp_path / "slice").write_bytes(data)
    started = subprocess.run(
        [sys.executable, "-I", "-S", str(tmp_path / "slice"), "--version"],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    whole_started = subprocess.run(
        [sys.executable, "-I", "-S", pyz, "--version"],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.stdout == whole_started.stdout != ""
    apps = [path for path in (tmp_path / ".skyq/app").iterdir() if path.is_dir()]
    assert len(apps) == 1, "the slice has the code of the whole"


def test_every_target_has_a_tag_of_its_own() -> None:
    tags = [target.tag for target in all_targets()]
    assert len(set(tags)) == len(tags)
    assert all(Target.of_tag(target.tag) == target for target in all_targets())


def test_a_python_that_no_libraries_are_locked_for_can_be_no_head(pyz: str, tmp_path: Path) -> None:
    with pytest.raises(SkyqError, match="no libraries of skyq for its Python"):
        whole(pyz, tmp_path).for_head("cpython-311-linux-x86_64-musl")


def test_without_a_network_it_says_what_to_do(
    pyz: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    other = next(target for target in all_targets() if target.tag != folders.tag())

    with pytest.raises(SkyqError, match="can't be fetched") as raised:
        whole(pyz, tmp_path).for_head(other.tag)

    assert "--python %s --platform %s" % other in str(raised.value)


def test_what_was_fetched_once_needs_no_network(
    pyz: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheels of the file itself serve, too: here all are there, so nothing is fetched."""
    without = tmp_path / "without.pyz"
    cut = whole(pyz, tmp_path).for_worker()
    without.write_bytes(cut.data)
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(pyz) as archive:
        for name in archive.namelist():
            if name.endswith(".whl"):
                (tmp_path / "wheels" / name.rpartition("/")[2]).write_bytes(archive.read(name))
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    head = whole(without, tmp_path).for_head(folders.tag())

    assert head.data == Path(pyz).read_bytes()


def test_a_checkout_can_not_be_sent(tmp_path: Path) -> None:
    with pytest.raises(SkyqError, match=r"build_zipapp\.py"):
        whole(tmp_path, tmp_path).for_worker()


@pytest.mark.parametrize("fault", ["gone", "truncated", "other"])
def test_a_file_that_is_no_skyq_any_more_is_named(pyz: str, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "skyq.pyz"
    if fault != "gone":
        path.write_bytes(Path(pyz).read_bytes()[:100_000] if fault == "truncated" else b"no zip at all")
    with pytest.raises(SkyqError, match=r"skyq\.pyz can't be sent"):
        whole(path, tmp_path).for_worker()
