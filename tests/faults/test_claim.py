"""One queue per machine: the claim refuses others by name, outlives its holder, and is given back."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from skyq.core.errors import HostClaimed
from skyq.core.paths import ClaimDir
from skyq.node import claim
from tests.accounts import as_nobody, as_root, sticky
from tests.cluster import LocalQueue, kill


@pytest.fixture
def shared(tmp_path: Path) -> ClaimDir:
    """A sticky folder that all accounts reach."""
    return ClaimDir(str(sticky(tmp_path)))


def a_claim(cluster_id: str, state_dir: object = "/") -> claim.Claim:
    return {"cluster": "of-" + cluster_id, "id": cluster_id, "head": "a-head", "state_dir": str(state_dir)}


def take(shared: ClaimDir, cluster_id: str, state_dir: Path | None = None) -> str:
    """The refusal; "" when the machine was taken. Without a `state_dir` it is one of the cluster's own."""
    if state_dir is None:
        state_dir = Path(shared.root, "state-of-" + cluster_id)
        state_dir.mkdir(exist_ok=True)
    os.umask(0o077)  # as the node agent
    try:
        claim.take(shared, a_claim(cluster_id, state_dir))
    except (HostClaimed, OSError) as error:
        return str(error)
    return ""


def test_what_who_was_killed_while_claiming_left_is_removed(shared: ClaimDir) -> None:
    left = Path(shared.claim + ".0123abcd.new")
    for _ in ("when it is claimed", "when it is kept"):
        left.write_text("{")
        os.utime(left, (0, 0))
        assert take(shared, "one") == "" and not left.exists()
    left.hardlink_to(shared.claim)  # killed once it was claimed: young for as long as that is kept
    assert take(shared, "one") == "" and not left.exists() and os.path.exists(shared.claim)


# Between two queues.


def test_a_second_queue_is_refused_with_the_firsts_name_until_that_is_idle(
    queue: LocalQueue, tmp_path: Path
) -> None:
    other = LocalQueue(tmp_path / "other", queue.program)
    other.claims = queue.claims
    other.env["SKYQ_CLAIM_DIR"] = str(queue.claims)
    running = queue.submit(queue.until_open())
    queue.wait(running, "RUNNING")

    refused = other.run("exec", "local", "echo never")
    assert refused.code == 1
    assert (
        "This machine belongs to cluster 'local' of %s (head: " % psutil.Process().username() in refused.err
    )
    assert other.jobs() == {}
    kill(queue.dispatcher())
    assert other.run("exec", "local", "echo never").code == 1

    queue.open_gate()
    queue.wait(running, "SUCCEEDED")
    queue.until(lambda: not list(queue.claims.glob("*.claim")), "the idle queue gives the machine back")
    other.ok("exec", "local", "echo mine")
    other.close()


def test_a_queue_whose_first_job_waits_for_the_machine_says_so_and_gets_it(
    queue: LocalQueue, tmp_path: Path
) -> None:
    """Submitted at the same moment: the claim decides, not the submit."""
    other = LocalQueue(tmp_path / "other", queue.program)
    other.env["SKYQ_CLAIM_DIR"] = str(queue.claims)
    clients = [each.start("exec", "local", "-d", each.until_open()) for each in (queue, other)]
    codes = [client.wait() for client in clients]
    for client in clients:
        client.communicate()
    both = [each for each, code in zip((queue, other), codes, strict=True) if code == 0]
    running = queue.until(
        lambda: [each for each in both if each.job(1)["status"] == "RUNNING"], "one of them gets the machine"
    )

    assert len(running) == 1
    assert [each for each in both if each.job(1)["status"] == "RUNNING"] == running
    for each in (queue, other):
        each.open_gate()
    for each in both:
        each.wait(1, "SUCCEEDED")
    other.close()


def test_a_deleted_queue_of_the_same_account_blocks_nobody(shared: ClaimDir, tmp_path: Path) -> None:
    assert take(shared, "old", tmp_path / "deleted") == ""

    assert take(shared, "new", tmp_path) == ""
    assert "'of-new'" in take(shared, "third")


def test_a_queue_that_was_deleted_and_begun_anew_in_its_place_has_the_machine(
    shared: ClaimDir, tmp_path: Path
) -> None:
    assert take(shared, "old", tmp_path) == ""
    shim = claim.hold_shims_lock(shared)
    assert "still run" in take(shared, "new", tmp_path)
    os.close(shim)

    assert take(shared, "new", tmp_path) == ""
    assert "'of-new'" in take(shared, "old", tmp_path / "..")


def test_a_machine_with_a_living_shim_of_a_former_queue_is_not_taken(
    shared: ClaimDir, tmp_path: Path
) -> None:
    take(shared, "old", tmp_path / "deleted")
    shim = claim.hold_shims_lock(shared)

    assert (
        take(shared, "new")
        == "Processes of this machine's former queue still run; its devices aren't free yet."
    )
    os.close(shim)
    assert take(shared, "new") == ""


