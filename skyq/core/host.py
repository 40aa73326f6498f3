"""The hosts and pools that an inventory names. Apart from what reads it, which needs YAML."""

from __future__ import annotations

from skyq.core.typed import NamedTuple


class Host(NamedTuple):
    """One machine; None means: not declared, find out."""

    ip: str
    """An address, a name, or an alias of ~/.ssh/config."""
    user: str | None = None
    identity_file: str | None = None
    """`~` is not expanded here."""
    port: int | None = None
    internal_ip: str | None = None
    accelerators: dict[str, int] | None = None
    """Name → number of whole devices."""
    cpus: int | None = None
    """Milli-CPUs."""
    memory: int | None = None
    """MB."""


class Pool(NamedTuple):
    """Hosts under one name, the first of them the head."""

    name: str
    hosts: tuple[Host, ...]
    notes: tuple[str, ...] = ()
    """One line each: what stands in the file and isn't used."""
