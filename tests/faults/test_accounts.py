"""Another Unix account of the machine: it can neither see, change nor disturb a queue, nor be there first."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from skyq.core.errors import StoreError
from skyq.store.place import make_private
from skyq.store.store import Store
from tests.accounts import NOBODY, as_nobody, as_root, let_others_in, sticky
from tests.cluster import LocalQueue

Attack = tuple[str, Callable[[], object]]


def on_files(paths: list[Path]) -> Iterator[Attack]:
    for path in paths:
        yield "list %s" % path, lambda path=path: os.listdir(path)
        yield "read %s" % path, lambda path=path: path.read_bytes()
        yield "write %s" % path, lambda path=path: os.close(os.open(path, os.O_WRONLY))
        yield "create in %s" % path, lambda path=path: (path / "x").touch()
        yield "remove %s" % path, lambda path=path: os.unlink(path)
        yield "replace %s" % path, lambda path=path: os.rename(path, "%s.gone" % path)
        yield "link %s" % path, lambda path=path: os.link(path, "/var/tmp/skyq-test-stolen-%d" % os.getpid())
        yield "open up %s" % path, lambda path=path: path.chmod(0o777)


def on_sockets(paths: list[Path]) -> Iterator[Attack]:
    for path in paths:
        yield "knock at %s" % path, lambda path=path: socket.socket(socket.AF_UNIX).connect(str(path))


def see(path: str) -> None:
    """OSError if nothing is to be seen: the maps of a process that ended can be opened, and are empty."""
    opened = os.open(path, os.O_RDONLY)
    try:
        if path.endswith("/maps") and not os.read(opened, 1):
            raise FileNotFoundError(path)
    finally:
        os.close(opened)


def on_processes(pids: list[int]) -> Iterator[Attack]:
    for pid in pids:
        for name in ("environ", "mem", "maps", "fd", "cwd", "root", "exe"):
            path = "/proc/%d/%s" % (pid, name)
            yield "see " + path, lambda path=path: see(path)
        for number in (0, signal.SIGUSR1, signal.SIGKILL):
            yield "signal %d" % pid, lambda pid=pid, number=number: os.kill(pid, number)


def that_work(attacks: list[Attack]) -> str:
    """A line for each."""
    found = []
    for name, attack in attacks:
        with suppress(OSError):
            attack()
            found.append(name)
    return "\n".join(found)


@as_root
def test_another_account_gets_at_nothing_of_a_queue_and_its_jobs(queue: LocalQueue) -> None:
    for folder in (queue.root, queue.user_home):
        let_others_in(folder)
    workdir = queue.user_home / "project"
    workdir.mkdir()
    (workdir / "train.py").touch()
    queue.submit("--workdir", str(workdir), "--secret", "TOKEN", queue.until_open(), env={"TOKEN": "x"})
    queue.wait(1, "RUNNING")
    queue.until(lambda: queue.state_dir / "run", "there is a run directory")
    paths = [path for path in queue.home.rglob("*") if path.name != "pools.yaml" and "app" not in path.parts]
    sockets = [path for path in paths if path.is_socket()]
    pids = [process.pid for process in queue.processes()]
    attacks = [*on_files(paths), *on_sockets(sockets), *on_processes(pids)]
    assert len(attacks) > 40 and len(sockets) == 1 and len(pids) > 3

    assert as_nobody(lambda: that_work(attacks)) == ""
    queue.open_gate()
    queue.wait(1, "SUCCEEDED")


@as_root
def test_the_witness_of_attacks_sees_those_that_work(tmp_path: Path) -> None:
    let_others_in(tmp_path)
    file = tmp_path / "open"
    file.touch()
    file.chmod(0o644)

    assert as_nobody(lambda: that_work(list(on_files([file])))) == "read %s" % file


def folder_of_another(place: Path, own: Path) -> None:
    place.mkdir()
    place.chmod(0o777)
    os.chown(place, NOBODY, NOBODY)


def link_to_ones_own(place: Path, own: Path) -> None:
    place.symlink_to(own)
    os.chown(place, NOBODY, NOBODY, follow_symlinks=False)


def link_to_anothers(place: Path, own: Path) -> None:
    aside = place.with_name("aside")
    folder_of_another(aside, own)
    place.symlink_to(aside)
    os.chown(place, NOBODY, NOBODY, follow_symlinks=False)


PLANTS = [folder_of_another, link_to_ones_own, link_to_anothers]


@as_root
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("below", ["", "hash", "hash/clusters/local"])
def test_state_is_never_put_where_another_account_was_first(
    tmp_path: Path, plant: Callable[[Path, Path], None], below: str
) -> None:
    place, own = sticky(tmp_path) / "skyq-0", tmp_path / "own"
    own.mkdir(mode=0o755)
    plant(place, own)

    with pytest.raises(StoreError, match="another account"):
        make_private(str(place / below))
    assert stat.S_IMODE(own.stat().st_mode) == 0o755


@as_root
@pytest.mark.parametrize("plant", PLANTS)
def test_no_queue_is_opened_where_another_account_could_replace_it(
    tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    """A cleaner of temporary files has removed the place, and somebody else was faster; cron comes by."""
    place, own = sticky(tmp_path) / "skyq-0", tmp_path / "own"
    own.mkdir()
    plant(place, own)

    with pytest.raises(StoreError, match="put there by another account"):
        Store.open(str(place / "hash" / "queue.db"))


@as_root
@pytest.mark.parametrize("plant", PLANTS)
def test_no_node_agent_starts_where_another_account_could_replace_its_scripts(
    queue: LocalQueue, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    """The home is on storage that all nodes share, so that the run directories are elsewhere."""
    place, own = sticky(tmp_path) / "skyq-0", tmp_path / "own"
    own.mkdir()
    plant(place, own)
    started = queue.run("_node", "@lab", env={"SKYQ_HOME": str(place / "hash")})

    assert started.code == 1 and "put there by another account" in started.err, str(started)
    assert "skyq-protocol" not in started.out


@as_root
def test_what_root_or_oneself_made_in_a_shared_place_is_used(tmp_path: Path) -> None:
    place = sticky(tmp_path) / "skyq-0"
    make_private(str(place / "hash"))
    (tmp_path / "shared" / "link").symlink_to(place)

    make_private(str(tmp_path / "shared" / "link" / "hash"))
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
