"""What a user reads when something can't be done.

SkyqError               1    what happened, why, what to type next
├── UsageError          2    the command line itself is off
├── TaskError           1    the task file or its overrides are off
├── InventoryError      1    pools.yaml is off
├── Misfit              1    the cluster could never run the request
├── StoreError          1    the queue's database can't be used
├── HostClaimed         1    the machine belongs to another queue
├── Unreachable         1    no connection to a host, or it was lost
└── ProtocolError       1    the two ends don't understand each other

Raised anywhere, caught once (cli/main.py), printed as one message, never as a traceback.
"""

from __future__ import annotations


class SkyqError(Exception):
    """An error whose text is meant for the user; `exit_code` is the process's."""

    exit_code = 1


class UsageError(SkyqError):
    """The command line is off."""

    exit_code = 2


class TaskError(SkyqError):
    """The task file, or what overrides it, is off."""


class InventoryError(SkyqError):
    """The inventory (pools.yaml) is off."""


class Misfit(SkyqError):
    """The cluster could never satisfy the request."""


class StoreError(SkyqError):
    """The queue's database can't be used: disk full, damaged, too new."""


class HostClaimed(SkyqError):
    """The machine belongs to another cluster or account."""


class Unreachable(SkyqError):
    """No connection to a host, or it was lost. The text names the host, why, and what to type next.

    `kind`: refused, timeout, frozen, no-route, name, auth, host-key-unknown, host-key-changed, lost, other.
    """

    def __init__(self, text: str, kind: str = "other") -> None:
        super().__init__(text)
        self.kind = kind


class Declined(SkyqError):
    """Somebody was shown what would be done, and said no."""


class ProtocolError(SkyqError):
    """The two ends of a conversation don't understand each other."""
