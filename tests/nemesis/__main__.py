"""`python -m tests.nemesis --seed 7 --jobs 200 --minutes 5` (as root): random jobs, from two clients, and
random faults, at once; then all is healed and must be as it must be. A failure prints seed and history.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.nemesis.run import Nemesis
from tests.ssh.test_upgrade import NEWER, build


def main() -> int:
    """Exit code 0 where all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--longest", type=float, default=60.0, help="seconds that a fault may last")
    parser.add_argument("--keep", type=Path, help="a new folder for what was on the machines, if it fails")
    parser.add_argument("--history", action="store_true", help="print it also if all was well")
    found = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="skyq-nemesis-"))
    try:
        newer = build(folder / "newer", NEWER)
        nemesis = Nemesis(folder, found.seed, found.jobs, newer)
        nemesis.keep = found.keep
        print("seed %d" % found.seed, flush=True)
        wrong = nemesis.run(found.minutes * 60, found.longest)
        print(nemesis.summary(wrong))
        if wrong or found.history:
            print("\n".join(["", *nemesis.history, "", *wrong]))
        return 1 if wrong else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
