"""What jobs on several nodes write, on its way to the laptop: live, byte for byte, whatever breaks."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Callable

from tests.lab import CTRL_C, Program
from tests.ssh.remote import SILENCE, Remote

ODD = """\
import os, sys
out = sys.stdout.buffer
rank = os.environ["SKYPILOT_NODE_RANK"].encode()
out.write(b"first of rank " + rank + b"\\n")
for percent in range(0, 101, 5):
    out.write(b"\\r%d%%" % percent)
out.write(b"\\n\\xff\\xfe\\x00\\x80 not UTF-8 \\xe2\\x82\\n" + bytes(range(256)) + b"\\n")
out.write(rank * 300000 + b"\\n" + "déjà vu €\\n".encode() + b"no newline at the end of rank " + rank)
"""


def odd(rank: int) -> bytes:
    """What that script writes."""
    done = subprocess.run(
        ["python3", "-c", ODD], env={"SKYPILOT_NODE_RANK": str(rank)}, capture_output=True, check=True
    )
    return done.stdout


class Watched:
    """What a program on the client has said so far."""

    def __init__(self, cluster: Remote, program: Program) -> None:
        self.program = program
        self._cluster = cluster
        self._text = {"out": bytearray(), "err": bytearray()}
        self._threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in (("out", program.stdout), ("err", program.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, name: str, stream: object) -> None:
        while data := stream.read1(65536):  # type: ignore[attr-defined]
            self._text[name] += data

    @property
    def out(self) -> str:
        return bytes(self._text["out"]).decode(errors="backslashreplace")

    @property
    def err(self) -> str:
        return bytes(self._text["err"]).decode(errors="backslashreplace")

    def until(self, condition: Callable[[str], object], what: str, within: float = 90.0) -> None:
        """Waits until that is true of its output."""
        try:
            self._cluster.until(lambda: condition(self.out), what, within)
        except AssertionError as error:
            raise AssertionError("%s\n%s\n%s" % (self.out[-3000:], self.err[-3000:], error)) from None

    def end(self) -> int:
        """Its exit code, once it ended."""
        code = self.program.wait(90)
        for thread in self._threads:
            thread.join(10)
        return code


def test_lines_of_all_ranks_are_seen_while_the_job_runs(cluster: Remote) -> None:
    gate = cluster.gate()
    script = "echo rank $SKYPILOT_NODE_RANK is here; %s; echo rank $SKYPILOT_NODE_RANK leaves" % gate.wait
    follower = Watched(cluster, cluster.start("exec", "lab", "--num-nodes", "4", script))
    follower.until(lambda out: len(re.findall(r"\) rank \d is here$", out, re.MULTILINE)) == 4, "all speak")

    heads = re.findall(r"^\((head|worker\d), rank=(\d), pid=\d+(?:, ip=[\d.]+)?\) rank", follower.out, re.M)
    assert sorted(heads) == [("head", "0"), ("worker1", "1"), ("worker2", "2"), ("worker3", "3")]
    assert not re.search(r"\) rank \d leaves", follower.out) and follower.program.poll() is None
    gate.open()
    assert follower.end() == 0, follower.out + follower.err
    assert len(re.findall(r"\) rank \d leaves$", follower.out, re.MULTILINE)) == 4


def test_ctrl_c_leaves_the_job_running_and_logs_shows_it_again(cluster: Remote) -> None:
    gate = cluster.gate()
    terminal = cluster.terminal("exec", "lab", "--num-nodes", "2", "echo $((40 + 2)); %s" % gate.wait)
    terminal.expect(" 42\r\n")
    terminal.type(CTRL_C)
    terminal.wait()
    job = max(cluster.jobs())
    assert "Traceback" not in terminal.screen
    assert cluster.job(job)["status"] == "RUNNING"

    again = Watched(cluster, cluster.start("logs", "lab", str(job)))
    again.until(lambda out: out.count(") 42\n") == 2, "both ranks are shown")
    again.program.send_signal(signal.SIGINT)
    again.end()
    assert "Traceback" not in again.err
    assert cluster.job(job)["status"] == "RUNNING"
    gate.open()
    cluster.wait(job, "SUCCEEDED")


def test_raw_logs_are_exact_on_the_head_and_where_they_are_fetched_to(cluster: Remote) -> None:
    script = cluster.file("odd.yaml", "num_nodes: 3\nrun: |\n  python3 -c '\n%s\n  '\n" % indented(ODD))
    job = cluster.submit(script)
    record = cluster.wait(job, "SUCCEEDED")
    for rank in range(3):
        cluster.until_raw(record, rank, odd(rank))

    cluster.ok("logs", "lab", "-s", str(job))
    fetched = sorted((cluster.client.home / "sky_logs" / "lab").glob("*/tasks/*-*.log"))
    fetched = [path for path in fetched if path.parent.parent.name.startswith("%d-" % job)]
    assert [path.read_bytes() for path in fetched] == [odd(rank) for rank in range(3)], fetched


def indented(script: str) -> str:
    return "\n".join("  " + line for line in script.splitlines())


def test_a_log_that_is_followed_goes_on_after_a_partition_without_gap_or_twin(cluster: Remote) -> None:
    gate = cluster.gate()
    script = "until [ -e ~/%s ]; do echo line $((i += 1)); sleep 0.1; done; echo end $i; exit 3" % gate.file
    follower = Watched(cluster, cluster.start("exec", "lab", "--gpus", "A100:1", script))
    follower.until(lambda out: ") line 5\n" in out, "it begins")
    cluster.lab.cut("client")
    cluster.until(lambda: "Connecting again" in follower.err, "the silence is noticed", SILENCE + 60)
    shown = follower.out
    cluster.lab.heal("client")
    follower.until(lambda out: out != shown, "it goes on")
    gate.open()

    assert follower.end() == 100, follower.out + follower.err
    lines = re.findall(r"\) (line \d+|end \d+)$", follower.out, re.MULTILINE)
    last = int(lines[-1].split()[1])
    assert lines == [*("line %d" % number for number in range(1, last + 1)), "end %d" % last]
    assert follower.out.count("Job submitted, ID") == 1 and follower.out.count("Job started") == 1
    assert follower.err.count("Connecting again") == 1, follower.err


def test_who_follows_is_not_disturbed_when_the_heads_sshd_drops_everybody(cluster: Remote) -> None:
    gate = cluster.gate()
    script = "echo before; %s; echo after; exit 4" % gate.wait
    follower = Watched(cluster, cluster.start("exec", "lab", "--gpus", "A100:1", script))
    follower.until(lambda out: ") before\n" in out, "it begins")
    cluster.hang_up("node0")
    cluster.until(lambda: "Connecting again" in follower.err, "it is noticed")
    gate.open()

    assert follower.end() == 100, follower.out + follower.err
    assert [len(re.findall(r"\) %s$" % word, follower.out, re.M)) for word in ("before", "after")] == [1, 1]
