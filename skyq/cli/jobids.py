"""Job ids as people give them: a number, a range of them, a name, or a pattern of either with * ? [ ]."""

from __future__ import annotations

from fnmatch import fnmatchcase

from skyq.core.model import Job
from skyq.core.request import id_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from skyq.head.head import Head

NOBODYS = 0  # the id of no job


def resolve(head: Head, words: list[str], user: str, fail: Callable[[str], object]) -> list[int]:
    """The ids that the words mean, in their order, each once; newest first where a word means several.

    Numbers are taken as they are, of a range those that there are; names and patterns look at this user's
    jobs. `fail` is called with the first word that means nothing.
    """
    ids: list[int] = []
    mine: list[Job] | None = None
    for word in words:
        numbers = id_range(word)
        if numbers is not None and "-" not in word:
            ids += numbers or [NOBODYS]
            continue
        if numbers is not None and (there := head.store.ids_between(numbers)):
            ids += there
            continue
        if mine is None:
            mine = head.jobs(user, unfinished=False)
        named = [job.id for job in mine if job.name == word]
        found = named or [job.id for job in mine if _matches(job, word)]
        if not found:
            fail(word)
        ids += found
    return list(dict.fromkeys(ids))


def _matches(job: Job, pattern: str) -> bool:
    if not set(pattern) & set("*?["):
        return False
    return fnmatchcase(str(job.id), pattern) or fnmatchcase(job.name or "", pattern)
