"""Command lines with click's habits: options anywhere before `--`, no abbreviations, its error words."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from skyq.core.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """One verb's parser. `usage` is what stands after `skyq VERB`."""

    def __init__(self, verb: str, usage: str, about: str, examples: str = "") -> None:
        super().__init__(
            prog="skyq " + verb,
            usage="skyq %s %s" % (verb, usage),
            description=about,
            epilog="examples:\n" + examples if examples else None,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )

    def read(self, words: list[str]) -> argparse.Namespace:
        """Parse; what stands after `--` is in `after`, a list, or None where there is no `--`."""
        at = words.index("--") if "--" in words else len(words)
        found, extra = self.parse_known_intermixed_args(words[:at])
        if extra:
            option = next((word for word in extra if word.startswith("-")), extra[0])
            self.error("No such option: %s" % option.split("=")[0])
        found.after = words[at + 1 :] if at < len(words) else None
        return found

    def error(self, message: str) -> NoReturn:
        """Click's layout, exit code 2."""
        raise UsageError(
            "%s\nTry '%s -h' for help.\n\nError: %s"
            % (self.format_usage().strip().replace("usage:", "Usage:", 1), self.prog, message)
        )


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Of a width that is given: argparse imports shutil to find out, even where no help is printed."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


def confirm(question: str, default: bool) -> bool:
    """Ask on the terminal; no answer at all (no terminal, end of file) is no."""
    out = sys.__stdout__  # a question is asked even where the rest is muted
    print(question + (" [Y/n]: " if default else " [y/N]: "), end="", flush=True, file=out)
    while True:
        answer = sys.stdin.readline()
        if not answer:
            print(file=out)
            return False
        word = answer.strip().lower()
        if word in ("y", "yes", "n", "no", ""):
            return default if not word else word.startswith("y")
        print("Error: invalid input\n" + question + ": ", end="", flush=True, file=out)


@contextmanager
def muted(quiet: bool) -> Iterator[None]:
    """Where `quiet`, what is printed for people goes nowhere; errors and questions still come."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
