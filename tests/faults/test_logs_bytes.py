"""A log is what the job wrote, byte for byte, whatever that was and however much; and memory stays flat."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import LocalQueue, kill

SIZE = int(os.environ.get("SKYQ_TEST_LOG_MB", "64")) * 1024 * 1024
MEMORY = 64 * 1024 * 1024  # bytes; far below the size of these logs where that is raised, and above a Python
WRITER = """
import hashlib, os, sys
kind, size, told = sys.argv[1], int(sys.argv[2]), sys.argv[3]
blocks = {
    "lines": b"".join(b"line %d of the log\\n" % n for n in range(50000)),
    "one endless line": b"x" * 2**20,
    "progress bars": b"\\r".join(b"%3d%% |####    | frame" % n for n in range(40000)),
    "any bytes": None,
}
digest, written = hashlib.sha256(), 0
while written < size:
    block = blocks[kind] or os.urandom(2**20)
    digest.update(block)
    written += len(block)
    while block:
        block = block[os.write(1, block):]
open(told, "w").write("%s\\n" % digest.hexdigest())
"""
MEASURE = """
import os, resource, sys
null = os.open(os.devnull, os.O_RDWR)
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
_, status = os.waitpid(pid, 0)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
KINDS = ("lines", "one endless line", "progress bars", "any bytes")


def writer(queue: LocalQueue, kind: str, size: int = SIZE) -> list[str]:
    """A command that writes so many bytes of a kind, and their hash into ~/sha."""
    program = queue.file("writer.py", WRITER)
    return [sys.executable, str(program), kind, str(size), str(queue.user_home / "sha")]


def sha(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def most_memory(queue: LocalQueue, *words: str) -> int:
    """Bytes that a command took at most; its output goes nowhere.

    A small process measures: a child's account begins with what its parent has at the fork.
    """
    argv = [sys.executable, "-I", "-S", "-c", MEASURE, *queue.program, *words]
    done = subprocess.run(argv, env=queue.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0, queue.evidence()
    return int(done.stdout) * 1024


@pytest.mark.parametrize("kind", KINDS)
def test_a_huge_log_is_what_was_written_and_nobody_holds_it_in_memory(queue: LocalQueue, kind: str) -> None:
    followed = most_memory(queue, "exec", "local", "--", *writer(queue, kind))
    own = {process.cmdline()[-2]: process.memory_info().rss for process in queue.own_processes()}
    shown = most_memory(queue, "logs", "local", "1", "--no-follow")
    ended = most_memory(queue, "logs", "local", "1", "--no-follow", "--tail", "3")

    assert sha(queue.log_folder(1) / "tasks" / "run.log") == queue.until_file("sha").strip()
    assert max(followed, shown, ended, *own.values()) < MEMORY, (followed, shown, ended, own)


def test_what_is_shown_holds_all_that_was_written(queue: LocalQueue) -> None:
    """Each line once, in order, with its prefix: also the one that was cut by a chunk's end."""
    result = queue.ok("exec", "local", "--", *writer(queue, "lines", 4 * 1024 * 1024))

    shown = "".join(line.partition(") ")[2] + "\n" for line in result.lines if line.startswith("(sky-cmd"))
    assert hashlib.sha256(shown.encode()).hexdigest() == queue.until_file("sha").strip()


def test_the_log_of_a_job_that_outlived_dispatcher_and_agent_is_whole(queue: LocalQueue) -> None:
    job = queue.submit("seq 100000; touch ~/half; %s; seq 100000" % queue.until_open())
    queue.until((queue.user_home / "half").exists, "half of it is written")
    kill(queue.dispatcher())
    queue.open_gate()
    queue.wait(job, "SUCCEEDED")

    assert queue.log(job) == "".join("%d\n" % number for number in range(1, 100001)) * 2


def test_lines_of_two_writers_at_once_are_not_torn(queue: LocalQueue) -> None:
    """Both outputs and every child append to one file."""
    write = 'for n in {1..1000}; do echo "$i $n" >&$((i % 2 + 1)); done'
    queue.ok("exec", "local", "for i in 1 2 3 4; do (%s) & done; wait" % write)

    lines = queue.log(1).splitlines()
    for writer in "1234":
        own = [line for line in lines if line.startswith(writer + " ")]
        assert own == ["%s %d" % (writer, number) for number in range(1, 1001)]
    assert len(lines) == 4000


def test_a_job_without_room_for_its_log_gets_the_error_itself(queue: LocalQueue) -> None:
    """The log is the script's own descriptor: nobody else may swallow what could not be written."""
    queue.run("exec", "local", "ulimit -f 8; trap '' XFSZ; seq 100000 || echo failed >&2; exit 3")

    assert queue.job(1)["exit_codes"] == [3]
    assert len(queue.raw_log(1)) <= 8 * 1024
