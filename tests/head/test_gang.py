"""Jobs on several nodes: all ranks or none, also when a node or the dispatcher is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from skyq.core.model import ENDING, Recovery, TimeLimit
from skyq.head import limits, specs
from skyq.head.head import Head
from tests.head.gang import Cluster
from tests.waiting import wait_until

Make = Callable[..., Cluster]


def until(cluster: Cluster, name: str) -> str:
    """A shell line that lasts until that file is there."""
    return "until [ -e %s/%s ]; do sleep 0.02; done" % (cluster.root, name)


def test_every_rank_has_its_number_its_devices_and_the_same_addresses(make: Make) -> None:
    cluster = make(3)
    say = "echo $SKYPILOT_NODE_RANK of $SKYPILOT_NUM_NODES $CUDA_VISIBLE_DEVICES $SKYPILOT_NODE_IPS"
    job = cluster.submit(say, nodes=2, gpus=4)
    cluster.wait(job, "SUCCEEDED")
    assert cluster.log(job, "run-0") == b"0 of 2 0,1,2,3 10.0.0.0 10.0.0.1\n"
    assert cluster.log(job, "run-1") == b"1 of 2 0,1,2,3 10.0.0.0 10.0.0.1\n"


def test_the_failure_of_one_rank_ends_the_others_after_their_words_are_out(make: Make) -> None:
    cluster = make(3)
    said = "echo hi; touch %s/said$SKYPILOT_NODE_RANK; " % cluster.root
    others = " && ".join(until(cluster, "said%d" % rank) for rank in (0, 2))
    job = cluster.submit(said + "[ $SKYPILOT_NODE_RANK = 1 ] && %s && exit 7; sleep 600" % others, nodes=3)
    ended = cluster.wait(job, "FAILED")
    assert ended.exit_codes[1] == 7 and ended.reason.startswith("rank 1")
    wait_until(
        lambda: [cluster.log(job, "run-%d" % rank) for rank in range(3)] == [b"hi\n"] * 3,
        "what they said is here",
        evidence=cluster.evidence,
    )
    assert not [p for p in cluster.processes() if "sleep" in p.name()]


def test_who_can_not_start_a_rank_holds_up_nobody(make: Make) -> None:
    """The gang is sent back before any rank ran, and starts without that node."""
    cluster = make(3)
    os.makedirs(cluster.run_dir(1, "torn", "run-1").alive)  # what should be a lock is a folder
    job = cluster.submit("echo $SKYPILOT_NODE_RANK >> %s/ran" % cluster.root, nodes=2, uuid="torn")
    ended = cluster.wait(job, "SUCCEEDED")
    assert [grant.node for grant in ended.grants] == ["node0", "node2"] and ended.attempt == 2
    assert sorted((cluster.root / "ran").read_text().split()) == ["0", "1"]


def test_a_gang_that_waits_for_an_unreachable_node_to_get_ready_starts_elsewhere(make: Make) -> None:
    cluster = make(3)
    first = cluster.submit("true", nodes=3)
    cluster.wait(first, "SUCCEEDED")
    agent = cluster.agents(1)[0]
    agent.send_signal(signal.SIGSTOP)
    job = cluster.submit("echo $SKYPILOT_NODE_RANK >> %s/ran" % cluster.root, nodes=2)
    cluster.wait(job, "RUNNING")
    cluster.cut(1)
    ended = cluster.wait(job, "SUCCEEDED")
    assert [grant.node for grant in ended.grants] == ["node0", "node2"]
    assert sorted((cluster.root / "ran").read_text().split()) == ["0", "1"]


def test_a_job_on_an_unreachable_node_is_held_and_gets_its_real_result(make: Make) -> None:
    cluster = make(2, lost_after=1.0, gpus=2)
    keep = cluster.submit(until(cluster, "keep"), gpus=2)
    job = cluster.submit("%s; echo done; exit 9" % until(cluster, "go"), gpus=2)
    wait_until(lambda: cluster.job(job).pids, "it runs", evidence=cluster.evidence)
    cluster.cut(1)
    wait_until(lambda: "unreachable since" in (cluster.store.get("trouble")), "it is seen")
    (cluster.root / "go").touch()
    exit_record = cluster.run_dir(1, job, "run-0").exit
    wait_until(lambda: os.path.exists(exit_record), "it ends while nobody sees it")
    (cluster.root / "keep").touch()
    cluster.wait(keep, "SUCCEEDED")
    assert cluster.job(job).state == "RUNNING"
    cluster.heal(1)
    assert cluster.wait(job, "FAILED").exit_codes == (9,)
    wait_until(lambda: cluster.log(job, "run-0") == b"done\n", "its log is whole", evidence=cluster.evidence)


def test_a_gang_fails_when_one_of_its_nodes_is_lost_and_leaves_nothing_there(make: Make) -> None:
    cluster = make(3, lost_after=1.0)
    job = cluster.submit("echo $$ >> %s/pids; sleep 600" % cluster.root, nodes=3, gpus=8)
    pids = cluster.root / "pids"
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 3, "all ranks run")
    cluster.cut(2)
    ended = cluster.wait(job, "FAILED_DRIVER")
    assert "node2" in ended.reason and "unreachable since" in ended.reason
    alive = [pid for pid in pids.read_text().split() if os.path.exists("/proc/" + pid)]
    assert len(alive) == 1, "the lost node's rank can't be reached"

    after = cluster.submit("[ ! -e /proc/%s ]" % alive[0], nodes=3, gpus=8)
    cluster.heal(2)
    cluster.wait(after, "SUCCEEDED")


def test_a_lost_gang_is_run_again_where_asked_for_once_nothing_of_it_can_live(make: Make) -> None:
    """Two nodes would be free for it. But rank 1 still runs on the lost one."""
    cluster = make(3, lost_after=1.0)
    script = "echo $$ >> %s/pids; echo ran; [ $SKYQ_ATTEMPT = 2 ] || sleep 600" % cluster.root
    job = cluster.submit(script, nodes=2, gpus=8, recovery=Recovery(requeue=True))
    pids = cluster.root / "pids"
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "all ranks run")
    cluster.cut(1)
    cluster.wait(job, "PENDING")
    other = cluster.submit("true", nodes=2, gpus=8)
    cluster.wait(other, "SUCCEEDED")
    waits = cluster.job(job)
    assert (waits.state, waits.awaits, waits.number) == ("PENDING", ("node1",), 2)
    told = Head(cluster.where, "lab").reasons([waits])[waits.id]
    assert "node1 has been unreachable" in told and "waits until nothing can run on node1" in told

    cluster.kill_dispatcher()
    cluster.start()
    assert cluster.job(job).state == "PENDING"
    cluster.heal(1)
    assert cluster.wait(job, "SUCCEEDED").number == 2
    assert len(pids.read_text().split()) == 4
    wait_until(
        lambda: all(cluster.log(job, "run-%d" % r, n) == b"ran\n" for r in (0, 1) for n in (1, 2)),
        "the logs of both attempts are here",
        evidence=cluster.evidence,
    )
    wait_until(lambda: not cluster.store.owed_logs(), "nothing is owed", evidence=cluster.evidence)


def test_the_log_of_a_lost_rank_comes_also_if_its_node_is_back_before_the_others_have_ended(
    make: Make,
) -> None:
    """Nobody asks for that rank any more when the job ends: it has only been told to stop."""
    cluster = make(2, lost_after=0.0)
    script = "echo up; %s; echo more; touch %s/said.$SKYPILOT_NODE_RANK; sleep 600"
    job = cluster.submit(script % (until(cluster, "go"), cluster.root), nodes=2)
    wait_until(lambda: len(cluster.job(job).pids) == 2, "it runs", evidence=cluster.evidence)
    slow = cluster.agents(0)[0]
    slow.send_signal(signal.SIGSTOP)
    cluster.cut(1)
    wait_until(lambda: "unreachable since" in (cluster.store.get("trouble")), "it is lost")
    (cluster.root / "go").touch()
    wait_until((cluster.root / "said.1").exists, "there is more to come")
    cluster.heal(1)
    ended = Path(cluster.run_dir(1, job, "run-1").exit)
    wait_until(ended.exists, "its rank ends as it is back", evidence=cluster.evidence)
    slow.send_signal(signal.SIGCONT)

    assert cluster.wait(job, "FAILED_DRIVER").reason.startswith("node node1 has been unreachable")
    wait_until(lambda: cluster.log(job, "run-1") == b"up\nmore\n", "its log comes", evidence=cluster.evidence)
    wait_until(lambda: not cluster.store.owed_logs(), "nothing is owed", evidence=cluster.evidence)


def test_a_failing_gang_is_run_again_as_a_whole(make: Make) -> None:
    cluster = make(3)
    script = "echo $SKYPILOT_NODE_RANK in $SKYQ_ATTEMPT; [ $SKYQ_ATTEMPT$SKYPILOT_NODE_RANK != 11 ]"
    job = cluster.submit(script, nodes=3, gpus=8, recovery=Recovery(retries=1))
    assert cluster.wait(job, "SUCCEEDED").reason == "finished, in attempt 2"
    for number in (1, 2):
        wait_until(
            lambda n=number: all(
                cluster.log(job, "run-%d" % r, n) == b"%d in %d\n" % (r, n) for r in range(3)
            ),
            "the logs of attempt %d are here" % number,
            evidence=cluster.evidence,
        )


def test_other_jobs_go_on_and_the_lost_node_is_skipped(make: Make) -> None:
    cluster = make(3)
    cluster.wait(cluster.submit("true", nodes=3), "SUCCEEDED")
    cluster.cut(1)
    wait_until(lambda: "node1" in cluster.store.get("trouble"), "it is seen")
    job = cluster.submit("true", nodes=2, gpus=8)
    assert [grant.node for grant in cluster.wait(job, "SUCCEEDED").grants] == ["node0", "node2"]


def test_jobs_do_not_notice_the_death_of_the_dispatcher(make: Make) -> None:
    cluster = make(3)
    script = "echo $SKYPILOT_NODE_RANK >> %s/ran; seq 20000; %s; echo end"
    job = cluster.submit(script % (cluster.root, until(cluster, "go")), nodes=3)
    wait_until(lambda: len(cluster.job(job).pids) == 3, "all run", evidence=cluster.evidence)
    cluster.kill_dispatcher()
    (cluster.root / "go").touch()
    cluster.start()
    cluster.wait(job, "SUCCEEDED")
    whole = b"".join(b"%d\n" % number for number in range(1, 20001)) + b"end\n"
    for rank in range(3):
        wait_until(lambda rank=rank: cluster.log(job, "run-%d" % rank) == whole, "rank %d's log" % rank)
    assert sorted((cluster.root / "ran").read_text().split()) == ["0", "1", "2"]


def test_a_log_that_is_owed_still_comes_after_the_dispatcher_died(make: Make) -> None:
    cluster = make(2, gpus=2)
    cluster.submit(until(cluster, "never"), gpus=2)
    job = cluster.submit("%s; seq 100000" % until(cluster, "go"), gpus=2)
    wait_until(lambda: cluster.job(job).pids, "it runs", evidence=cluster.evidence)
    cluster.kill_dispatcher()
    (cluster.root / "go").touch()
    wait_until(lambda: os.path.exists(cluster.run_dir(1, job, "run-0").exit), "it ends")
    cluster.start()
    cluster.wait(job, "SUCCEEDED")
    whole = b"".join(b"%d\n" % number for number in range(1, 100001))
    wait_until(lambda: cluster.log(job, "run-0") == whole, "its log", evidence=cluster.evidence)
    wait_until(lambda: not cluster.store.owed_logs(), "nothing is owed", evidence=cluster.evidence)


def test_setup_runs_on_every_node_and_a_failed_one_stops_the_job(make: Make) -> None:
    cluster = make(3)
    job = cluster.submit("echo run", setup="echo setup $SKYPILOT_SETUP_NODE_RANK")
    cluster.wait(job, "SUCCEEDED")
    assert [cluster.log(job, "setup-%d" % index) for index in range(3)] == [
        b"setup %d\n" % index for index in range(3)
    ]
    bad = cluster.submit("echo run", setup="[ $SKYPILOT_SETUP_NODE_RANK != 2 ] || exit 5; sleep 0.1")
    assert "5" in cluster.wait(bad, "FAILED_SETUP").reason
    assert cluster.log(bad, "run-0") == b""


def test_the_order_in_which_text_came_is_kept(make: Make) -> None:
    cluster = make(2)
    turn = "while [ ! -e %s/%d ]; do sleep 0.02; done; "
    job = cluster.submit(
        "if [ $SKYPILOT_NODE_RANK = 0 ]; then echo a; %s echo c; else %s echo b; fi"
        % (turn % (cluster.root, 2), turn % (cluster.root, 1)),
        nodes=2,
    )
    index = Path(Head(cluster.where, "lab").log_folder(cluster.job(job)), "run.idx")

    def come(pieces: int) -> None:
        wait_until(lambda: len(lines()) == pieces, "%d pieces came" % pieces, evidence=cluster.evidence)

    def lines() -> list[str]:
        return index.read_text().splitlines() if index.exists() else []

    come(1)
    (cluster.root / "1").touch()
    come(2)
    (cluster.root / "2").touch()
    cluster.wait(job, "SUCCEEDED")
    assert lines() == ["run-0 0 2", "run-1 0 2", "run-0 2 2"]


def test_the_log_of_a_rank_that_a_new_dispatcher_only_had_to_stop_still_comes(
    make: Make, tmp_path: Path
) -> None:
    cluster = make(2)
    script = "echo before; until [ -e %s ]; do sleep 0.05; done; echo after; sleep 3600" % (tmp_path / "go")
    uuid = cluster.submit(script, nodes=2, gpus=8)
    wait_until(lambda: len(cluster.job(uuid).pids) == 2, "it runs", evidence=cluster.evidence)
    wait_until(lambda: cluster.log(uuid, "run-1") == b"before\n", "it speaks", evidence=cluster.evidence)
    cluster.kill_dispatcher()
    (tmp_path / "go").touch()
    there = Path(cluster.run_dir(1, uuid, "run-1").out)
    wait_until(lambda: there.read_bytes() == b"before\nafter\n", "it has more to say")
    lost = json.loads(Path(cluster.run_dir(0, uuid, "run-0").started).read_text())
    for pid, _ in (lost["shim"], lost["main"]):
        os.kill(pid, signal.SIGKILL)
    (cluster.root / "cut1").touch()  # so that rank 0 is known to be lost before anything is asked there
    cluster.start()
    wait_until(lambda: not Path(cluster.run_dir(0, uuid, "run-0").script).exists(), "that is seen")
    cluster.heal(1)
    cluster.wait(uuid, "FAILED_DRIVER")

    wait_until(
        lambda: cluster.log(uuid, "run-1") == b"before\nafter\n",
        "all of it is here",
        evidence=cluster.evidence,
    )


def test_a_gang_ends_at_its_limit_also_where_nobody_can_tell_it_to(make: Make) -> None:
    """A rank on a node that can't be reached counts by itself."""
    cluster = make(2)
    job = cluster.submit("trap 'exit 0' TERM; while :; do sleep 0.05; done", nodes=2, limit=TimeLimit(6))
    cluster.wait(job, "RUNNING")
    wait_until(lambda: os.path.exists(cluster.run_dir(1, job, "run-1").started), "rank 1 runs")
    cluster.cut(1)
    wait_until(lambda: os.path.exists(cluster.run_dir(1, job, "run-1").exit), "it has ended")
    cluster.heal(1)

    assert cluster.wait(job, "FAILED").reason == "time limit of 6s reached"


def test_what_a_lost_node_has_told_of_its_limit_is_forgotten_until_it_tells_it_again(make: Make) -> None:
    cluster = make(2)
    job = cluster.submit("sleep 600", nodes=2, limit=TimeLimit(3600))
    wait_until(lambda: limits.read(cluster.store), "it is known when it ends", evidence=cluster.evidence)
    assert 3500 < limits.read(cluster.store)[cluster.job(job).id] <= 3600 + specs.grace() + ENDING
    cluster.cut(1)
    wait_until(lambda: not limits.read(cluster.store), "it isn't", evidence=cluster.evidence)
    cluster.heal(1)
    wait_until(lambda: limits.read(cluster.store), "it is again", evidence=cluster.evidence)
