"""What one machine of a lab is like, where it differs from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

USER = "ada"
UID = 1717
PASSWORD = "open sesame"
"""ada's, for an sshd with PasswordAuthentication."""


@dataclass(frozen=True)
class Traits:
    """Given when the lab is made; all can be left out."""

    gpus: int | None = None
    """H100s that nvidia-smi tells of; None: as many as the lab's nodes have. 0: there is no nvidia-smi."""
    cron: bool = True
    """Whether the daemon runs."""
    sshd: Mapping[str, str] = field(default_factory=dict)
    """Lines of sshd_config, such as {"MaxSessions": "1"}; Port is known to the client's ~/.ssh/config."""
    shell: str = "/bin/bash"
    """ada's login shell."""
    kills_at_logout: bool = False
    """What a login leaves is killed, as by systemd-logind with KillUserProcesses=yes."""
    hidden: Sequence[str] = ()
    """Programs that this machine lacks, such as /usr/bin/python3."""
    shared: Sequence[Path] = ()
    """What of this machine's own /tmp, /root... is seen there too, at its own path, read-only."""
    small_home: str = ""
    """Such as "16m": /home is in memory, of this size, and is as new after each boot."""
    disk: str = ""
    """Such as "1g": /home is in memory, of this size, and lasts until lab.down(): fill_disk()."""
    clock: bool = False
    """Whether it has a wall clock of its own: set_clock()."""
