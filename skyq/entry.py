"""The way from an interpreter to the command line: from skyq.pyz (boot.py), from the unpacked folder and from
a source checkout (__main__.py).
"""

from __future__ import annotations

import sys

from skyq import program

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself costs milliseconds of each start
    from typing import NoReturn


def start(pyz: str = "") -> NoReturn:
    """Run the command line, and leave with its exit code."""
    program.begin(pyz)
    try:
        from skyq.cli.main import main
    except ImportError:
        if mended := program.mended():
            sys.exit(mended)
        raise

    sys.exit(main())
