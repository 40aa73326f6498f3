"""What jobs find out by themselves on each node, with the kernel's locks: skyq's own tables are no witness.

A rank holds, for its life, two locks for each whole device, one of the two for a half, and one for its job:
two ranks of a job on one node are a violation, as is a device given beyond 1. The files are in the node's own
/var/tmp.
"""

from __future__ import annotations

from collections import Counter

from tests.lab import Host, Lab

FOLDER = "/var/tmp/witness"
PROBE = """\
mkdir -p -m 700 %s && cd %s
claim() { eval "exec $1>>$2"; flock -n "$1"; }
id=$SKYPILOT_INTERNAL_JOB_ID
claim 10 job.$id || echo "job $id is twice here" >>violations
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
    echo $device >>devices
done
echo $id >>starts
""" % (FOLDER, FOLDER)


class Witness:
    """What the jobs of a cluster saw, all since the lab was booted first."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def starts(self) -> Counter[int]:
        """Job → how many ranks of it have started."""
        return Counter(int(line) for node in self._lab.nodes for line in self._lines(node, "starts"))

    def violations(self) -> list[str]:
        """What must never be."""
        found = []
        for node in self._lab.nodes:
            found += ["%s: %s" % (node.name, line) for line in self._lines(node, "violations")]
        return found

    def devices(self, node: str) -> set[int]:
        """Those that were given at all."""
        return {int(line) for line in self._lines(self._lab.host(node), "devices")}

    @staticmethod
    def _lines(node: Host, name: str) -> list[str]:
        path = node.path("%s/%s" % (FOLDER, name))
        return path.read_text().splitlines() if path.exists() else []
