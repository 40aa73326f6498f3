"""The flags that `exec` and `launch` share, and the way from them to a checked Task."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from skyq.cli.parser import Parser, confirm
from skyq.core import after
from skyq.core.errors import SkyqError, TaskError, UsageError
from skyq.core.model import Batch, Task
from skyq.core.request import Overrides, command_task, pool_of, valid_env_name

_NOT_HERE = {
    "--cloud": 1,
    "--region": 1,
    "--zone": 1,
    "--instance-type": 1,
    "-t": 1,
    "--image-id": 1,
    "--network-tier": 1,
    "--disk-size": 1,
    "--disk-tier": 1,
    "--local-disk": 1,
    "--ports": 1,
    "--config": 1,
    "--use-spot": 0,
    "--no-use-spot": 0,
    "--async": 0,
    "--no-async": 0,
}
"""SkyPilot's flags that have no object here: accepted, with one line that says so."""


def add_task_flags(parser: Parser) -> None:
    """The flags that describe the task."""
    parser.add_argument("words", nargs="*", metavar="ENTRYPOINT", help=argparse.SUPPRESS)
    parser.add_argument("-c", "--cluster", help=argparse.SUPPRESS)
    add = parser.add_argument
    add("-d", "--detach", "--detach-run", dest="detach", action="store_true", help="return once it is queued")
    add("-n", "--name", help="the job's name")
    add("--gpus", metavar="TYPE[:COUNT]", help="devices per node: H100:4, H100:0.5, GPU:1; none clears them")
    add("--cpus", metavar="N", help="CPUs per node, counted")
    add("--memory", metavar="GB", help="memory per node, counted")
    add("--num-nodes", type=int, metavar="N", help="how many nodes run it")
    add("--env", action="append", default=[], metavar="K=V", help="a variable; K alone copies this shell's")
    add("--env-file", metavar="FILE", help="variables from a dotenv file")
    add("--secret", action="append", default=[], metavar="K=V", help="like --env, its value shown nowhere")
    add("--secret-file", metavar="FILE", help="secrets from a dotenv file")
    add("--workdir", metavar="DIR", help="the folder to run in, copied for the job")
    add("--git-url", metavar="URL", help="instead: a repository to fetch")
    add("--git-ref", metavar="REF", help="its branch, tag or commit")
    add("--priority", type=int, metavar="N", help="-1000 to 1000; higher starts first")
    add("--retries", type=int, metavar="N", help="run it again when it fails, so many times at most")
    add("--requeue", action="store_true", help="run it again when it is lost with its machine")
    add("--time", metavar="TIME", help="end it after so long: 90s, 30m, 2h, 1-12:00:00; none: never")
    add("--signal", metavar="NAME[@TIME]", help="what it gets so long before that: USR1@60, USR1@5m")
    for flag, kind, what in _AFTER:
        add(flag, dest="after_" + kind, action="append", default=[], metavar="JOBS", help=what)
    add("--array", metavar="0-99%8", help="many jobs, one for each number; at most 8 of them run at once")
    add("--sweep", action="append", default=[], metavar="K=V,V", help="many jobs, one for each value of K")
    add("--at-once", type=int, metavar="N", help="how many of them run at once, at most")
    add("--dryrun", action="store_true", help="only tell where it would start now, or why it would wait")
    add("-q", "--quiet", action="store_true", help="print only what the job prints; with -d only its id")
    add("--accept-new-host-keys", action="store_true", help="don't ask about hosts that are met first")
    add("--infra", help=argparse.SUPPRESS)
    for flag, arguments in _NOT_HERE.items():
        if arguments:
            add(flag, action=_Ignored, help=argparse.SUPPRESS)
        else:
            add(flag, action=_Ignored, nargs=0, help=argparse.SUPPRESS)


_AFTER = (
    ("--after", after.OK, "start once these jobs have succeeded: ids or names, with commas"),
    ("--after-any", after.ANY, "once they have ended, however that was"),
    ("--after-failed", after.FAILED, "once they have failed"),
)


