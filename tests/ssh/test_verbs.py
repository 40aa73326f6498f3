"""Verbs typed on a laptop, over real SSH: what they show of several nodes, and how they take a lost way."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.lab import Host, Lab
from tests.ssh.remote import ON, Remote, commands
from tests.waiting import wait_until

COUNT = "for i in $(seq 5); do echo $i; done"


def agents(host: Host) -> list[int]:
    """Processes there that serve a laptop's verb."""
    return [process.pid for process, words in commands(host) if "_agent" in words.split()]


def lines_of(text: str, label: str) -> list[str]:
    """What one rank said."""
    return re.findall(r"^\(%s\) (.*)$" % label, text, re.MULTILINE)


def test_lines_name_rank_and_node_and_the_fetched_logs_are_byte_by_byte(cluster: Remote) -> None:
    script = "%s; printf 'bad \\xff\\n'" % COUNT
    said = cluster.ok("exec", "lab", "-n", "two", "--num-nodes", "2", *ON["node1"][:1], "H100:8", script)
    job = max(cluster.jobs().values(), key=lambda record: record["job_id"])
    names = [grant["node"] for grant in job["nodes"]]
    fetched = cluster.ok("logs", "lab", "-s", str(job["job_id"]))

    for rank, name in enumerate(names):
        node = cluster.lab.host(name)
        number = int(name[len("node") :])
        label = r"worker%d, rank=%d, pid=\d+, ip=%s" % (number, rank, re.escape(node.address))
        label = label if number else r"head, rank=%d, pid=\d+" % rank
        assert lines_of(said.out, label)[:5] == list("12345"), str(said)
        assert cluster.raw(job, rank) == b"1\n2\n3\n4\n5\nbad \xff\n"
        raw = "sky_logs/lab/%d-two/tasks/%d-%s.log" % (
            *(job["job_id"], rank),
            "worker%d" % number if number else "head",
        )
        assert (cluster.client.home / raw).read_bytes() == cluster.raw(job, rank)
    merged = (cluster.client.home / ("sky_logs/lab/%d-two/run.log" % job["job_id"])).read_bytes()
    assert merged.count(b") 5\n") == 2 and merged.count(b"bad \xff\n") == 2
    assert fetched.lines[-1] == "Job %d logs: /home/ada/sky_logs/lab/%d-two" % ((job["job_id"],) * 2)


def test_a_followed_log_goes_on_after_the_laptop_was_cut_off(cluster: Remote) -> None:
    first, second = cluster.gate(), cluster.gate()
    script = "%s; %s; echo between; %s; %s" % (COUNT, first.wait, second.wait, COUNT)
    following = cluster.start("exec", "lab", *ON["node1"], script)
    assert following.stdout is not None
    read = b""
    while b") 5\n" not in read:
        read += following.stdout.readline()
    cluster.lab.cut("client", "node0")
    first.open()
    cluster.until(lambda: not agents(cluster.head), "the agent gives up, too")
    cluster.lab.heal("client", "node0")
    second.open()
    out, err = following.communicate(timeout=120)
    text = (read + out).decode()

    assert following.returncode == 0, err
    assert lines_of(text, r"worker1, .*") == [*"12345", "between", *"12345"]
    assert text.count("Job submitted, ID: ") == 1
    assert err.decode().count("Connecting again") == 1


def test_connections_that_break_while_one_submits_make_no_second_job(cluster: Remote) -> None:
    before = len(cluster.jobs(at=cluster.head))
    for number in range(3):
        submitting = cluster.start("exec", "lab", "-d", "true")
        # It is there for a moment only, and cluster.until() looks too seldom to be sure to see it.
        ended = submitting.poll
        wait_until(lambda ended=ended: agents(cluster.head) or ended() is not None, "the laptop comes")
        cluster.hang_up("node0")
        out, err = submitting.communicate(timeout=120)
        assert submitting.returncode == 0, err
        assert out.count(b"Job submitted, ID: ") == 1
        assert len(cluster.jobs(at=cluster.head)) == before + number + 1


def test_ctrl_c_at_a_terminal_leaves_the_job_and_ends_the_agent(cluster: Remote) -> None:
    screen = cluster.terminal("exec", "lab", *ON["node2"], "echo one; sleep 600")
    screen.expect("\x1b[0m one")
    assert agents(cluster.head)
    screen.type("\x03")

    assert screen.wait() == 1
    assert "Aborted!" in screen.screen
    cluster.until(lambda: not agents(cluster.head), "the agent ends", within=5)
    assert max(cluster.jobs().items())[1]["status"] == "RUNNING"


def test_a_prompt_at_a_terminal_is_asked_here_and_obeyed_there(cluster: Remote) -> None:
    job = cluster.submit("sleep 600")
    cluster.wait(job, "RUNNING")
    for keys, state in (("n\n", "RUNNING"), ("y\n", "CANCELLED")):
        screen = cluster.terminal("cancel", "lab", str(job))
        screen.expect("Proceed? [Y/n]: ")
        screen.type(keys)
        screen.wait()
        cluster.wait(job, state)


def test_two_laptops_see_one_queue(cluster: Remote) -> None:
    other = Remote(cluster.lab, "client2")
    other.file(".skyq/pools.yaml", (cluster.client.home / ".skyq/pools.yaml").read_text())
    mine = cluster.submit("true")
    theirs = ids_in(other.ok("exec", "lab", "-d", "true", env={"SKYQ_USER": "grace"}).out)

    assert theirs == [mine + 1]
    assert {cluster.job(i)["username"] for i in (mine, mine + 1)} == {"ada", "grace"}
    assert cluster.jobs() == other.jobs() == cluster.jobs(at=cluster.head)


def ids_in(out: str) -> list[int]:
    return [int(found) for found in re.findall(r"Job submitted, ID: (\d+)", out)]


def test_down_on_the_head_says_that_its_workers_are_still_taken(make_lab: Callable[..., Lab]) -> None:
    cluster = Remote(make_lab(2)).pool(nodes=["node0", "node1"])
    cluster.ok("exec", "lab", "-q", "true")
    result = cluster.run("down", "lab", "-y", at=cluster.head)
    assert result.code == 1 and "node1 is still there" in result.err
    cluster.ok("down", "lab", "-y")
    assert not cluster.lab.node(1).path("/var/tmp/skyq-host.claim").exists()
    assert "skyq:" not in cluster.lab.node(1).read("/home/ada/.ssh/authorized_keys")
