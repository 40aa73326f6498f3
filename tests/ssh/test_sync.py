"""Only what changed travels, and what has travelled once doesn't again, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import Host, Lab
from tests.lab.disk import give
from tests.ssh.remote import ON, Remote, commands

MakeLab = Callable[..., Lab]
FILES, SIZE = 60, 1_000_000
WHOLE = FILES * SIZE
ON_THE_WAY = 15_000_000  # bytes at most, in the buffers of both sides and of sshd, that a break loses
HEAD, WORKER = "clusters/lab", "nodes/*"
SLOW = 0.1  # seconds each way: 2 MB, the window of sshd, per 0.2 s
DIGEST = "cat f* | sha256sum | cut -c -64"


def large(cluster: Remote, name: str = "proj") -> str:
    """Fills a folder with what doesn't compress; the digest of all."""
    folder = cluster.client.home / name
    folder.mkdir()
    digest = hashlib.sha256()
    for number in range(FILES):
        data = os.urandom(SIZE)
        digest.update(data)
        (folder / ("f%02d" % number)).write_bytes(data)
    give(folder, *folder.iterdir())
    return digest.hexdigest()


def parts(host: Host, where: str) -> list[Path]:
    """Copies there that aren't whole."""
    return list(host.path("/home/ada/.skyq").glob(where + "/work/*.part"))


def until_half_is_there(cluster: Remote, host: Host, where: str) -> None:
    """More files than a break can lose have come, and some haven't."""

    def come() -> int:
        return sum(len(list(part.iterdir())) for part in parts(host, where))

    cluster.until(lambda: come() > FILES // 2, "files come")
    assert ON_THE_WAY < come() * SIZE < WHOLE, "the test was too late"


def agents(cluster: Remote) -> list[str]:
    """Those on the head that serve a command."""
    return [words for _, words in commands(cluster.head) if " _agent" in words]


@pytest.fixture
def far(make_lab: MakeLab) -> Remote:
    """A cluster of one host, with a folder to send there."""
    cluster = Remote(make_lab(1)).pool()
    cluster.ok("exec", "lab", "-d", "true")
    cluster.lab.delay("client", SLOW)
    return cluster


def vanish(cluster: Remote) -> None:
    """Nobody tells either side."""
    cluster.lab.cut("client")


def break_off(cluster: Remote) -> None:
    """The client is told at once."""
    cluster.hang_up("node0")


@pytest.mark.parametrize("breaks", [vanish, break_off])
def test_an_upload_goes_on_with_what_lacks_after_its_connection_broke(
    far: Remote, breaks: Callable[[Remote], None]
) -> None:
    digest, before = large(far), far.head.received()
    upload = far.terminal("exec", "lab", "--workdir", "proj", DIGEST)
    until_half_is_there(far, far.head, HEAD)
    breaks(far)
    upload.expect("Connecting again")
    far.lab.heal("client")

    assert upload.wait() == 0
    assert digest in upload.screen and "[####" in upload.screen
    assert upload.screen.count("Syncing workdir") == 1
    assert far.head.received() - before < WHOLE + ON_THE_WAY
    assert len(far.jobs()) == 2
    far.until(lambda: not parts(far.head, HEAD), "nothing half is left")


def test_an_upload_whose_client_is_killed_is_no_job_and_the_next_one_is_shorter(far: Remote) -> None:
    digest, before = large(far), far.head.received()
    upload = far.start("exec", "lab", "--workdir", "proj", DIGEST)
    until_half_is_there(far, far.head, HEAD)
    upload.kill()
    far.until(lambda: not agents(far), "the agent has ended")

    assert len(far.jobs()) == 1
    assert digest in far.ok("exec", "lab", "--workdir", "proj", DIGEST).out
    assert far.head.received() - before < WHOLE + ON_THE_WAY
    assert parts(far.head, HEAD) == []


def test_what_a_killed_upload_left_is_removed_by_clean_or_after_a_day(far: Remote) -> None:
    large(far)
    far.file("other/file", "other\n")

    def killed_upload() -> Path:
        upload = far.start("exec", "lab", "--workdir", "proj", "true")
        until_half_is_there(far, far.head, HEAD)
        upload.kill()
        far.until(lambda: not agents(far), "the agent has ended")
        return parts(far.head, HEAD)[0]

    left = killed_upload()
    far.ok("exec", "lab", "-d", "--workdir", "other", "true")
    assert left.exists(), "it may still be gone on with"
    os.utime(left, (0, time.time() - 25 * 3600))
    far.ok("exec", "lab", "-d", "--workdir", "other", "true")
    assert not left.exists()

    left = killed_upload()
    os.utime(left, (0, time.time() - 3600))
    far.ok("clean", "lab", "-y")
    assert not left.exists()


def test_a_courier_goes_on_with_what_lacks_after_its_connection_broke(make_lab: MakeLab) -> None:
    cluster = Remote(make_lab(2)).pool(own_kinds=True)
    cluster.ok("exec", "lab", "-d", "true")
    node = cluster.lab.node(1)
    cluster.lab.delay("node1", SLOW)
    digest, before = large(cluster), node.received()
    job = cluster.submit(*ON["node1"], "--workdir", "proj", DIGEST)
    until_half_is_there(cluster, node, WORKER)
    cluster.hang_up("node1")

    cluster.until_raw(cluster.wait(job, "SUCCEEDED"), 0, digest.encode() + b"\n")
    assert node.received() - before < WHOLE + ON_THE_WAY
    assert parts(node, WORKER) == []


def test_what_did_not_change_does_not_travel_again_neither_do_mounts(cluster: Remote) -> None:
    large(cluster, "unchanged")
    cluster.file("seen/x", "x" * 3_000_000)
    cluster.file("seen.yaml", "file_mounts: {/tmp/seen: seen}\nrun: cat /tmp/seen/x f* | wc -c\n")
    node = cluster.lab.node(1)

    def launched() -> list[int]:
        """What the head and the worker received meanwhile."""
        before = [host.received() for host in (cluster.head, node)]
        words = ("launch", "-c", "lab", "-q", *ON["node1"], "--workdir", "unchanged", "seen.yaml")
        assert cluster.ok(*words).out.split() == [str(WHOLE + 3_000_000)]
        return [host.received() - bytes for host, bytes in zip((cluster.head, node), before)]

    assert min(launched()) > WHOLE + 3_000_000
    assert max(launched()) < 500_000
    cluster.file("seen/y", "y" * 1_000_000)
    assert max(launched()) < 1_500_000
