"""How it is with a node, in the words by which the dispatcher tells it. Each command imports this."""

from __future__ import annotations

CONNECTING = "being connected to"
ENDING = "ending what former jobs left there"
UNREACHABLE = "unreachable since "
UNGROUPED = "ungrouped"
"""The setting that has, by worker, why it has no cgroup for a job; "": it has one."""
