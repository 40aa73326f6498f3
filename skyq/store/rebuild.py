"""A queue's database made anew of its journal, when it is damaged or gone."""

from __future__ import annotations

import os
import time

from skyq.core.errors import StoreError
from skyq.store.journal import Journal
from skyq.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping

_PARTS = ("", "-wal", "-shm")
_WHOLE = ("nodes", "meta", "owed_logs", "quarantine")


def damage(path: str, journal: str) -> str:
    """What is wrong with a database, in words; "": nothing."""
    try:
        store = Store.open(path, journal)
    except StoreError as error:
        return str(error).split("\n")[0]
    try:
        return store.damage()
    finally:
        store.close()


def rebuild(path: str, journal: str) -> str:
    """Put a new database there, with all that the journal tells. Nobody may use the old one any more.
    Returns where that is now; "": there was none.

    Raises StoreError when the journal tells nothing, or the disk is full; then nothing was changed.
    """
    told = _told(Journal(path, journal))
    if not told["nodes"]:
        raise StoreError("%s tells of no queue: nothing can be made of it." % journal)
    new = path + ".new"
    for part in _PARTS:
        _unlink(new + part)
    store = Store.open(new)
    store.restore(told)
    store.close()
    kept = _move_away(path)
    os.rename(new, path)
    return kept


def _told(journal: Journal) -> Dict[str, List[Mapping[str, Any]]]:
    """Rows by table, as they were last."""
    jobs: Dict[int, Dict[str, Any]] = {}
    attempts: Dict[Any, Mapping[str, Any]] = {}
    told: Dict[str, List[Mapping[str, Any]]] = {name: [] for name in _WHOLE}
    for kind, value in journal.read():
        if kind == "jobs":
            jobs.setdefault(int(value["id"]), {}).update(value)
        elif kind == "spec":
            jobs.setdefault(int(value[0]), {})["spec"] = value[1]
        elif kind == "attempts":
            attempts[value["job_id"], value["number"]] = value
        elif kind in told:
            told[kind] = value
    whole = [row for row in jobs.values() if "uuid" in row and "spec" in row]
    newest = {row["uuid"]: row for row in sorted(whole, key=lambda row: int(row["rev"]))}
    told["jobs"] = sorted(newest.values(), key=lambda row: int(row["id"]))
    ids = {row["id"] for row in told["jobs"]}
    told["attempts"] = [row for row in attempts.values() if row["job_id"] in ids]
    for name in ("owed_logs", "quarantine"):
        told[name] = [row for row in told[name] if row["job_id"] in ids]
    return told


def _move_away(path: str) -> str:
    """The damaged one stays beside the new one, for who knows more of it."""
    name = time.strftime("-damaged-%Y-%m-%d-%H-%M-%S")
    kept = ""
    for part in _PARTS:
        if os.path.exists(path + part):
            kept = kept or os.path.join(os.path.dirname(path), "queue" + name + ".db")
            os.rename(path + part, kept + part)
    return kept


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
