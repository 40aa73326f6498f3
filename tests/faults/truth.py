"""What jobs find out by themselves, with the kernel's locks: skyq's own tables are no witness.

A job that probes holds a lock per device for its life (one of two slots for a half, both for a whole
one) and one for itself, and writes a line when it starts. A lock that is taken already is a violation.
"""

from __future__ import annotations

import fcntl
from collections import Counter
from pathlib import Path

from tests.cluster import LocalQueue

_PROBE = """\
cd ~/truth
claim() { eval "exec $1>>$2"; flock -n "$1"; }
id=$SKYPILOT_INTERNAL_JOB_ID
claim 10 job.$id || echo "job $id runs twice" >>violations
fd=20
for device in ${CUDA_VISIBLE_DEVICES//,/ }; do
    if [ -n "$HALF" ]; then
        claim $fd $device.a || claim $fd $device.b ||
            echo "device $device is given beyond 1, to job $id" >>violations
        fd=$((fd + 1))
    else
        claim $fd $device.a || echo "device $device is given twice, to job $id" >>violations
        claim $((fd + 1)) $device.b || echo "device $device is given twice, to job $id" >>violations
        fd=$((fd + 2))
    fi
done
echo $id >>starts
"""


class Truth:
    """The folder where the jobs of one queue leave what they saw."""

    def __init__(self, queue: LocalQueue) -> None:
        self.folder = queue.user_home / "truth"
        self.folder.mkdir()

    @staticmethod
    def script(then: str = "") -> str:
        """A command that probes, and then does something."""
        return _PROBE + then

    def starts(self) -> Counter[int]:
        """How often each job has started."""
        return Counter(int(line) for line in self._lines("starts"))

    def lives(self, job: int) -> bool:
        """Whether a process of a job that has probed lives: its descriptors hold the job's lock."""
        try:
            with open(self.folder / ("job.%d" % job)) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False  # it never started
        except BlockingIOError:
            return True
        return False

    def violations(self) -> list[str]:
        """What must never be."""
        return self._lines("violations")

    def _lines(self, name: str) -> list[str]:
        path: Path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []
