"""The words of a request, from the command line or a task file: names, accelerators, CPUs, memory.

Standard library only, and little of it: `exec` of a command must not pay for YAML or pydantic.
Runs on Python 3.8. The messages in quotes are SkyPilot's, so that its users find them again.
"""

from __future__ import annotations

import re

from skyq.core.errors import TaskError
from skyq.core.model import (
    ANY_POOL,
    DEFAULT_CPUS,
    UNIT,
    Batch,
    Git,
    Recovery,
    Request,
    Task,
    TimeLimit,
    without_secrets,
)
from skyq.core.typed import NamedTuple
from skyq.core.words import DAY, HOUR, MINUTE, duration, parsed_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple, TypeAlias

COMMAND_NAME = "sky-cmd"
"""The name of a task that is a bare command (SkyPilot's)."""
MAX_NAME = 63
MAX_SPEC = 1 << 20
"""Bytes of a task file, and of a command."""
MAX_ENV = 128 * 1024
"""Bytes of all envs and secrets together: one string of an exec may not be longer on Linux."""
MAX_ALTERNATIVES = 64
MAX_NODES = 100_000
MAX_NUMBER = 1_000_000
"""Of devices, CPUs, GB per node: above it is a slip of the finger, and integers stay small."""
PRIORITIES = (-1000, 1000)
MAX_RETRIES = 1000
SIGNALS = ("HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT")
"""What a job may get before its time limit."""
BEFORE = 60
"""Seconds before it, where only a signal is named (Slurm's)."""
LONGEST_TIME = 3650 * DAY
LONGEST_ID = 18
"""Digits of a job's id that a database takes."""

# Patterns stay text: re compiles the few that a command needs when it needs them.
_NAME = r"[a-zA-Z0-9]+(?:[._-]{1,2}[a-zA-Z0-9]+)*"
_ACCELERATOR = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_BY_MEMORY = r"[0-9][0-9.]*\s*(?:(?:[KMGTkmgt][iI]?[bB]?)\+?|\+)"
_ENV_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"
# No leading zeros: to YAML 1.1 `0777` was 511, and nobody who writes it means 777 devices.
_NUMBER = r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_CLOCK = r"(?:([0-9]{1,4})-)?([0-9]{1,6})(?::([0-5][0-9]))?(?::([0-5][0-9]))?"
_VENDORS = frozenset({"nvidia", "amd", "intel", "huawei", "ascend", "google", "aws"})
_GB = {"": 1024, "G": 1024, "GB": 1024, "M": 1, "MB": 1, "T": 1024 * 1024, "TB": 1024 * 1024}

Choice: TypeAlias = "Tuple[str, int]"
"""An accelerator as typed, and how much of it per node: UNIT is one whole device."""


class Overrides(NamedTuple):
    """What the command line says over a task file; None and empty: nothing said."""

    name: Optional[str] = None
    gpus: Optional[str] = None
    """As typed; the word none clears the task's accelerators."""
    cpus: Optional[str] = None
    memory: Optional[str] = None
    num_nodes: Optional[int] = None
    priority: Optional[int] = None
    envs: Dict[str, str] = {}
    secrets: Dict[str, str] = {}
    workdir: Optional[str] = None
    git_url: Optional[str] = None
    git_ref: Optional[str] = None
    pool: str = ""
    """See Task.pool."""
    env_file: Dict[str, str] = {}
    """What of `envs` an --env-file said: a secret that the task file leaves open may be there too."""
    retries: Optional[int] = None
    requeue: bool = False
    after: Tuple[Tuple[str, str], ...] = ()
    """See Task.after."""
    batch: Optional[Batch] = None
    """See Task.batch."""
    time: Optional[str] = None
    """As typed; the word none clears the task's limit, and its signal."""
    signal: Optional[str] = None

    def __repr__(self) -> str:
        return "Overrides(%s)" % without_secrets(self._asdict())


NO_OVERRIDES = Overrides()


def show(value: object) -> str:
    """The value for a message: quoted, control characters escaped, short; lists and maps as brackets."""
    if isinstance(value, (dict, set, frozenset)):
        return "{...}"
    if isinstance(value, (list, tuple)):
        return "[...]"
    if isinstance(value, int) and abs(value) > 10**60:
        return "a huge number"  # Python refuses to print more than 4300 digits
    text = ascii(value) if isinstance(value, str) and unfit(value) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def unfit(text: str) -> bool:
    """Does the text hold what no file name, environment or database takes: a NUL, half a character?"""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return "\0" in text


