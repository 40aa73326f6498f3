# ruff: noqa: I002
"""Where skyq.pyz starts: finds its own code unpacked, and hands over to it.

build_zipapp.py makes this file the `__main__.py` of skyq.pyz. A zip's main module is compiled anew at each
start, so it is small and imports nothing; what only a first start needs is in unpack.py. It parses on every
Python since 2.7, which is why types are comments here: an old one shall read a sentence, not a SyntaxError.
"""

import os
import sys

from skyq.folders import keep_compiled, mine, places  # build_zipapp.py puts that module in place of this

ON_A_NODE = (["_setup"], ["_node"])  # verbs that an older Python can run, see skyq/landing.py
CODE = ""  # filled in by build_zipapp.py: the id of the code in the file, and the name of its folder


def run():
    # type: () -> None
    """Start skyq from its unpacked code, which is unpacked now if this is the first start."""
    pyz = os.path.abspath(os.path.dirname(__file__))
    if sys.version_info < (3, 10) and not (sys.version_info >= (3, 8) and sys.argv[1:2] in ON_A_NODE):
        from skyq import pythons

        pythons.replace_this_one(pyz)
    for place in places():
        root = os.path.join(place, CODE)
        if mine(root) and mine(place):
            break
    else:
        from skyq import unpack

        root = unpack.code(pyz, CODE)
        forget()  # what was imported so far came from the zip, which may be replaced while this process lives
    sys.path[0] = root
    keep_compiled()
    try:
        from skyq import entry
    except ImportError:
        forget()
        sys.path[0] = pyz
        from skyq import unpack

        back = []  # type: list[str]
        unpack.code(pyz, CODE, back)
        if not back:
            raise
        sys.exit("skyq: files of it were deleted in %s. They are back: try again." % root)
    entry.start(pyz)


def forget():
    # type: () -> None
    """What is imported from now on is read anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "skyq"]:
        del sys.modules[name]


if __name__ == "__main__":
    run()
