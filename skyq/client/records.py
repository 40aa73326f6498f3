"""What this machine remembers of clusters elsewhere: where the head is, and how skyq is started there."""

from __future__ import annotations

import json
import os

from skyq.core.errors import SkyqError
from skyq.core.host import Host
from skyq.core.paths import Home
from skyq.core.typed import NamedTuple
from skyq.store.place import make_private
from skyq.transport.aside import write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ENDING = ".json"
_HOW = ("ip", "user", "identity_file", "port")


class Remote(NamedTuple):
    """One cluster. A host: what the inventory said of how to reach it."""

    name: str
    id: str
    pool: str
    head: Host
    workers: tuple[Host, ...]
    launcher: str
    """See core.keylines.shell_line()."""
    state_dir: str
    """Where its queue is on the head."""
    version: str
    """Of the skyq there, as far as known."""
    behind: tuple[str, ...] = ()
    """The workers that are reached through the head."""

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All of them, the head first."""
        return (self.head, *self.workers)


def read(home: Home, name: str) -> Remote | None:
    """The record of a cluster; None where there is none that can be read: it can be had again."""
    try:
        with open(home.remote(name), encoding="utf-8") as file:
            found = json.load(file)
        return Remote(
            name,
            str(found["id"]),
            str(found["pool"]),
            _host(found["head"]),
            tuple(map(_host, found["workers"])),
            str(found["launcher"]),
            str(found["state_dir"]),
            str(found["version"]),
            tuple(map(str, found.get("behind", ()))),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(home: Home, remote: Remote) -> None:
    """Remember it. Raises SkyqError."""
    fields = {
        **remote._asdict(),
        "head": _fields(remote.head),
        "workers": [_fields(worker) for worker in remote.workers],
    }
    make_private(home.root)
    make_private(home.remotes)
    path = home.remote(remote.name)
    try:
        write_whole(path, json.dumps(fields, indent=1).encode())
    except OSError as error:
        text = "%s can't be written: %s. Make room, then try again."
        raise SkyqError(text % (path, error.strerror)) from None


def forget(home: Home, name: str) -> None:
    """The cluster is no more."""
    try:
        os.unlink(home.remote(name))
    except FileNotFoundError:
        pass


def names(home: Home) -> list[str]:
    """Of all that are remembered."""
    try:
        found = os.listdir(home.remotes)
    except OSError:
        return []
    return sorted(name[: -len(ENDING)] for name in found if name.endswith(ENDING))


def _fields(host: Host) -> dict[str, Any]:
    return {name: getattr(host, name) for name in _HOW}


def _host(fields: dict[str, Any]) -> Host:
    port = fields.get("port")
    how = {name: fields.get(name) for name in _HOW[1:3]}
    return Host(str(fields["ip"]), port=None if port is None else int(port), **how)
