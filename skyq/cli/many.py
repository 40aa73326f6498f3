"""One question to several clusters, here and elsewhere, at once. One that can't be asked stops no other."""

from __future__ import annotations

import json
import sys

from skyq.cli import cluster
from skyq.core.errors import SkyqError
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from skyq.cli.remote import Answer, Asked


class Question(NamedTuple):
    """A verb, and how it is answered for one cluster whose head is here."""

    verb: str
    options: list[str]
    """For a head elsewhere, behind the cluster's name."""
    show: Callable[[str], int]
    """Print it for a person; returns the exit code."""
    record: Callable[[str], tuple[Any, int]]
    """The same for programs: (what stands under the cluster's name, exit code)."""
    failed: Callable[[str, SkyqError], str]
    """What to say of a cluster that can't be asked."""
    gap: bool = False
    """An empty line between two clusters."""


def ask(names: list[str], question: Question, as_json: bool) -> int:
    """Ask, and print the answers in the order of the names; returns the exit code, of several the highest."""
    asked = _ask_elsewhere([name for name in names if not cluster.here(name)], question)
    if as_json:
        return _print_json(names, question, asked)
    code, shown = 0, 0
    for name in names:
        answer = asked.answer(name) if asked else None
        if question.gap and shown and not (answer and answer.error):
            print()
        try:
            code = max(code, question.show(name) if answer is None else _print(answer))
            shown += 1
        except SkyqError as error:
            code = max(code, _complain(question, name, error))
    return code


def _ask_elsewhere(names: list[str], question: Question) -> Asked | None:
    if not names:
        return None
    from skyq.cli import remote

    return remote.Asked(names, question.verb, question.options)


def _print(answer: Answer) -> int:
    if answer.error:
        raise answer.error
    from skyq.cli.remote import Screen

    screen = Screen()
    sys.stdout.flush()
    screen.write(1, answer.out)
    sys.stdout.flush()
    sys.stderr.flush()
    screen.write(2, answer.err)
    sys.stderr.flush()
    return answer.code


def _print_json(names: list[str], question: Question, asked: Asked | None) -> int:
    records, code = {}, 0
    for name in names:
        answer = asked.answer(name) if asked else None
        try:
            records[name], one = question.record(name) if answer is None else _parsed(answer, name)
            code = max(code, one)
        except SkyqError as error:
            code = max(code, _complain(question, name, error))
    if records or not code:
        print(json.dumps(records, indent=2))
    return code


def _parsed(answer: Answer, name: str) -> tuple[Any, int]:
    if answer.error:
        raise answer.error
    try:
        return json.loads(answer.out)[name], answer.code
    except (ValueError, KeyError, TypeError, RecursionError):
        said = answer.err.decode(errors="replace").strip() or "nothing that can be understood"
        raise SkyqError("The head of cluster '%s' answered: %s" % (name, said)) from None


def _complain(question: Question, name: str, error: SkyqError) -> int:
    from skyq.cli.main import complain

    sys.stdout.flush()
    complain(question.failed(name, error))
    return 1
