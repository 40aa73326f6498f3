"""Arrays and sweeps: one command, many jobs that differ in a number or in some variables. Pure.

The grammar of `--array` is Slurm's: 0-99, 0-99:5, 1,3,7-9, each with %8 behind it for "at most 8 at once".
"""

from __future__ import annotations

import itertools
import math
import re

from skyq.core.errors import TaskError
from skyq.core.model import Batch
from skyq.core.request import MAX_NAME, check_envs, check_text, show, valid_env_name
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Sequence, Tuple

MAX_JOBS = 10_000
"""Of one command."""
MAX_INDEX = 999_999_999
_RANGE = r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?"
_STEPS = r"(-?\d{1,9})\.\.(-?\d{1,9})(?:\.\.(-?\d{1,9}))?"
_TWINS = "SKYPILOT_", "SKYQ_"


class Element(NamedTuple):
    """What one job of a batch has that the others haven't."""

    name: Optional[str]
    envs: Dict[str, str]
    """What it sweeps over: for `envs` of the task."""
    facts: Dict[str, str]
    """Variables that say which one of how many it is."""


def batch_of(array: Optional[str], sweeps: Sequence[str], at_once: Optional[int]) -> Optional[Batch]:
    """What the flags --array, --sweep and --at-once ask for; None: a single job. Raises TaskError."""
    indices: Tuple[int, ...] = ()
    if array is not None:
        text, percent, most = array.partition("%")
        indices = _indices(text)
        if percent and at_once is not None:
            raise TaskError("--array says with % how many run at once, and --at-once too. Give one of them.")
        if percent:
            at_once = int(most) if re.fullmatch(r"[0-9]{1,9}", most) else 0
    elif not sweeps and at_once is not None:
        raise TaskError("--at-once is for many jobs: give --array or --sweep too.")
    if at_once is not None and not 0 < at_once <= MAX_INDEX:
        raise TaskError("How many run at once should be a positive number: --array 0-99%8, or --at-once 8.")
    if array is None and not sweeps:
        return None
    found = Batch(indices, tuple(map(_sweep, sweeps)), at_once or 0)
    names = [name for name, _ in found.sweeps]
    if len(set(names)) < len(names):
        raise TaskError("--sweep names a variable twice. Give all of its values at once: lr=1e-3,3e-3")
    _check_count(size(found))
    return found


def _check_count(jobs: int) -> None:
    if jobs > MAX_JOBS:
        raise TaskError("That is %d jobs; one command takes at most %d." % (jobs, MAX_JOBS))


def _indices(text: str) -> Tuple[int, ...]:
    found: List[range] = []
    for part in text.split(","):
        match = re.fullmatch(_RANGE, part.strip(), re.ASCII)
        first, last, step = (int(n) if n else None for n in match.groups()) if match else (None, None, None)
        if first is None or step == 0 or (last is not None and last < first):
            raise TaskError(
                "--array should be like 0-99, 0-99:5 or 1,3,7-9, and %%8 behind it for at most 8 "
                "at once. Found: %s" % show(text)
            )
        found.append(range(first, (first if last is None else last) + 1, step or 1))
    _check_count(sum(map(len, found)))
    return tuple(dict.fromkeys(itertools.chain.from_iterable(found)))


def _sweep(text: str) -> Tuple[str, Tuple[str, ...]]:
    name, equals, values = text.partition("=")
    if not equals or not valid_env_name(name):
        raise TaskError("--sweep should be NAME=VALUE,VALUE,... or NAME=0..9. Found: %s" % show(text))
    steps = re.fullmatch(_STEPS, values, re.ASCII)
    if not steps:
        return name, tuple(dict.fromkeys(check_text("The sweep", values).split(",")))
    first, last, step = (int(n) if n else 0 for n in steps.groups())
    step = step or (1 if last >= first else -1)
    found = range(first, last + (1 if step > 0 else -1), step)
    if not found:
        raise TaskError("--sweep %s goes nowhere: with this step it never gets there." % show(text))
    _check_count(len(found))
    return name, tuple(map(str, found))


def size(batch: Batch) -> int:
    """How many jobs it is."""
    return math.prod(len(values) for _, values in batch.sweeps) * (len(batch.indices) or 1)


def elements(batch: Batch, name: Optional[str]) -> List[Element]:
    """Of each job, in the order of their ids: the last variable changes fastest, an index faster still.

    `name`: the task's; "train" becomes train-7, or train-lr-1e-3-seed-0. Raises TaskError for values that
    no environment takes.
    """
    count = size(batch)
    found = []
    keys = [key for key, _ in batch.sweeps]
    combinations = itertools.product(*(values for _, values in batch.sweeps))
    for place, (values, index) in enumerate(itertools.product(combinations, batch.indices or (None,))):
        envs = dict(zip(keys, values))
        check_envs(envs, {})
        ends = [text for pair in envs.items() for text in pair] + ([] if index is None else [str(index)])
        facts = {"SKYQ_ARRAY_INDEX": str(place if index is None else index)}
        for twin in _TWINS:  # the names that SkyPilot has for the jobs of `jobs launch --num-jobs`
            facts.update({twin + "JOB_RANK": str(place), twin + "NUM_JOBS": str(count)})
        found.append(Element(name and _named(name, ends), envs, facts))
    return found


def _named(name: str, ends: Sequence[str]) -> str:
    """A valid name, see check_name(): what can't stand in one becomes a line, what is too long is cut."""
    whole = "-".join([name, *ends])
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", whole)
    return re.sub(r"([._-]{2})[._-]+", r"\1", plain)[:MAX_NAME].rstrip("._-")


def uuid_of(first: str, place: int) -> str:
    """The uuid of a job of a batch, given that of the first one: its submit, once more, is the same jobs."""
    return "%s%08x" % (first[:24], place) if place else first
