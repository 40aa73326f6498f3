"""What another machine may say, field by field: nothing behind this meets a value of a type or size that it
doesn't know. Pure.

A field whose name ends with "?" may be left out. Other fields pass unseen, for a newer side says more; so the
same holds for messages of a kind that isn't known, where they are ignored.
"""

from __future__ import annotations

import re

from skyq.core.errors import ProtocolError
from skyq.core.protocol import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, TypeAlias

REPLY_LIMIT = 4 * 1024 * 1024  # bytes of one message of a node: it tells which steps it has something of
MOST = 1 << 62  # more bytes than there are
MANY = 100_000  # entries of a list

Check: TypeAlias = "Callable[[Any], bool]"
Shape: TypeAlias = "Mapping[str, Check]"


def _text(limit: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= limit


def _like(pattern: str) -> Check:
    whole = re.compile(pattern)
    return lambda value: isinstance(value, str) and bool(whole.fullmatch(value))


def _number(low: int, high: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _list(of: Check, most: int = MANY) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(of, value))


def _row(*checks: Check) -> Check:
    return lambda value: (
        isinstance(value, list)
        and len(value) == len(checks)
        and all(check(each) for check, each in zip(checks, value))
    )


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _bytes(value: Any) -> bool:
    return isinstance(value, bytes)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


_WORD = _text(256)
_WORDS = _text(64 * 1024)
_SIZE = _number(0, MOST)
_ATTEMPT = _number(0, 1 << 31)
_STEP_NAME = _like("(run|setup)-(0|[1-9][0-9]{0,5})")
_STEP: Shape = {"job": _WORD, "attempt": _ATTEMPT, "step": _STEP_NAME, "pid?": _number(1, 1 << 31)}
_END: Shape = {
    **_STEP,
    "code": _number(-(1 << 31), 1 << 31),
    "stopped?": _flag,
    "why?": _WORDS,
    "unstarted?": _flag,
    "stuck?": _list(_row(_number(1, 1 << 31), _WORD)),
    "expired?": _flag,
}

VISIT: Dict[str, Shape] = {
    "out": {"stream": _number(1, 2), "data": _bytes},
    "took": {"count": _SIZE},
    "ended": {"code": _number(-1, 255), "stopped?": _flag},
}
"""What the terminal of a job says, by `is`; see visit.py. Who has entered one hears nothing else."""

NODE: Dict[str, Shape] = {
    "hello": {"alive?": _list(_row(_WORD, _ATTEMPT, _STEP_NAME)), "ungrouped?": _WORD, "lists?": _flag},
    "claimed": {},
    "refused": {"why?": _WORDS},
    "pong": {},
    "late": _STEP,
    "prepared": _STEP,
    "running": {**_STEP, "left?": _number(0, 1 << 31)},
    "exited": _END,
    "gone": _END,
    "log": {**_STEP, "offset": _SIZE, "data": _bytes},
    "grew": {**_STEP, "size": _SIZE},
    "log-end": {**_STEP, "size": _SIZE},
    "kept": {},
    "not-kept": {"why?": _WORDS},
    "left": {"name?": _WORD, "size?": _SIZE, "last?": _flag},
    "removed": {"name?": _WORD, "last?": _flag},
    "lacks": {"files": _list(_number(0, MOST)), "last?": _flag},
    "entered": {},
    "not-entered": {"why?": _WORDS},
    **VISIT,
    "strangers": {
        "found": _list(_row(_number(0, 1 << 16), _number(0, 1 << 31), _text(64), _text(64), _SIZE), 256),
        "missing?": _list(_row(_number(0, 1 << 16), _WORD), 256),
        "why?": _WORDS,
    },
}
"""What a node agent says, by `is`; see protocol.py and transport/parcel.py."""

NEWS = frozenset(kind for kind, shape in NODE.items() if "job" in shape) | {"strangers"}
"""What of that is news for a dispatcher, beside what concerns the connection."""

HEAD: Dict[str, Shape] = {
    "at": {"place": lambda place: _object(place) and fits(place, {"job?": _SIZE})},
    "ask": {},
    "exit": {"code": _number(0, 255)},
    "pong": {},
    "entered": {},
    **VISIT,
}
"""What the agent on a head says, by `is`. Of files, who takes them judges."""
_PRINTED: Shape = {"fd": _number(1, 2), "data": _bytes}

_HOST_NAME = _like(r"[\w:][\w.:%+-]{0,254}")
"""Nothing that known_hosts or a shell takes for more than a name: *, a space, a new line."""
_PATH = _text(4096)
_DEVICE = _row(_number(0, 1 << 16), _text(256), _text(256))

LANDING: Shape = {
    "python": _row(*[_number(0, 999)] * 3),
    "tag": _WORD,
    "lacks": _list(_WORD),
    "hostname": _HOST_NAME,
    "user": _text(256),
    "root": _PATH,
    "usual": _flag,
    "builds": _list(_WORD),
    "ssh?": _like(r"|[\w.:%+-]{1,255} [0-9]{1,5} [\w.:%+-]{1,255} [0-9]{1,5}"),
    "claim?": lambda value: value is None or _object(value),
    "machine?": _WORD,
}
"""What is there, as skyq/landing.py tells it."""

DONE: Dict[str, Shape] = {
    "facts": {"devices": _list(_DEVICE), "cpus": _SIZE, "memory": _SIZE, "token": _WORD},
    "found": {
        "id": _like("[0-9a-f]{1,64}"),
        "key": _like(r"[a-z0-9@.-]{1,64} [A-Za-z0-9+/=]{1,4096}"),
        "state_dir": _PATH,
        "nodes": _list(_HOST_NAME),
        "hostname": _HOST_NAME,
    },
    "launcher": {"launcher": _PATH},
    "join": {"met": lambda met: _object(met) and all(map(_WORDS, met.values()))},
    "enlist": {"met": lambda met: _object(met) and all(map(_WORDS, met.values()))},
    "nodes": {"nodes": _list(_HOST_NAME)},
    "leave": {"kept?": _list(_row(_PATH, _SIZE))},
}
"""What `skyq _setup` answers, by what it was asked."""


def fits(message: Message, shape: Shape) -> bool:
    """Whether all fields are there, and of their kind."""
    for field, check in shape.items():
        name = field.rstrip("?")
        if not (check(message[name]) if name in message else field.endswith("?")):
            return False
    return True


def of_node(messages: List[Message]) -> List[Message]:
    """Those of a node agent that are of a known kind. ProtocolError for one that is off."""
    return [message for message in messages if _known(message, NODE)]


def of_head(messages: List[Message]) -> List[Message]:
    """Those of the agent on a head. ProtocolError for one that is off."""
    for message in messages:
        _known(message, HEAD)
        if "fd" in message and not fits(message, _PRINTED):
            raise _off(message)
    return messages


def _known(message: Message, shapes: Mapping[str, Shape]) -> bool:
    kind = message.get("is")
    shape = shapes.get(kind) if isinstance(kind, str) else None
    if shape is not None and not fits(message, shape):
        raise _off(message)
    return shape is not None


def _off(message: Message) -> ProtocolError:
    return ProtocolError("The other side says what makes no sense (%.40r)." % message.get("is"))