def check_text(what: str, text: str) -> str:
    """The text, if it can go into a file, an environment and a database; else TaskError, without the text."""
    if unfit(text):
        raise TaskError("%s holds a NUL byte or is not valid UTF-8. Remove it." % what)
    if len(text) > MAX_SPEC:
        raise TaskError("%s is longer than 1 MiB. Put it into a file of the workdir." % what)
    return text


def check_name(name: str) -> str:
    """The task name, if it is one (SkyPilot's rule, and at most 63 characters); else TaskError."""
    if len(name) > MAX_NAME or not re.fullmatch(_NAME, name):
        raise TaskError(
            "Invalid task name %s. Use letters and digits, with one or two of . _ - between them, "
            "at most %d characters: my-task" % (show(name), MAX_NAME)
        )
    return name


def id_range(word: str) -> Optional[range]:
    """The ids that a word stands for, "7" or "12-111"; None: it is neither. Of a number too long for any
    job's id, none.
    """
    first, dash, last = word.partition("-")
    if not all(part.isascii() and part.isdigit() for part in ((first, last) if dash else (first,))):
        return None
    if max(len(first), len(last)) > LONGEST_ID:
        return range(0)
    return range(int(first), int(last if dash else first) + 1)


def valid_env_name(name: str) -> bool:
    """Can this be the name of an environment variable? ASCII only, as in SkyPilot's schema."""
    return bool(re.fullmatch(_ENV_NAME, name))


def check_envs(envs: Dict[str, str], secrets: Dict[str, str]) -> None:
    """TaskError for a bad name, an unfit value, or more than MAX_ENV bytes. Never shows a value."""
    total = 0
    for key, value in [*envs.items(), *secrets.items()]:
        if not valid_env_name(key):
            raise TaskError(
                "Invalid env key: %s. Use letters, digits and _, no digit first." % show(key)[1:-1]
            )
        total += len(key) + len(check_text("The value of %s" % key, value).encode()) + 2
    if total > MAX_ENV:
        raise TaskError("Envs and secrets are %d bytes; the most is %d. Use a file." % (total, MAX_ENV))


def check_num_nodes(count: object) -> int:
    """The number of nodes, if it is a positive int; else TaskError."""
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= MAX_NODES:
        raise TaskError("num_nodes should be a positive int. Got: %s" % show(count))
    return count


def check_priority(priority: int) -> int:
    """The priority, if it lies in PRIORITIES; else TaskError."""
    if not PRIORITIES[0] <= priority <= PRIORITIES[1]:
        raise TaskError("The priority should be from %d to %d. Got: %s" % (*PRIORITIES, show(priority)))
    return priority


def check_accelerator(name: str) -> str:
    """The accelerator's name as typed, if it can be one; else TaskError. What exists the cluster knows."""
    if re.fullmatch(_BY_MEMORY, name):
        raise TaskError(
            "Accelerators by memory (%s) need a cloud's catalog, which skyq has not. "
            "Give the name that `skyq status` prints, for example H100:1." % show(name)
        )
    if not re.fullmatch(_ACCELERATOR, name):
        raise TaskError(
            "Invalid accelerator name %s. Use letters, digits, - _ and . only, "
            "as `skyq status` prints it; several alternatives are a list." % show(name)
        )
    return name