def test_only_its_own_cluster_gives_a_machine_back(shared: ClaimDir) -> None:
    take(shared, "ours")
    claim.release(shared, "theirs")
    assert "'of-ours'" in take(shared, "theirs")

    claim.release(shared, "ours")
    assert take(shared, "theirs") == ""


def test_of_many_claimers_at_once_one_wins(shared: ClaimDir, tmp_path: Path) -> None:
    """Over a stale claim, which each of them may remove: nobody removes the winner's."""
    for attempt in range(30):
        take(shared, "stale", tmp_path / "deleted")
        pids = []
        for number in range(6):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if take(shared, "%d.%d" % (attempt, number)) == "" else 1)
            pids.append(pid)
        winners = [number for number, pid in enumerate(pids) if os.waitpid(pid, 0)[1] == 0]
        assert len(winners) == 1
        assert claim.read(shared)["id"] == "%d.%d" % (attempt, winners[0])  # type: ignore[index]
        os.unlink(shared.claim)
    assert [name for name in os.listdir(shared.root) if "state-of" not in name] == ["skyq-host.shims"]


# Between two accounts.


@as_root
def test_another_account_is_refused_with_the_owners_name(shared: ClaimDir) -> None:
    take(shared, "ours")
    assert "This machine belongs to cluster 'of-ours' of root" in as_nobody(lambda: take(shared, "theirs"))
    assert "of root" in as_nobody(lambda: take(shared, "ours"))  # whoever knows our id is not us

    claim.release(shared, "ours")
    assert as_nobody(lambda: take(shared, "theirs")) == ""
    assert "'of-theirs' of nobody" in take(shared, "ours")


@as_root
def test_another_account_neither_removes_nor_forges_a_claim(shared: ClaimDir) -> None:
    take(shared, "ours")

    def attack() -> str:
        claim.release(shared, "ours")
        for attempt in (
            lambda: os.unlink(shared.claim),
            lambda: os.rename(shared.claim, shared.claim + ".x"),
            lambda: os.close(os.open(shared.claim, os.O_WRONLY)),
            lambda: os.chmod(shared.claim, 0o666),
        ):
            try:
                attempt()
            except PermissionError:
                continue
            return "done"
        return "refused"

    assert as_nobody(attack) == "refused"
    assert claim.read(shared)["id"] == "ours"  # type: ignore[index]


@as_root
@pytest.mark.parametrize("first", ["root", "nobody"])
def test_accounts_that_follow_each_other_see_each_others_shims(shared: ClaimDir, first: str) -> None:
    """Whoever made the lock file, and whatever the umask was."""

    def hold_and_leave() -> str:
        take(shared, "old")
        os.close(claim.hold_shims_lock(shared))
        claim.release(shared, "old")
        return "left"

    assert (hold_and_leave() if first == "root" else as_nobody(hold_and_leave)) == "left"
    lock = claim.hold_shims_lock(shared)
    assert "still run" in as_nobody(lambda: take(shared, "new"))
    os.close(lock)
    assert as_nobody(lambda: take(shared, "new")) == ""


# What others may have put there.


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff\0\x1b[31m", b"[" * 4096, b'{"id": ["x"], "cluster": 7}']
)
def test_a_claim_that_makes_no_sense_is_still_somebodys(shared: ClaimDir, content: bytes) -> None:
    Path(shared.claim).write_bytes(content)

    refusal = take(shared, "ours")
    assert refusal.startswith("This machine belongs to cluster '")
    assert "\x1b" not in refusal


@pytest.mark.parametrize("name", ["claim", "shims"])
@pytest.mark.parametrize("what", ["pipe", "link", "folder"])
def test_what_is_no_file_refuses_the_machine_and_hangs_nobody(shared: ClaimDir, name: str, what: str) -> None:
    path = getattr(shared, name)
    {"pipe": os.mkfifo, "link": lambda p: os.symlink("/etc/passwd", p), "folder": os.mkdir}[what](path)
    signal.alarm(30)  # a hang would last for ever
    try:
        taken = take(shared, "ours") == ""
    finally:
        signal.alarm(0)

    assert not (taken and name == "claim")
    assert not os.path.islink(path) or os.readlink(path) == "/etc/passwd"


def test_terminal_controls_in_a_claim_are_not_shown(queue: LocalQueue) -> None:
    text = {"cluster": "x\x1b]0;owned\a\n", "id": "other", "head": "h\x9b31m", "state_dir": ""}
    (queue.claims / "skyq-host.claim").write_text(json.dumps(text))

    refused = queue.run("exec", "local", "echo never")
    assert refused.code == 1
    assert "This machine belongs to cluster 'x?]0;owned??'" in refused.err
    assert not {"\x1b", "\a", "\x9b"} & set(refused.err)
