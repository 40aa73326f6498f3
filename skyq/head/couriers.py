"""The dispatcher's couriers: one process per worker that still lacks a job's folder. See courier.py."""

from __future__ import annotations

import json
import os
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Set, Tuple, TypeAlias

AT_ONCE = 8  # processes

Argv: TypeAlias = "Callable[[str, List[str]], List[str]]"
"""(node, names of copies) → what starts a courier."""
Errand: TypeAlias = "Tuple[int, str]"
"""(job, step) that waits for one."""


class Couriers:
    """Who brings what where, and which steps wait for it."""

    def __init__(self, argv: Argv) -> None:
        self._argv = argv
        self._there: Set[Tuple[str, str]] = set()
        """(node, copy) that some courier has seen there."""
        self._under_way: Dict[int, Tuple[subprocess.Popen[bytes], str, List[str]]] = {}
        """By the descriptor of what it says."""
        self._waiting: Dict[str, Set[Errand]] = {}

    def fetch(self, node: str, names: List[str], errand: Errand) -> bool:
        """Whether the node has all these copies; else somebody is sent, or will be on the next call."""
        lacking = [name for name in names if (node, name) not in self._there]
        if not lacking:
            return True
        self._waiting.setdefault(node, set()).add(errand)
        busy = {who for _, who, _ in self._under_way.values()}
        if node not in busy and len(busy) < AT_ONCE:
            self._send(node, lacking)
        return False

    def _send(self, node: str, names: List[str]) -> None:
        process = subprocess.Popen(
            self._argv(node, names), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
        )
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        self._under_way[process.stdout.fileno()] = (process, node, names)

    def filenos(self) -> List[int]:
        """Readable when a courier has ended."""
        return list(self._under_way)

    def returned(self, fileno: int) -> Tuple[str, str, Set[Errand]]:
        """(node, why it failed or "", the steps that waited for it, or for a free courier)"""
        process, node, names = self._under_way.pop(fileno)
        assert process.stdout
        said = process.stdout.read() or b""
        process.stdout.close()
        failed = process.wait()
        why = ""
        if failed:
            try:
                why = str(json.loads(said))
            except ValueError:
                why = "the courier was killed"
        else:
            self._there.update((node, name) for name in names)
        busy = {who for _, who, _ in self._under_way.values()}
        free = [who for who in self._waiting if who not in busy]
        return node, why, set().union(*(self._waiting.pop(who) for who in free))

    def forget(self, node: str) -> None:
        """Who knows what became of its disk."""
        self._there = {entry for entry in self._there if entry[0] != node}

    def close(self) -> None:
        """Call them back."""
        for process, _, _ in self._under_way.values():
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        self._under_way.clear()
