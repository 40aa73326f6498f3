"""Random jobs that note on their nodes' disks what really happened to them."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass, replace

TRUTH = "/var/tmp/truth"
"""A folder on each node: `log`, a line per event, and `locks`, held by all that lives of a job. Not in the
home, whose disk may be full."""

_SCRIPT = """\
me=@token@${SKYQ_ARRAY_INDEX:+-$SKYQ_ARRAY_INDEX} t=/var/tmp/truth; mkdir -p $t/locks
say() { echo "$*" >>$t/log; }
r=${SKYPILOT_NODE_RANK:-0} a=$SKYQ_ATTEMPT
say start $me $r $a
printf %s $me.$r.$a >/proc/self/comm
lock() { exec {fd}>>$t/locks/$1 && flock -xn $fd; }
lock $me.$r || say twice $me $r $a
for d in ${CUDA_VISIBLE_DEVICES//,/ }; do
    if [ @half@ = yes ]; then lock $d.a || lock $d.b || say double $me $d
    else { lock $d.a && lock $d.b; } || say double $me $d; fi
done
[ @files@ = no ] || [ "$(cat part? | sha256sum)" = "@files@  -" ] || say wrong-files $me $r $a
@habit@
set -o pipefail
for ((i = 1; i <= @lines@; i++)); do
    echo "$i $me $r" || say unwritten $me $r $a
    sleep @pause@
done
{ @bulk@; } || say unwritten $me $r $a
code=@code@; [ $a -le @failures@ ] || code=0
say end $me $r $a $code
exit $code
"""
_HABITS = {
    "plain": ":",
    "stubborn": "trap '' TERM",
    "forks away": "setsid sleep 3600 </dev/null >/dev/null 2>&1 & (setsid sleep 3600 &) >/dev/null 2>&1",
    "keeps the log open": "sleep 3600 &",
}
BULK = 300_000
"""Bytes, of which some jobs print so many in one line."""
CODE = 3
"""What fails, fails with this one."""
ALWAYS = 999
"""Failures, of which some jobs have more than retries."""
PARTS, PART = 8, 256 * 1024  # files of a workdir, and their bytes


@dataclass
class Job:
    """One submit: what was asked for, and what the submitter knows of it."""

    token: str
    nodes: int = 1
    gpus: float = 0
    lines: int = 1
    pause: float = 0.01
    failures: int = 0
    """How many attempts fail by themselves, the first ones."""
    habit: str = "plain"
    bulk: bool = False
    setup: str = ""
    """"", "well" or "fails"."""
    retries: int = 0
    requeue: bool = False
    files: str = ""
    """The hash of its workdir, if it has one."""
    job_id: int = 0
    """As it was acknowledged; 0: nobody said so."""
    cancelled: bool = False
    """Whether a cancel was ever sent for it."""
    began: float = 0.0
    """When it was submitted; monotonic."""
    many: int = 1
    """How many jobs it is: an array, of which two at most run at once."""

    @classmethod
    def any(cls, dice: random.Random, token: str) -> Job:
        """A random one."""
        nodes = dice.choice([1, 1, 1, 1, 2, 2, 3, 4])
        return cls(
            token=token,
            nodes=nodes,
            gpus=dice.choice([0, 0.5, 0.5, 1, 1, 2, 4, 8]) if nodes == 1 else dice.choice([0, 1, 4, 8]),
            lines=dice.choice([1, 5, 20, 60]),
            pause=dice.choice([0.01, 0.1, 0.2]),
            failures=dice.choice([0, 0, 0, 0, 1, 2, ALWAYS]),
            habit=dice.choice(list(_HABITS)),
            bulk=dice.random() < 0.1,
            setup=dice.choice(["", "", "", "", "", "", "well", "fails"]),
            retries=dice.choice([0, 0, 0, 1, 2]),
            requeue=dice.random() < 0.4,
            many=dice.choice([1] * 11 + [4]),
            began=time.monotonic(),
        )

    @property
    def words(self) -> list[str]:
        """What is typed behind `skyq`, besides flags for the workdir."""
        verb = ["launch", "-c", "lab"] if self.setup else ["exec", "lab"]
        retries = ["--retries", str(self.retries)] if self.retries else []
        array = ["--array", "0-%d%%2" % (self.many - 1)] if self.many > 1 else []
        requeue = ["--requeue"] if self.requeue else []
        return [*verb, "-d", *retries, *requeue, *array, self.token + ".yaml"]

    @property
    def each(self) -> list[Job]:
        """The jobs that it is."""
        if self.many == 1:
            return [self]
        return [replace(self, token="%s-%d" % (self.token, number), many=1) for number in range(self.many)]

    @property
    def task(self) -> str:
        """A task file."""
        fill = {
            "token": self.token,
            "half": "yes" if self.gpus == 0.5 else "no",
            "files": self.files or "no",
            "habit": _HABITS[self.habit],
            "lines": str(self.lines),
            "pause": str(self.pause),
            "bulk": "head -c %d /dev/zero | tr '\\0' x; echo" % BULK if self.bulk else ":",
            "code": str(CODE),
            "failures": str(self.failures),
        }
        script = _SCRIPT
        for name, value in fill.items():
            script = script.replace("@%s@" % name, value)
        lines = ["name: " + self.token, "num_nodes: %d" % self.nodes]
        if self.gpus:
            lines.append("resources: {accelerators: 'H100:%g'}" % self.gpus)
        if self.setup:
            lines.append("setup: echo set up; exit %d" % (9 if self.setup == "fails" else 0))
        return "\n".join([*lines, "run: |", *("  " + line for line in script.splitlines())]) + "\n"

    def shown(self, rank: int) -> list[str]:
        """The lines that a rank prints when nobody disturbs it, without the long one."""
        return ["%d %s %d" % (number, self.token, rank) for number in range(1, self.lines + 1)]

    def log(self, rank: int) -> bytes:
        """All that it prints then."""
        text = "".join(line + "\n" for line in self.shown(rank))
        return text.encode() + (b"x" * BULK + b"\n" if self.bulk else b"")


def files_hash(parts: list[bytes]) -> str:
    """What a job's `files` is, of the files' contents in the order of their names."""
    return hashlib.sha256(b"".join(parts)).hexdigest()
