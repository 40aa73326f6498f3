"""What ended jobs left on a worker: run directories, and copies of folders. The head knows which jobs are
done with; what is shown here now, and what may live, stays whatever it says.
"""

from __future__ import annotations

import os

from skyq.core.paths import RunDir
from skyq.node.copies import SHOWN, came_last, shown_at, workdir
from skyq.node.records import left_over
from skyq.node.setup import names, unlink
from skyq.transport import parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator, List, Set, Tuple, TypeAlias

SIDECARS = (SHOWN, parcel.record_path(""))
Remain: TypeAlias = "Tuple[str, int]"
"""("run/NAME" or "work/NAME", bytes on disk)"""


def found(runs: str) -> Iterator[Remain]:
    """All that can go if its job has ended, one after the other: to look at a large one takes a while."""
    for path in _removable(runs):
        yield _name(path), parcel.disk_use(path)


def remove(runs: str, wanted: Iterable[str]) -> Iterator[str]:
    """Remove those of them, and tell each that is gone."""
    removable = {_name(path): path for path in _removable(runs)}
    for name in wanted:
        path = removable.get(name)
        if path is None:
            continue
        (parcel.remove_copy if name.startswith("work/") else parcel.remove_tree)(path)
        if not os.path.lexists(path):
            for ending in SIDECARS:
                unlink(path + ending)
            yield name


def _name(path: str) -> str:
    return "/".join(path.split("/")[-2:])


def _removable(runs: str) -> List[str]:
    work = os.path.join(os.path.dirname(os.path.abspath(runs)), "work")
    kept = _kept(work)
    living = {os.path.basename(RunDir.of(runs, *key).root) for key in left_over(runs)}
    found = [os.path.join(os.path.abspath(runs), name) for name in names(runs) if name not in living]
    for name in names(work):
        if name not in kept and not name.endswith((parcel.PART, *SIDECARS)):
            found.append(os.path.join(work, name))
    return [path for path in found if os.path.isdir(path) or os.path.islink(path)]


def _kept(work: str) -> Set[str]:
    """Copies that something outside shows, the one that came last, and those of which these show parts."""
    if not os.path.isdir(work):
        return set()
    todo = [name for link in (workdir(), *shown_at(work)) for name in _led_to(link, work)]
    todo += filter(None, [os.path.basename(came_last(work))])
    kept: Set[str] = set()
    while todo:
        name = todo.pop()
        if name in kept:
            continue
        kept.add(name)
        for folder, folders, files in os.walk(os.path.join(work, name)):
            for entry in (*folders, *files):
                todo += _led_to(os.path.join(folder, entry), work)
    return kept


def _led_to(link: str, work: str) -> List[str]:
    """The copies that a link leads to, by what it says and in the end."""
    if not os.path.islink(link):
        return []
    found = []
    for target, root in ((os.readlink(link), work), (os.path.realpath(link), os.path.realpath(work))):
        if target.startswith(root + os.sep):
            found.append(target[len(root) + 1 :].split(os.sep)[0])
    return found
