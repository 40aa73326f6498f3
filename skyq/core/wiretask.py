"""A checked Task as a message between two skyqs, which may be of different versions."""

from __future__ import annotations

from skyq.core.errors import ProtocolError
from skyq.core.model import Batch, Git, Recovery, Request, Task, TimeLimit
from skyq.core.protocol import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Tuple


def packed(task: Task) -> Message:
    """The task, its secrets too: this travels inside the connection and nowhere else."""
    fields = task._asdict()
    fields["alternatives"] = [request._asdict() for request in task.alternatives]
    fields["git"] = task.git and task.git._asdict()
    fields["batch"] = task.batch and task.batch._asdict()
    fields["recovery"] = task.recovery._asdict()
    fields["time_limit"] = task.time_limit._asdict()
    return fields


def unpacked(message: Message) -> Task:
    """The task again. What a newer side says beyond what is known here is left out.

    Raises ProtocolError for what is no task.
    """
    try:
        fields = _known(Task, message)
        if "alternatives" in fields:
            fields["alternatives"] = tuple(
                Request(**_known(Request, each)) for each in fields["alternatives"]
            )
        if fields.get("git"):
            fields["git"] = Git(**_known(Git, fields["git"]))
        if "recovery" in fields:
            recovery = Recovery(**_known(Recovery, fields["recovery"]))
            fields["recovery"] = recovery._replace(codes=tuple(recovery.codes))
        if "time_limit" in fields:
            fields["time_limit"] = TimeLimit(**_known(TimeLimit, fields["time_limit"]))
        if "after" in fields:
            fields["after"] = tuple((str(word), str(kind)) for word, kind in fields["after"])
        if fields.get("batch"):
            batch = Batch(**_known(Batch, fields["batch"]))
            indices = tuple(map(int, batch.indices))
            sweeps = tuple((str(name), tuple(map(str, values))) for name, values in batch.sweeps)
            fields["batch"] = Batch(indices, sweeps, int(batch.at_once))
        if "warnings" in fields:
            fields["warnings"] = tuple(fields["warnings"])
        return Task(**fields)
    except (TypeError, AttributeError, ValueError):
        raise ProtocolError("The other side sent a task that is none.") from None


def _known(record: Any, message: Message) -> Dict[str, Any]:
    names: Tuple[str, ...] = record._fields
    return {name: value for name, value in message.items() if name in names}
