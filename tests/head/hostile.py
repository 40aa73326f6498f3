"""What a node says that somebody else has taken over: one lie at each connection, then it hangs up.

    python -m tests.head.hostile ROOT

ROOT/target has the uuid of a job of another node; ROOT/said counts how much of the list was said.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from skyq.core.protocol import HEADER, LAST, PART, encode, encode_data, greeting

HUGE = 10**30


def lies(job: str) -> list[bytes]:
    """Frames, each an attack of its own."""
    step = {"job": job, "attempt": 1, "step": "run-0"}
    other = {**step, "job": "no-such-job"}
    messages: list[object] = [
        {"is": "hello", "alive": [["a", None, {}]]},
        {**step, "is": "gone", "code": 0},
        {**step, "is": "exited", "code": 3, "stopped": True},
        {**step, "is": "gone", "code": HUGE},
        {**other, "is": "gone", "code": 0},
        {**step, "is": "gone"},
        {**step, "is": "running", "pid": float("inf")},
        {"is": "late", "job": [], "attempt": {}, "step": 7},
        *({**step, "is": "grew", "size": size} for size in (HUGE, -1, 1 << 61)),
        {**step, "is": "log-end", "size": 0},
        {**step, "is": "log", "offset": 0, "data": "no bytes"},
        {**step, "is": "gone", "code": 0, "step": "../../../canary"},
        {**step, "is": "prepared", "why": "x" * 1_000_000, "unstarted": True},
        {"is": ["gone"]},
        {"is": "refused", "why": "\x1b]0;owned\a\n" * 5000},
        {"is": "refused"},
        *({"is": kind, "job": []} for kind in ("kept", "entered", "not-entered", "pong")),
        {"is": "kept"},
        {"is": "took", "count": 1},
        {"is": "strangers", "found": [[0, 1, "x" * 64, "\x1b[2J", 5]] * 256},
        {"is": "strangers", "found": [[HUGE, -1, None, [], {}]]},
        {"is": "strangers"},
    ]
    headers = [{**step, "is": "log", "offset": offset} for offset in (0, HUGE, 1 << 62)]
    headers += [
        {**step, "is": "log", "step": name, "offset": 0} for name in ("run-1", "setup-0", "../../canary")
    ]
    body = b"[" * 60_000
    return [
        *(encode(message) for message in messages),  # type: ignore[arg-type]
        *(encode_data(header, b"a lie\n") for header in headers),
        HEADER.pack(LAST, len(body)) + body,
        HEADER.pack(9, 1) + b"x",
        HEADER.pack(LAST, 0xFFFFFFFF) + b"x",
        HEADER.pack(LAST, 2) + b"[]",
        (HEADER.pack(PART, 65536) + b"x" * 65536) * 100,
        b"\xff" * 70_000,
    ]


def main(root: Path) -> None:
    """One connection."""
    said = root / "said"
    number = int(said.read_text()) if said.exists() else 0
    all_of_them = lies((root / "target").read_text())
    aside = root / "said.new"
    aside.write_text(str(number + 1))
    aside.rename(said)
    threading.Thread(target=leave_with_the_listener, daemon=True).start()
    os.write(1, greeting())
    try:
        os.write(1, encode({"is": "hello", "alive": []}) + encode({"is": "claimed"}))
        for at in range(0, len(all_of_them[number % len(all_of_them)]), 65536):
            os.write(1, all_of_them[number % len(all_of_them)][at : at + 65536])
    except BrokenPipeError:
        pass  # it has heard enough


def leave_with_the_listener() -> None:
    """However much there would be to say still."""
    while os.read(0, 65536):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
