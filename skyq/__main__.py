"""`python -m skyq` in a checkout, and what runs from an unpacked skyq.pyz without it: see program.argv()."""

from __future__ import annotations

import os.path
import sys

if __name__ == "__main__":
    # Run as a file, Python puts this folder first, or with -I nothing; neither finds the package.
    here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and sys.path[0] == here:
        del sys.path[0]
    sys.path.insert(0, os.path.dirname(here))
    from skyq import entry

    entry.start()