def parse_accelerators(value: object) -> Tuple[Choice, ...]:
    """The accelerator alternatives in order of preference; () for none.

    Takes SkyPilot's forms: "H100", "H100:4", "H100:0.5", "nvidia:H100:2", {H100: 4}, {H100: None},
    {"H100:4": None, …} (any of), [..] of strings (in order), a set (any of), None and "none".
    TaskError for anything else, and for counts that can't be given: not above 0, above 1 and not whole,
    finer than 1/10000.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return ()
    choices: List[Choice]
    if isinstance(value, str):
        choices = [_choice(value)]
    elif isinstance(value, dict):
        choices = [_pair(name, count) for name, count in value.items()]
    elif isinstance(value, (list, tuple)):
        choices = [_choice(item) for item in value]
    elif isinstance(value, (set, frozenset)):
        choices = [_choice(item) for item in sorted(value, key=str)]
    else:
        raise _malformed(value)
    if len(choices) > MAX_ALTERNATIVES:
        raise TaskError("%d accelerators to choose from; the most is %d." % (len(choices), MAX_ALTERNATIVES))
    return tuple(dict.fromkeys(choices))


def parse_cpus(value: object) -> Tuple[int, str]:
    """(milli-CPUs consumed per node, the text to show). "4+" consumes nothing: it describes the node."""
    number, plus, unit, text = _quantity("cpus", value)
    milli = round(number * 1000)
    if unit:
        raise _misquantity("cpus", value)
    if milli < 1 or abs(number * 1000 - milli) > 1e-6:
        raise TaskError(
            'The "cpus" field has more than 3 decimals. Found: %s. The nearest is %g.'
            % (show(value), max(milli, 1) / 1000)
        )
    return (0 if plus else milli), text


def parse_memory(value: object) -> int:
    """MB consumed per node, rounded up. A bare number is GB; "16+" consumes nothing and gives 0."""
    number, plus, unit, _ = _quantity("memory", value)
    if unit not in _GB:
        raise _misquantity("memory", value)
    exact = number * _GB[unit]
    return 0 if plus else int(exact) + (exact > int(exact))


def least(cpus: object, memory: object) -> Tuple[int, int]:
    """(milli-CPUs, MB) that a node should have, of values that were parsed already; None asks for nothing."""
    milli = 0 if cpus is None else round(_quantity("cpus", cpus)[0] * 1000)
    if memory is None:
        return milli, 0
    number, _, unit, _ = _quantity("memory", memory)
    return milli, int(number * _GB[unit])


def check_retries(count: object) -> int:
    """The number of retries, if it is one from 0 to MAX_RETRIES; else TaskError."""
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_RETRIES:
        raise TaskError("Retries should be a number from 0 to %d. Got: %s" % (MAX_RETRIES, show(count)))
    return count


def parse_time(value: object) -> int:
    """Seconds of a time limit: 90s, 30m, 2h, 1d, 1h30m; 1:30:00, 1-12, 1-12:00, 1-12:00:00, as with Slurm.

    TaskError for anything else, and for what is read in two ways: 90 is minutes to Slurm and seconds to
    others, 90:00 minutes and seconds or hours and minutes.
    """
    text = str(value).strip().lower() if isinstance(value, (str, int, float)) else ""
    seconds = parsed_duration(text.replace(" ", ""))
    clock = re.fullmatch(_CLOCK, text)
    if seconds is None and clock:
        days, *times = (None if part is None else int(part) for part in clock.groups())
        if days is None and times[2] is None:
            raise TaskError(
                "A time limit of %s can be read in two ways. Write the units: 90s, 90m, 1h30m." % show(value)
            )
        hours, minutes, rest = (number or 0 for number in times)
        seconds = (days or 0) * DAY + hours * HOUR + minutes * MINUTE + rest
    if seconds is None:
        raise TaskError(
            "A time limit is written 90s, 30m, 2h, 1d, 1h30m, or 1:30:00 (hours, minutes, seconds). Got: %s"
            % show(value)
        )
    if not 0 < seconds <= LONGEST_TIME:
        raise TaskError(
            "A time limit is a second at least, and ten years at most. Got: %s. Without one a job runs as "
            "long as it likes." % show(value)
        )
    return seconds


def parse_signal(value: object) -> Tuple[str, int]:
    """(name, seconds before the time limit) of USR1@60, SIGUSR1@5m, USR1. TaskError for anything else."""
    name, at, before = str(value).strip().partition("@")
    name = name.upper()
    name = name[3:] if name.startswith("SIG") else name
    seconds = int(before) if before.isdecimal() and len(before) < 10 else parsed_duration(before.lower())
    if not at:
        seconds = BEFORE
    if name not in SIGNALS or not seconds:
        raise TaskError(
            "A signal is written USR1@60, USR1@5m: its name, and how long before the time limit. Names: %s. "
            "Got: %s" % (", ".join(SIGNALS), show(value))
        )
    return name, seconds


def check_limit(limit: TimeLimit) -> TimeLimit:
    """The time limit, if its signal has a place in it; else TaskError."""
    if limit.signal and not limit.seconds:
        raise TaskError(
            "The signal %s is to come before the time limit, and there is none. Give one: --time 2h, or "
            "`time_limit: 2h` in the task file." % limit.signal
        )
    if limit.signal and limit.before >= limit.seconds:
        raise TaskError(
            "A signal %s before a time limit of %s would come before the start. Give less: --signal %s@%d"
            % (duration(limit.before), duration(limit.seconds), limit.signal, max(1, limit.seconds // 10))
        )
    return limit


def parse_recovery(value: object) -> Recovery:
    """What SkyPilot's `job_recovery` asks for: a strategy's name, or a map of `strategy`,
    `max_restarts_on_errors` and `recover_on_exit_codes`. Any strategy but "none" asks for a requeue after a
    loss. TaskError for anything else.
    """
    fields = value if isinstance(value, dict) else {"strategy": value}
    known = {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}
    unknown = sorted(map(str, fields.keys() - known))
    if unknown:
        raise TaskError(
            "job_recovery has strategy, max_restarts_on_errors and recover_on_exit_codes; not %s."
            % show(unknown[0])
        )
    strategy = fields.get("strategy")
    if strategy is not None and not isinstance(strategy, str):
        raise TaskError("job_recovery should be a strategy's name or a mapping. Got: %s" % show(strategy))
    codes = fields.get("recover_on_exit_codes")
    codes = [] if codes is None else codes if isinstance(codes, list) else [codes]
    for code in codes:
        if not isinstance(code, int) or isinstance(code, bool) or not 0 < code <= 255:
            raise TaskError("recover_on_exit_codes are numbers from 1 to 255. Got: %s" % show(code))
    retries = fields.get("max_restarts_on_errors")
    none = isinstance(strategy, str) and strategy.strip().lower() == "none"
    return Recovery(0 if retries is None else check_retries(retries), tuple(codes), not none)


def pool_of(infra: object) -> Optional[str]:
    """The pool that SkyPilot's `infra: ssh/NAME` names; ANY_POOL for `ssh`; None for a cloud."""
    kind, _, name = str(infra).strip().partition("/")
    return (name or ANY_POOL) if kind.lower() == "ssh" else None


