"""A log is what the job wrote, byte for byte, however much and whatever it is; and it fills no memory.

SKYQ_TEST_LOG_MB sets the size of the large log.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import LocalQueue, Record

MEGABYTES = int(os.environ.get("SKYQ_TEST_LOG_MB", "100"))
MOST_MEMORY = 60  # MB at any moment, of each process; the log is larger
LOOK_AGAIN = 0.005  # seconds between two looks at memory

WRITER = """\
import hashlib, os, random, sys
digest, left, source = hashlib.sha256(), int(sys.argv[1]) * 1024 * 1024, random.Random(7)
def put(data):
    digest.update(data)
    while data:
        data = data[os.write(1, data):]
put(b"bad \\xff\\xfe\\xc3( utf-8\\x00\\x1b[31m\\n")
put(b"".join(b"\\r%3d%%" % n for n in range(101)) + b"\\n")
put(b"dos\\r\\n" * 1000)
put(b"x" * 300_000 + b"\\n")
put(b"y\\n" * 1024 * 1024)  # many short lines
put(b"\\r" * 1024 * 1024)
put(b"z" * 5 * 1024 * 1024 + b"\\n")
while left > 0:
    put(source.randbytes(1024 * 1024))
    left -= 1024 * 1024
put(b"the end \\xe2\\x82")  # half a character, and no newline
print(digest.hexdigest(), file=open(sys.argv[2], "w"))
"""


def writing(queue: LocalQueue, megabytes: int = 1) -> str:
    """The shell line of a job that writes all that, and tells its hash to a file."""
    writer, told = queue.file("writer.py", WRITER), queue.user_home / "sha256"
    return "%s -I -S %s %d %s" % (sys.executable, writer, megabytes, told)


def sha256(path: Path) -> str:
    """Of a file of any size."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1024 * 1024):
            digest.update(chunk)
    return digest.hexdigest()


def drained(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """How much a command printed in all, and the end of that."""
    assert process.stdout is not None
    count, end = 0, b""
    while chunk := process.stdout.read1(1024 * 1024):  # type: ignore[attr-defined]
        count, end = count + len(chunk), (end + chunk)[-1000:]
    process.communicate(timeout=60)
    return count, end


def peak(pid: int) -> float:
    """MB that a process has ever had in memory: what the kernel counted, no peak falls between two looks."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/%d/status" % pid).read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


@contextmanager
def watched_memory(**pids: int) -> Iterator[dict[str, float]]:
    """The peaks of these processes, complete after the block."""
    peaks = dict.fromkeys(pids, 0.0)
    ended = threading.Event()

    def watch() -> None:
        while True:
            for name, pid in pids.items():
                peaks[name] = max(peaks[name], peak(pid))
            if ended.wait(LOOK_AGAIN):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def assert_flat(peaks: dict[str, float]) -> None:
    """Each was seen, and stayed small."""
    assert min(peaks.values()) > 1, "not seen: %s" % peaks
    assert max(peaks.values()) < MOST_MEMORY, "MB: %s" % peaks


def test_a_large_log_is_what_was_written_and_fills_no_memory(queue: LocalQueue) -> None:
    job_id = queue.submit("%s; %s" % (queue.until_open(), writing(queue, MEGABYTES)))
    queue.wait(job_id, "RUNNING")
    following = queue.start("logs", "local", "--tail", "0")
    pids = {"dispatcher": queue.dispatcher().pid, "node agent": queue.node_agent().pid}
    with watched_memory(**pids, logs=following.pid) as peaks:
        queue.open_gate()
        shown, end = drained(following)
    record: Record = queue.wait(job_id, "SUCCEEDED")

    raw = Path(record["log_path"]) / "tasks" / "run.log"
    assert sha256(raw) == queue.until_file("sha256").strip(), queue.evidence()
    assert following.returncode == 0
    assert shown > MEGABYTES * 1024 * 1024
    assert b"the end \xe2\x82\n" in end
    assert_flat(peaks)

    fetching = queue.start("logs", "local", "-s", str(job_id))
    with watched_memory(fetch=fetching.pid) as peaks:
        drained(fetching)
    (copy,) = (queue.user_home / "sky_logs").glob("local/*/tasks/run.log")
    assert sha256(copy) == sha256(raw)
    assert_flat(peaks)


@pytest.mark.parametrize("options", [["--no-follow"], ["--tail", "5"], []], ids=" ".join)
def test_looking_at_the_end_of_a_log_of_any_bytes_fills_no_memory(
    queue: LocalQueue, options: list[str]
) -> None:
    queue.ok("exec", "local", "-q", "-d", writing(queue, 10))
    queue.wait(1, "SUCCEEDED")
    looking = queue.start("logs", "local", *options)
    with watched_memory(logs=looking.pid) as peaks:
        _, end = drained(looking)

    assert b"the end \xe2\x82\n" in end
    assert looking.returncode == 0
    assert_flat(peaks)


def test_a_fetched_log_of_any_bytes_is_the_raw_one(queue: LocalQueue) -> None:
    queue.ok("exec", "local", "-d", writing(queue))
    queue.wait(1, "SUCCEEDED")
    queue.ok("logs", "local", "-s", "1")

    (copy,) = (queue.user_home / "sky_logs").glob("local/*/tasks/run.log")
    assert copy.read_bytes() == queue.raw_log(1)
    assert sha256(copy) == queue.until_file("sha256").strip()


def test_ctrl_c_on_a_streaming_exec_leaves_the_job_and_logs_goes_on_without_loss(queue: LocalQueue) -> None:
    script = "seq 2000; %s; seq 2001 4000" % queue.until_open()
    streaming = queue.start("exec", "local", script)
    assert streaming.stdout is not None
    while b") 1000\n" not in (line := streaming.stdout.readline()):
        assert line, queue.evidence()
    streaming.send_signal(signal.SIGINT)
    streaming.communicate(timeout=60)
    assert queue.states() == {1: "RUNNING"}

    again = queue.start("logs", "local", "--tail", "0")
    queue.open_gate()
    out, _ = again.communicate(timeout=60)
    lines = [line.partition(") ")[2] for line in out.decode().splitlines() if line.startswith("(")]
    assert lines == [str(number) for number in range(1, 4001)]
    assert again.returncode == 0
    assert queue.states() == {1: "SUCCEEDED"}
