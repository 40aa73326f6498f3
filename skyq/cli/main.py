"""The command line: finds the verb's module, runs it, and turns every error into a sentence and a code."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from skyq import __version__, program
from skyq.cli.verbs import VERBS
from skyq.core.errors import SkyqError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HIDDEN = {
    "_dispatcher": "internal",
    "_node": "internal",
    "_courier": "internal",
    "_setup": "setup",
    "_agent": "agent",
    "tick": "tick",
}
ABORTED = 1

_HELP = """Usage: skyq COMMAND [ARGS]...

A GPU job queue on machines you can ssh into, or on this one.

Commands:
%s

Options:
  -v, --version  Show the version
  -h, --help     Show this text; `skyq COMMAND -h` tells about one command

Examples:
  skyq exec local -- nvidia-smi                  run a command on this machine
  skyq exec local task.yaml --gpus H100:2 -d     queue a task that needs 2 devices
  skyq queue local                               what runs, what waits and why
  skyq logs local 3                              follow job 3
  skyq cancel local 3                            end it

Exit codes: 0 success, 1 error, 2 wrong usage; of a job that is followed or asked for:
  100 failed, 101 not finished, 102 not found, 103 cancelled
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    _standard_streams()
    if (os.getuid(), os.getgid()) != (os.geteuid(), os.getegid()):
        complain(
            "skyq doesn't run with the rights of another account than yours (set-uid). Start it as it is."
        )
        return 1
    os.umask(0o077)  # whatever is made here is for this account only; a job gets its own umask
    try:
        return guarded(lambda: _run(words))
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ABORTED


def guarded(run: Callable[[], int]) -> int:
    """What it returns, or the exit code of its error, which is told. A broken pipe is no error of its own."""
    try:
        return run()
    except SkyqError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("Aborted!")
        return ABORTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("SKYQ_DEBUG"):
            raise
        deleted = program.mended() if isinstance(error, ImportError) else ""
        complain(deleted or _unexpected(error))
        return 1


def _standard_streams() -> None:
    """See that all three are there and take any text: a missing one's number would be the database's."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(null, "w" if number else "r"))
        elif number and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP % "\n".join("  %-10s %s" % (verb, text) for verb, (_, text) in VERBS.items()), end="")
        return 0 if words else 2
    verb, rest = words[0], words[1:]
    if verb in ("-v", "--version"):
        print("skyq " + __version__)
        return 0
    if verb == "_complete":
        return int(import_module("skyq.cli.completion").complete(rest))
    if verb in HIDDEN:
        return int(import_module("skyq.cli." + HIDDEN[verb]).main(verb, rest))
    if verb not in VERBS:
        raise UsageError(_no_such_verb(verb))
    code = int(import_module("skyq.cli." + VERBS[verb][0]).main(rest))
    sys.stdout.flush()
    return code


def _no_such_verb(verb: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(verb, VERBS, 1)
    kind = "option" if verb.startswith("-") else "command"
    hint = " Did you mean `skyq %s`?" % close[0] if close else ""
    return "Usage: skyq COMMAND [ARGS]...\nTry 'skyq -h' for help.\n\nError: No such %s: %s%s" % (
        *(kind, verb if verb.isprintable() else repr(verb)),
        hint,
    )


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return "%s: %s" % (error.filename or "skyq", error.strerror)
    return "%s: %s\nThis is a mistake in skyq; SKYQ_DEBUG=1 shows where." % (type(error).__name__, error)


def complain(text: str) -> None:
    """To standard error, made harmless; whoever can't hear it won't."""
    from re import sub

    from skyq.core.logtext import plain

    # It may quote what others wrote; its own lines and tabs stay.
    harmless = sub(r"[^\n\t]+", lambda part: plain(part[0]), text)
    try:
        print(harmless, file=sys.stderr)
    except (OSError, ValueError):
        pass
