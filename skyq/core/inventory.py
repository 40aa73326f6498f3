"""The inventory, pools.yaml: text in, pools of hosts out. The shape of SkyPilot's ssh_node_pools.yaml.

Checked by hand, not by pydantic: every command reads it, and pydantic alone costs four bare starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from skyq.core.errors import InventoryError, TaskError
from skyq.core.host import Host, Pool
from skyq.core.request import check_accelerator, parse_cpus, parse_memory, show
from skyq.core.yamltext import Document, Path, fault, load, similar

LOCAL = "local"
"""The pool, and cluster, that is this machine."""
LOCAL_IPS = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_DEVICES = 1024

_T = TypeVar("_T")
_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# What ssh may paste into a shell (ProxyCommand's %h and %r) is held to harmless characters.
_HOST = re.compile(r"[\w:][\w.:%+-]{0,254}")
_USER = re.compile(r"[\w.][\w.@+-]{0,63}")
_DEFAULTS = ("user", "identity_file", "port", "password")
_HOST_KEYS = ("ip", "internal_ip", "accelerators", "cpus", "memory", *_DEFAULTS)


def load_inventory(text: str, source: str) -> dict[str, Pool]:
    """The pools by name; an empty text has none. InventoryError with key and line for what is off.

    `password` (SkyPilot's, for sudo) is accepted and dropped; other keys that nobody knows become notes.
    """
    document = load(text, source, InventoryError)
    inventory = _Inventory(document, source)
    if document.value is None:
        return {}
    if not isinstance(document.value, dict):
        inventory.fail("The file should be a mapping: a pool's name, then `hosts:` below it.")
    return {name: inventory.pool(name, value) for name, value in document.value.items()}


class _Inventory:
    """One document on its way to pools."""

    def __init__(self, document: Document, source: str) -> None:
        self.document, self.source = document, source

    def fail(self, message: str, path: Path = ()) -> NoReturn:
        raise fault(InventoryError, message, self.source, self.document.line(path)) from None

    def pool(self, name: str, value: object) -> Pool:
        path: Path = (name,)
        if not _POOL.fullmatch(name):
            self.fail(f"Invalid pool name {show(name)}. Use letters, digits and . _ - only.", path)
        if not isinstance(value, dict) or not isinstance(value.get("hosts"), list) or not value["hosts"]:
            self.fail(f"Pool '{name}' should have `hosts:`, a list with at least one host.", path)
        defaults = {key: value.get(key) for key in _DEFAULTS}
        notes = self.unknown(value, (*_DEFAULTS, "hosts"), path)
        hosts: dict[tuple[str, int | None], Host] = {}
        for at, raw in enumerate(value["hosts"]):
            there = (name, "hosts", at)
            host, more = self.host(raw, defaults, there)
            address = (host.ip.lower(), host.port)
            if address in hosts:
                self.fail(f"Host '{host.ip}' stands twice in pool '{name}'. Remove one.", there)
            hosts[address] = host
            notes += more
        if name == LOCAL and (len(hosts) > 1 or address[0] not in LOCAL_IPS):
            self.fail("Pool 'local' is this machine: one host, `ip: localhost`. Rename it.", path)
        return Pool(name, tuple(hosts.values()), tuple(notes))

    def host(self, raw: object, defaults: Mapping[str, object], path: Path) -> tuple[Host, list[str]]:
        """One host, and what of it isn't used."""
        if not isinstance(raw, dict):
            return self.host({"ip": self.document.written(path, raw)}, defaults, path)
        fields = {**defaults, **{key: value for key, value in raw.items() if value is not None}}
        ip = self.matching(_HOST, fields, "ip", path)
        if ip is None:
            self.fail("A host should be a name, or a mapping with `ip:`.", path)
        host = Host(
            ip=ip,
            user=self.matching(_USER, fields, "user", path),
            identity_file=self.identity_file(fields.get("identity_file"), path),
            port=self.port(fields.get("port"), path),
            internal_ip=self.matching(_HOST, fields, "internal_ip", path),
            accelerators=self.accelerators(fields.get("accelerators"), (*path, "accelerators")),
            cpus=self.amount(fields, "cpus", path),
            memory=self.amount(fields, "memory", path),
        )
        return host, self.unknown(raw, _HOST_KEYS, path)

    def unknown(self, given: Iterable[str], known: Collection[str], path: Path) -> list[str]:
        """A note for each key that is not known; ten are enough."""
        unknown = [key for key in given if key not in known][:10]
        return [self.note((*path, key), key, known) for key in unknown]

    def note(self, path: Path, key: str, known: Collection[str]) -> str:
        likely = similar(key, known)
        hint = f" Did you mean '{likely}'?" if likely else ""
        return f"{self.source}, line {self.document.line(path)}: {show(key)} is not used.{hint}"

    def matching(
        self, pattern: re.Pattern[str], fields: Mapping[str, object], field: str, path: Path
    ) -> str | None:
        there = self.place(path, field)
        value = self.document.written(there, fields.get(field))
        if value is None or (isinstance(value, str) and pattern.fullmatch(value)):
            return value
        hint = " Write {ip: host, user: name}." if "@" in str(value) else ""
        self.fail(f"Invalid {field} {show(value)}. Use no spaces, quotes or leading '-'.{hint}", there)

    def place(self, path: Path, field: str) -> Path:
        """Where a host's field stands: in the host, or among the pool's defaults."""
        places: tuple[Path, ...] = ((*path, field), (path[0], field))
        return next((place for place in places if place in self.document.lines), path)

    def identity_file(self, value: object, path: Path) -> str | None:
        if value is None or (isinstance(value, str) and value.isprintable() and not value.startswith("-")):
            return value or None
        self.fail(f"Invalid identity_file {show(value)}. Give a path.", self.place(path, "identity_file"))

    def port(self, value: object, path: Path) -> int | None:
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536):
            return value
        self.fail(f"Invalid port {show(value)}. Give a number from 1 to 65535.", self.place(path, "port"))

    def accelerators(self, value: object, path: Path) -> dict[str, int] | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail("accelerators should be a mapping of name to number: {H100: 4}.", path)
        seen = set()
        for name, count in value.items():
            there = (*path, name)
            self.attempt(check_accelerator, name, there)
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_DEVICES:
                self.fail(f"'{name}' should be a whole number of devices. Found: {show(count)}", there)
            if name.lower() in seen:
                self.fail(f"Accelerator '{name}' stands twice: case doesn't matter.", there)
            seen.add(name.lower())
        return dict(value)

    def amount(self, fields: Mapping[str, object], field: str, path: Path) -> int | None:
        """What the host has of it; a "+" makes no sense here."""
        value, there = fields.get(field), (*path, field)
        if value is None:
            return None
        if isinstance(value, str) and value.rstrip().endswith("+"):
            self.fail(f"{field} of a host should be a plain number. Found: {show(value)}", there)
        if field == "memory":
            return self.attempt(parse_memory, value, there)
        return self.attempt(parse_cpus, value, there)[0]

    def attempt(self, parse: Callable[[Any], _T], value: object, path: Path) -> _T:
        """What `parse` returns; its TaskError gets the place in the file."""
        try:
            return parse(value)
        except TaskError as error:
            self.fail(str(error), path)