def _after(found: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """The jobs to wait for, as typed, each with what shall have become of it."""
    given = [(each, kind) for _, kind, _ in _AFTER for each in getattr(found, "after_" + kind)]
    return tuple((word.strip(), kind) for each, kind in given for word in each.split(",") if word.strip())


def _batch(found: argparse.Namespace) -> Batch | None:
    if found.array is None and not found.sweep and found.at_once is None:
        return None
    from skyq.core.batch import batch_of

    return batch_of(found.array, found.sweep, found.at_once)


class _Ignored(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):  # type: ignore[no-untyped-def]
        seen = getattr(namespace, "ignored", [])
        namespace.ignored = [*seen, option_string]


def entrypoint(found: argparse.Namespace) -> tuple[list[str], bool]:
    """(words, quoted): what follows the cluster, and whether its words keep their quoting."""
    words = found.words + (found.after or [])
    return words, bool(found.after) and not found.words


def read_task(found: argparse.Namespace, words: list[str], quoted: bool, verb: str) -> Task:
    """The task that the command line describes; says on the screen what it took the words for.

    Several words after `--` keep their quoting; one word, and words without `--`, are a shell line.
    """
    words_over_it = overrides(found)
    line = shlex.join(words) if quoted and len(words) > 1 else " ".join(words)
    source, text = _task_text(words, line)
    if text is None:
        print("Command to run: " + _one_line(line))
        return command_task(line, words_over_it)
    from skyq.core.taskfile import is_task_text, load_task

    if not _named_yaml(source) and not is_task_text(text):
        shown = line if source != "-" else text
        print("Command to run: " + _one_line(shown))
        return command_task(shown, words_over_it)
    task = load_task(text, source, words_over_it, verb)
    print("YAML to run: " + source)
    return task


def _task_text(words: list[str], line: str) -> tuple[str, str | None]:
    """(name, text) of the task file, or text None when the words are a command."""
    if words == ["-"]:
        # What isn't UTF-8 is told of like that of any other command.
        return "-", sys.stdin.buffer.read(2 * 1024 * 1024).decode(errors="surrogateescape")
    path = os.path.expanduser(line)
    if "\n" not in line and len(line) < 4096 and os.path.isfile(path):
        return line, _file_text(path, line)
    if _named_yaml(line) and " " not in line:
        if os.path.isdir(path):
            raise TaskError("%s is a folder, not a task file." % line)
        _ask_about_missing(line)
    return line, None


def _file_text(path: str, shown: str) -> str | None:
    """None for what can't be a task file: a program, a script."""
    try:
        with open(path, "rb") as file:
            data = file.read(2 * 1024 * 1024)
    except OSError as error:
        raise TaskError("%s can't be read: %s." % (shown, error.strerror)) from None
    if not _named_yaml(shown) and (data[:2] == b"#!" or b"\0" in data[:4096]):
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        if _named_yaml(shown):
            raise TaskError("%s is not UTF-8 text. Save it as UTF-8." % shown) from None
        return None


def _named_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _ask_about_missing(name: str) -> None:
    question = (
        "'%s' looks like a yaml path but does not exist. Please check if the path is correct.\n"
        "It will be treated as a command to be run remotely. Continue?" % name
    )
    if not confirm(question, default=False):
        raise SkyqError("Aborted!")


def overrides(found: argparse.Namespace) -> Overrides:
    """What the flags say over a task. Raises UsageError, TaskError."""
    if found.workdir is not None and not os.path.isdir(os.path.expanduser(found.workdir)):
        raise UsageError("Invalid value for '--workdir': Directory '%s' does not exist." % found.workdir)
    pool = pool_of(found.infra) if found.infra else None
    ignored = (["--infra"] if found.infra and not pool else []) + found.ignored
    if ignored:
        warn("%s: no meaning here, ignored." % ", ".join(ignored))
    env_file = _dotenv(found.env_file)
    return Overrides(
        name=found.name,
        gpus=found.gpus,
        cpus=found.cpus,
        memory=found.memory,
        num_nodes=found.num_nodes,
        priority=found.priority,
        retries=found.retries,
        requeue=found.requeue,
        after=_after(found),
        batch=_batch(found),
        time=found.time,
        signal=found.signal,
        envs={**env_file, **_pairs(found.env, "env")},
        secrets={**_dotenv(found.secret_file), **_pairs(found.secret, "secret")},
        workdir=found.workdir,
        git_url=found.git_url,
        git_ref=found.git_ref,
        pool=getattr(found, "pool", None) or pool or "",
        env_file=env_file,
    )


def _dotenv(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    from skyq.core.dotenv import parse_dotenv

    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            return parse_dotenv(file.read(1024 * 1024), path, os.environ)
    except FileNotFoundError:
        raise UsageError("Dotenv file does not exist: %s" % path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("Dotenv file can't be read: %s: %s" % (path, error)) from None


def _pairs(given: list[str], kind: str) -> dict[str, str]:
    """`K=V`, or `K` for this shell's value. A secret's value is never part of an error."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not valid_env_name(name):
            shown = text if kind == "env" else name
            raise UsageError("Invalid %s key: %s. A name is letters, digits and _." % (kind, shown))
        if not equals:
            if name not in os.environ:
                raise UsageError("%s is not set in local environment." % name)
            value = os.environ[name]
        pairs[name] = value
    return pairs


def warn(text: str) -> None:
    """One yellow line on stderr."""
    from skyq.cli.render import Style

    style = Style.of(sys.stderr.isatty(), os.environ)
    print(style.yellow("Warning: " + text), file=sys.stderr)


def _one_line(line: str) -> str:
    from skyq.core.logtext import plain

    first, newline, _ = line.partition("\n")
    return plain(first) + (" …" if newline else "")


def without_setup(task: Task) -> Task:
    """The task as `launch --no-setup` runs it."""
    return task._replace(setup=None)


def for_exec(task: Task) -> Task:
    """The task as `exec` runs it: setup and file_mounts are for `launch`."""
    return task._replace(setup=None, file_mounts={})
