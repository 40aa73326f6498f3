"""Random jobs that note on their nodes' disks what really happened to them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

TRUTH = "truth"
"""A folder in each node's home: `log`, a line per event, and `locks`, held by all that lives of a job."""

_SCRIPT = """\
t=~/truth; mkdir -p $t/locks
say() { echo "$* $EPOCHREALTIME" >>$t/log; }
r=${SKYPILOT_NODE_RANK:-0}
say start @token@ $r
lock() { exec {fd}>>$t/locks/$1 && flock -xn $fd; }
lock @token@.$r || say twice @token@ $r
for d in ${CUDA_VISIBLE_DEVICES//,/ }; do
    if [ @half@ = yes ]; then lock $d.a || lock $d.b || say double @token@ $d
    else { lock $d.a && lock $d.b; } || say double @token@ $d; fi
done
@habit@
for ((i = 1; i <= @lines@; i++)); do echo "$i @token@ $r"; sleep @pause@; done
@bulk@
say end @token@ $r @code@
exit @code@
"""
_HABITS = {
    "plain": ":",
    "stubborn": "trap '' TERM",
    "forks away": "setsid sleep 3600 </dev/null >/dev/null 2>&1 & (setsid sleep 3600 &) >/dev/null 2>&1",
    "keeps the log open": "sleep 3600 &",
}
BULK = 300_000
"""Bytes, of which some jobs print so many in one line."""


@dataclass
class Job:
    """One submit: what was asked for, and what the submitter knows of it."""

    token: str
    nodes: int
    gpus: float
    lines: int
    pause: float
    code: int
    habit: str
    bulk: bool
    setup: str
    """"", "well" or "fails"."""
    job_id: int = 0
    """As it was acknowledged; 0: nobody said so."""
    cancelled: bool = False
    """Whether a cancel was ever sent for it."""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def any(cls, dice: random.Random, number: int) -> Job:
        """A random one."""
        nodes = dice.choice([1, 1, 1, 1, 2, 2, 3, 4])
        return cls(
            token="j%04d" % number,
            nodes=nodes,
            gpus=dice.choice([0, 0.5, 0.5, 1, 1, 2, 4, 8]) if nodes == 1 else dice.choice([0, 1, 4, 8]),
            lines=dice.choice([1, 5, 20, 60]),
            pause=dice.choice([0.01, 0.1, 0.2]),
            code=dice.choice([0, 0, 0, 3]),
            habit=dice.choice(list(_HABITS)),
            bulk=dice.random() < 0.1,
            setup=dice.choice(["", "", "", "", "well", "fails"]),
        )

    @property
    def task(self) -> str:
        """A task file."""
        fill = {
            "token": self.token,
            "half": "yes" if self.gpus == 0.5 else "no",
            "habit": _HABITS[self.habit],
            "lines": str(self.lines),
            "pause": str(self.pause),
            "bulk": "head -c %d /dev/zero | tr '\\0' x; echo" % BULK if self.bulk else ":",
            "code": str(self.code),
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

    def log(self, rank: int) -> bytes:
        """What a rank prints when nobody disturbs it."""
        text = "".join("%d %s %d\n" % (number, self.token, rank) for number in range(1, self.lines + 1))
        return text.encode() + (b"x" * BULK + b"\n" if self.bulk else b"")
