"""skyq's named tuples are those of typing, made more quickly."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from skyq.core.typed import NamedTuple
from tests.cluster import LocalQueue
from tests.program import IMPORTS_TOLD, imported


class Ours(NamedTuple):
    """A record."""

    first: int
    second: str = "two"
    third: tuple[int, ...] = ()

    @property
    def both(self) -> str:
        return "%d %s" % (self.first, self.second)

    @classmethod
    def made(cls) -> Ours:
        return cls(7, third=(8,))


class Named(NamedTuple):
    """One that shows itself in its own way."""

    name: str

    def __repr__(self) -> str:
        return "<%s>" % self.name


def test_it_is_a_tuple_with_names_and_defaults() -> None:
    one = Ours(1)
    assert (one.first, one.second, one.third) == one == (1, "two", ())
    assert repr(one) == "Ours(first=1, second='two', third=())"
    assert (one.both, Ours.made(), hash(one)) == ("1 two", (7, "two", (8,)), hash((1, "two", ())))
    assert repr(Named("it")) == "<it>"


def test_its_helpers_are_those_of_collections() -> None:
    one = Ours(1)
    assert one._replace(second="2") == Ours(1, "2") and isinstance(one._replace(first=2), Ours)
    assert one._asdict() == {"first": 1, "second": "two", "third": ()}
    assert Ours._make([1, "a", (2,)]) == Ours(1, "a", (2,)) and Ours._fields == ("first", "second", "third")


def test_the_first_object_of_a_class_may_come_from_a_list() -> None:
    class Fresh(NamedTuple):
        """Nobody has made one yet."""

        a: int
        b: int

    assert Fresh._make(iter([1, 2])).b == 2


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_is_the_same(again: Callable[[Any], Any]) -> None:
    found = again(Ours(1, "b"))
    assert found == Ours(1, "b") and type(found) is Ours


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Ours(),  # type: ignore[call-arg]
        lambda: Ours(1, "", (), 4),  # type: ignore[call-arg]
        lambda: Ours(1, fourth=4),  # type: ignore[call-arg]
        lambda: setattr(Ours(1), "first", 2),
        lambda: setattr(Ours(1), "fourth", 4),
        lambda: Ours._make([1]),
    ],
)
def test_what_does_not_fit_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises((TypeError, AttributeError)):
        wrong()


@pytest.mark.parametrize(
    "words", ["exec local -d true", "queue local", "logs local 1", "status local", "_dispatcher local"]
)
def test_no_command_of_every_day_imports_typing(queue: LocalQueue, words: str) -> None:
    queue.ok("exec", "local", "true")
    queue.until(lambda: not queue.own_processes(), "the dispatcher leaves")
    result = queue.run(*words.split(), env=IMPORTS_TOLD)

    loaded = imported(result.err)
    assert result.code == 0 and "skyq.core.typed" in loaded
    assert not loaded & {"typing", "dataclasses", "inspect", "logging"}