def command_task(command: str, overrides: Overrides = NO_OVERRIDES) -> Task:
    """The task of a bare command. A blank command leaves `run` None: there is nothing to run."""
    text = check_text("The command", command)
    return apply(Task(name=COMMAND_NAME, run=text if text.strip() else None), overrides)


def apply(task: Task, overrides: Overrides) -> Task:
    """The task with the command line's words over it; TaskError where they make no sense.

    --gpus, --cpus and --memory go to every alternative. Envs of the command line win over the file's.
    """
    changes: Dict[str, Any] = {}
    if overrides.name is not None:
        changes["name"] = check_name(overrides.name)
    if overrides.num_nodes is not None:
        changes["num_nodes"] = check_num_nodes(overrides.num_nodes)
    if overrides.priority is not None:
        changes["priority"] = check_priority(overrides.priority)
    if overrides.workdir is not None:
        changes.update(workdir=check_text("The workdir", overrides.workdir), git=None)
    if overrides.git_url is not None or overrides.git_ref is not None:
        changes.update(workdir=None, git=_git(task, overrides))
    if overrides.cpus is not None:
        changes["cpus_shown"] = parse_cpus(overrides.cpus)[1]
        changes["least_cpus"] = least(overrides.cpus, None)[0]
    if overrides.memory is not None:
        parse_memory(overrides.memory)
        changes["least_memory"] = least(None, overrides.memory)[1]
    for field in ("after", "batch", "pool"):
        if getattr(overrides, field):
            changes[field] = getattr(overrides, field)
    changes["recovery"] = _recovery(task.recovery, overrides)
    changes["time_limit"] = _time_limit(task.time_limit, overrides)
    secrets = changes["secrets"] = {**task.secrets, **overrides.secrets}
    # A secret beats the env of its name, which may hold the same value: it goes no further than the secret.
    envs = {**task.envs, **overrides.envs}
    changes["envs"] = {key: value for key, value in envs.items() if key not in secrets}
    check_envs({**changes["envs"], **_longest(overrides.batch, secrets)}, secrets)
    return task._replace(alternatives=_overridden(task.alternatives, overrides), **changes)


def _longest(batch: Optional[Batch], secrets: Dict[str, str]) -> Dict[str, str]:
    """Of each variable that is swept over the longest value. A secret would silently win over all of them."""
    found = dict(batch.sweeps) if batch else {}
    for name in sorted(found.keys() & secrets.keys()):
        raise TaskError("%s is a secret of the task, and --sweep shows its values. Rename one." % name)
    return {name: max(values, key=lambda value: len(value.encode())) for name, values in found.items()}


def _recovery(recovery: Recovery, overrides: Overrides) -> Recovery:
    if overrides.retries is not None:
        recovery = recovery._replace(retries=check_retries(overrides.retries))
    return recovery._replace(requeue=recovery.requeue or overrides.requeue)


def _time_limit(limit: TimeLimit, overrides: Overrides) -> TimeLimit:
    if overrides.time is not None:
        none = overrides.time.strip().lower() == "none"
        limit = TimeLimit() if none else limit._replace(seconds=parse_time(overrides.time))
    if overrides.signal is not None:
        name, before = parse_signal(overrides.signal)
        limit = limit._replace(signal=name, before=before)
    return check_limit(limit)


