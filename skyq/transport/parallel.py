"""Many hosts at once, each in a thread of its own."""

from __future__ import annotations

import queue
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Sequence

AT_ONCE = 16  # hosts


def in_parallel(action: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Do it for each; a Ctrl-C waits for none. What `action` raises is its own mistake, and raised here."""
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in items:
        todo.put(item)
    failed: List[BaseException] = []

    def work() -> None:
        while True:
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                action(item)
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in items[:AT_ONCE]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