def _git(task: Task, overrides: Overrides) -> Git:
    if overrides.workdir is not None:
        raise TaskError("Cannot specify both --workdir and --git-url/--git-ref. Give one of them.")
    before = task.git or Git("")
    git = Git(
        before.url if overrides.git_url is None else overrides.git_url,
        before.ref if overrides.git_ref is None else overrides.git_ref,
    )
    if not git.url:
        raise TaskError("--git-ref needs a repository: give --git-url too.")
    return check_git(git)


def check_git(git: Git) -> Git:
    """Refuse what git would take for an option, or a helper of its own for a program to run."""
    for what, value in (("The git url", git.url), ("The git ref", git.ref)):
        check_text(what, value)
        if value.startswith("-") or "::" in value or not value.isprintable():
            raise TaskError("%s can't be used: %s. Give a plain one." % (what, show(value)))
    return git


def _overridden(alternatives: Tuple[Request, ...], overrides: Overrides) -> Tuple[Request, ...]:
    changes: Dict[str, Any] = {}
    if overrides.cpus is not None:
        changes["cpus"] = parse_cpus(overrides.cpus)[0] or DEFAULT_CPUS
    if overrides.memory is not None:
        changes["memory"] = parse_memory(overrides.memory)
    requests = [request._replace(**changes) for request in alternatives]
    if overrides.gpus is not None:
        choices: Tuple[Tuple[Optional[str], int], ...] = parse_accelerators(overrides.gpus) or ((None, 0),)
        requests = [r._replace(accelerator=name, amount=amount) for r in requests for name, amount in choices]
    return tuple(dict.fromkeys(requests))


def _choice(text: object) -> Choice:
    """One accelerator from its text: [vendor:]name[:count]."""
    if not isinstance(text, str):
        raise _malformed(text)
    parts = [part.strip() for part in text.split(":")]
    if len(parts) > 1 and parts[0].lower() in _VENDORS and (len(parts) > 2 or _number(parts[1]) is None):
        parts = parts[1:]
    if len(parts) > 2 or not all(parts) or (len(parts) == 2 and _number(parts[1]) is None):
        raise _malformed(text)
    return _counted(parts[0], parts[1] if len(parts) == 2 else "1", parts[-1])


def _pair(name: object, count: object) -> Choice:
    """One accelerator from an entry of a map; YAML's {H100:4} is the key "H100:4" without a value."""
    if count is None or not isinstance(name, str):
        return _choice(name)
    return _counted(name.strip(), count, show(count))


def _counted(name: str, count: object, shown: str) -> Choice:
    check_accelerator(name)
    number, got = _number(count), "Got: '%s': %s." % (name, shown)
    if number is None or not number > 0:  # `not >` because NaN is not above 0 either
        raise TaskError("Accelerator count must be a positive number. %s" % got)
    if number > MAX_NUMBER:
        raise TaskError("Accelerator count is too large. %s Ask for what one node has." % got)
    if number > 1 and number != int(number):
        raise TaskError(
            "Accelerator count above 1 must be a whole number. %s Ask for %s:%d or %s:%d."
            % (got, name, int(number), name, int(number) + 1)
        )
    amount = round(number * UNIT)
    if amount < 1 or abs(number * UNIT - amount) > 1e-6:
        raise TaskError(
            "Accelerator count has more than 4 decimals. %s The nearest is %s:%g."
            % (got, name, max(amount, 1) / UNIT)
        )
    return name, amount


def _malformed(value: object) -> TaskError:
    return TaskError(
        'The "accelerators" field as a str should be <name> or <name>:<cnt>. Found: %s' % show(value)
    )


def _number(value: object) -> Optional[float]:
    """The number, perhaps infinite or NaN; None for what isn't one. A text is decimal, in ASCII."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and not (len(value) <= 64 and re.fullmatch(_NUMBER, value)):
        return None
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _quantity(name: str, value: object) -> Tuple[float, bool, str, str]:
    """(number, followed by a "+"?, its unit in capitals, the text as written)."""
    text = value.strip() if isinstance(value, str) else ""
    plus = text.endswith("+")
    bare = text[:-1].rstrip() if plus else text
    digits = bare.rstrip("GMTBgmtb")
    number = _number(digits.rstrip() if isinstance(value, str) else value)
    if number is None:
        raise _misquantity(name, value)
    if not 0 < number <= MAX_NUMBER:
        what = "is too large" if number > 0 else "should be positive"
        raise TaskError('The "%s" field %s. Found: %s' % (name, what, show(value)))
    return number, plus, bare[len(digits) :].upper(), text or str(value)


def _misquantity(name: str, value: object) -> TaskError:
    return TaskError(
        'The "%s" field should be either a number or a string "<number>+". Found: %s' % (name, show(value))
    )
