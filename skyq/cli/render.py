"""Records → text for a person, or a dict for JSON. Reads no clock, prints nothing.

Texts end without a newline. What other people wrote (names, reasons, paths) is made harmless before colours
are added.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from skyq.core import states
from skyq.core.logtext import plain
from skyq.core.model import UNIT, Grant, Holding, Job, Node
from skyq.core.typed import NamedTuple
from skyq.core.words import ago, duration

CANCELLING = "CANCELLING"
"""Shown for an active job whose cancel was asked for."""

UP = "UP"

_BOLD, _DIM, _RED, _GREEN, _YELLOW, _BLUE, _CYAN = "1", "2", "31", "32", "33", "34", "36"
_STATE_COLOURS = {
    states.PENDING: _BLUE,
    states.SETTING_UP: _BLUE,
    states.RUNNING: _GREEN,
    states.SUCCEEDED: _GREEN,
    states.FAILED: _RED,
    states.FAILED_SETUP: _RED,
    states.FAILED_DRIVER: _RED,
    states.CANCELLED: _YELLOW,
    CANCELLING: _YELLOW,
    UP: _GREEN,
}
_COUNTED = {
    states.RUNNING: "run",
    states.SETTING_UP: "set up",
    CANCELLING: "are ending",
    states.PENDING: "wait",
    states.FAILED: "failed",
    states.FAILED_SETUP: "failed in setup",
    states.FAILED_DRIVER: "were lost",
    states.CANCELLED: "cancelled",
    states.SUCCEEDED: "succeeded",
}
"""What the jobs of an array do, or came to."""
_MOST_TELLING = list(_COUNTED)
"""The first of these that some are in is the state of an array."""
_REASON_LENGTH = 60
_LIST_LENGTH = 40

Painter = Callable[[str], str]


class Style(NamedTuple):
    """Colours and signs of one output stream."""

    colour: bool = False

    @classmethod
    def of(cls, isatty: bool, environment: Mapping[str, str]) -> Style:
        """Colours only on a terminal that has them, and not against the user's NO_COLOR."""
        able = environment.get("TERM", "dumb") != "dumb"
        return cls(isatty and able and not environment.get("NO_COLOR"))

    def paint(self, code: str, text: str) -> str:
        """`text` in the colour of an SGR code."""
        return "\x1b[%sm%s\x1b[0m" % (code, text) if self.colour and code else text

    def state(self, state: str) -> str:
        """A state's word in its colour; what is no state, a machine's trouble, is red."""
        return self.paint(_STATE_COLOURS.get(state, _RED), state)

    def cyan(self, text: str) -> str:
        """For "Command to run:" and its like."""
        return self.paint(_CYAN, text)

    def yellow(self, text: str) -> str:
        """For warnings."""
        return self.paint(_YELLOW, text)

    def red(self, text: str) -> str:
        """For errors."""
        return self.paint(_RED, text)

    def bold(self, text: str) -> str:
        """For what to type."""
        return self.paint(_BOLD, text)

    def dim(self, text: str) -> str:
        """For side remarks."""
        return self.paint(_DIM, text)

    def started(self, text: str) -> str:
        """⚙︎ Something has begun."""
        return "⚙︎ " + text

    def finished(self, text: str) -> str:
        """✓ Something went well."""
        return self.paint(_GREEN, "✓ " + text)

    def failed(self, text: str) -> str:
        """⨯ Something went wrong."""
        return self.paint(_RED, "⨯") + " " + text

    def branch(self, text: str) -> str:
        """├── One of several lines under a heading."""
        return self.paint(_DIM, "├── ") + text

    def last(self, text: str) -> str:
        """└── The last line under a heading."""
        return self.paint(_DIM, "└── ") + text


UNSTYLED = Style()


def useful_commands(cluster: str, job_id: int | None, style: Style = UNSTYLED) -> str:
    """What to type next, after `launch`."""
    lines = ["", "📋 Useful Commands"]
    if job_id is not None:
        lines += [
            "Job ID: %d" % job_id,
            style.branch("To cancel the job:\t\t" + style.bold("skyq cancel %s %d" % (cluster, job_id))),
            style.branch("To stream job logs:\t\t" + style.bold("skyq logs %s %d" % (cluster, job_id))),
            style.last("To view job queue:\t\t" + style.bold("skyq queue %s" % cluster)),
        ]
    lines.append("Cluster name: " + cluster)
    lines.append(style.last("To submit a job:\t\t" + style.bold("skyq exec %s yaml_file" % cluster)))
    return "\n".join(lines)


# Tables.


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], painters: Mapping[str, Painter] | None = None
) -> str:
    """Left-aligned columns, two spaces apart; a painter colours the cells of the column it is named for."""
    columns: list[list[str]] = []
    for cells in zip(header, *rows, strict=True):
        painter = (painters or {}).get(cells[0])
        columns.append(_column(cells, painter, last=len(columns) == len(header) - 1))
    return "\n".join([line.rstrip() for line in map("  ".join, zip(*columns, strict=True))])


def _column(cells: Sequence[str], painter: Painter | None, last: bool) -> list[str]:
    """The cells, harmless, coloured and padded to one width. Judged as a whole: a column may be long."""
    text = "".join(cells)
    if not text.isprintable():
        cells = [plain(cell) for cell in cells]
    shown = [cells[0], *map(painter, cells[1:])] if painter else list(cells)
    if last:
        return shown
    widths = list(map(len if text.isascii() else _width, cells))
    widest = max(widths)
    return [cell + " " * (widest - width) for cell, width in zip(shown, widths, strict=True)]


def _width(text: str) -> int:
    """Columns on a terminal: two for a wide (CJK) character, none for one that combines."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width  # a shared library: only who needs it pays

    wide = sum(east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(category(char) in ("Mn", "Me") for char in text)


def _shortened(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    text = plain(text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


# The queue.


class QueueRow(NamedTuple):
    """One job of the queue, with what the store alone doesn't know."""

    job: Job
    resources: str
    """As shown: 1x[H100:2]."""
    log: str
    """Its log folder, absolute."""
    reason: str = ""
    """Why it waits; empty: the job's own reason is shown."""


_QUEUE_HEADER = (
    *("ID", "NAME", "USER", "SUBMITTED", "STARTED", "DURATION"),
    *("RESOURCES", "STATUS", "LOG", "GIT COMMIT", "REASON"),
)


class QueueView(NamedTuple):
    """How a queue is looked at: when, and by whom."""

    now: float
    all_users: bool = False
    home: str = ""
    """Where logs lie; shown as ~."""
    each: bool = False
    """A row for each job of an array too."""


def queue_table(cluster: str, rows: Iterable[QueueRow], view: QueueView, style: Style = UNSTYLED) -> str:
    """The queue of one cluster under its title, newest job first; without jobs, title and header."""
    whose = "all users" if view.all_users else "current user"
    title = "Job queue of %s on cluster %s" % (whose, plain(cluster))
    groups = [[row] for row in _newest_first(rows)] if view.each else _grouped(_newest_first(rows))
    cells = [_queue_cells(g[0], view) if len(g) == 1 else _array_cells(g, view) for g in groups]
    return title + "\n" + table(_QUEUE_HEADER, cells, {"STATUS": style.state})


def _newest_first(rows: Iterable[QueueRow]) -> list[QueueRow]:
    return sorted(rows, key=lambda row: -row.job.id)


def _grouped(rows: Iterable[QueueRow]) -> list[list[QueueRow]]:
    """The jobs of an array together, where its newest one stands."""
    groups: dict[int, list[QueueRow]] = {}
    for row in rows:
        groups.setdefault(row.job.array.first if row.job.array else row.job.id, []).append(row)
    return list(groups.values())


def _array_cells(rows: Sequence[QueueRow], view: QueueView) -> tuple[str, ...]:
    """Of an array as one row: since when some run, until the last has ended; how many are how far."""
    jobs, array = [row.job for row in rows], rows[0].job.array
    assert array is not None
    begun = [job.started_at for job in jobs if job.started_at is not None]
    ended = [job.ended_at for job in jobs if job.ended_at is not None]
    first = jobs[0]._replace(
        started_at=min(begun, default=None),
        ended_at=max(ended, default=None) if len(ended) == len(jobs) else None,
        name=_common_name([job.name or "" for job in jobs]),
    )
    cells = list(_queue_cells(rows[0]._replace(job=first), view))
    counts = Counter(map(shown_state, jobs))
    kinds = sorted(counts, key=_MOST_TELLING.index)
    waits = next((row.reason for row in reversed(rows) if row.job.state in states.WAITING and row.reason), "")
    told = ", ".join("%d %s" % (counts[kind], _COUNTED[kind]) for kind in kinds)
    folder = cells[_QUEUE_HEADER.index("LOG")].rpartition("/")[0]
    changed = {
        "ID": "%d-%d" % (array.first, array.last),
        "STATUS": kinds[0],
        "LOG": "%s/{%d..%d}-*" % (folder, array.first, array.last),
        "REASON": _shortened(told + (": " + waits if waits else ""), _REASON_LENGTH),
    }
    return tuple(changed.get(title, cell) for title, cell in zip(_QUEUE_HEADER, cells, strict=True))


def _common_name(names: Sequence[str]) -> str:
    """What `cancel` takes for all of them: train-*."""
    least, greatest = min(names), max(names)
    common = greatest[: next((at for at, (a, b) in enumerate(zip(least, greatest)) if a != b), len(least))]
    return common if least == greatest else common.rstrip("0123456789._-") + "-*" if common else ""


def _queue_cells(row: QueueRow, view: QueueView) -> tuple[str, ...]:
    job = row.job
    started, lasted = "-", "-"
    if job.started_at is not None:
        started = ago(view.now - job.started_at)
        lasted = duration((view.now if job.ended_at is None else job.ended_at) - job.started_at)
    return (
        str(job.id),
        job.name or "-",
        job.user or "-",
        ago(view.now - job.submitted_at),
        started,
        lasted,
        row.resources,
        shown_state(job),
        _tilde(row.log, view.home) or "-",
        "-",
        _shortened(_reason(row), _REASON_LENGTH) or "-",
    )


def shown_state(job: Job) -> str:
    """The job's state as a person sees it."""
    if job.cancel_requested_at is not None and job.state in states.ACTIVE:
        return CANCELLING
    return job.state


def _reason(row: QueueRow) -> str:
    job = row.job
    if job.state in states.FINAL:
        return row.reason or ("" if job.state == states.SUCCEEDED else job.reason)
    attempt = "attempt %d" % job.number if job.number > 1 and job.state in states.ACTIVE else ""
    return "; ".join(text for text in (attempt, row.reason) if text)


def _tilde(path: str, home: str) -> str:
    home = home.rstrip("/")
    if home and (path == home or path.startswith(home + "/")):
        return "~" + path[len(home) :]
    return path


def queue_json(cluster: str, rows: Iterable[QueueRow]) -> dict[str, list[dict[str, object]]]:
    """The same queue for programs: SkyPilot's keys, then skyq's own."""
    return {cluster: [_queue_record(row) for row in _newest_first(rows)]}


def _queue_record(row: QueueRow) -> dict[str, object]:
    job = row.job
    return {
        "job_id": job.id,
        "job_name": job.name,
        "username": job.user,
        "user_hash": "%08x" % zlib.crc32(job.user.encode("utf-8", "replace")),
        "submitted_at": job.submitted_at,
        "start_at": job.started_at,
        "end_at": job.ended_at,
        "resources": row.resources,
        "status": job.state,
        "log_path": row.log,
        "metadata": {},
        "links": {},
        "reason": row.reason or job.reason,
        "exit_codes": list(job.exit_codes),
        "num_nodes": job.num_nodes,
        "attempt": job.number,
        "retries": job.recovery.retries,
        "requeue": job.recovery.requeue,
        "time_limit": job.time_limit.seconds or None,
        "priority": job.priority,
        "array": job.array and {**job.array._asdict(), "last": job.array.last},
        "cancel_requested_at": job.cancel_requested_at,
        "task_id": job.task_id,
        "nodes": [_grant_record(grant) for grant in job.grants],
    }


def _grant_record(grant: Grant) -> dict[str, object]:
    return {
        "node": grant.node,
        "rank": grant.rank,
        "devices": [{"index": index, "amount": amount / UNIT} for index, amount in grant.devices],
        "cpus": grant.cpus / 1000,
        "memory_mb": grant.memory,
    }


# The nodes.


class _Use:
    """What active jobs hold of one node."""

    def __init__(self) -> None:
        self.devices: dict[int, int] = {}
        self.cpus = 0
        self.memory = 0
        self.jobs: list[int] = []


def _uses(nodes: Iterable[Node], holding: Iterable[Holding]) -> list[tuple[Node, _Use]]:
    uses = {node.name: _Use() for node in nodes}
    for job in sorted(holding, key=lambda job: job.id):
        for grant in job.grants:
            use = uses.setdefault(grant.node, _Use())
            use.jobs.append(job.id)
            use.cpus += grant.cpus
            use.memory += grant.memory
            for index, amount in grant.devices:
                use.devices[index] = use.devices.get(index, 0) + amount
    return [(node, uses[node.name]) for node in nodes]


def quarantine_text(nodes: Iterable[Node], cluster: str) -> str:
    """A line for each device in quarantine, and one on what to do; "" where there is none."""
    lines = [
        "%s: device %d is in quarantine since %s: %s of job %d can't be killed"
        % (plain(node.name), kept.device, _moment(kept.since), plain(kept.who), kept.job)
        for node in nodes
        for kept in node.quarantined
    ]
    if lines:
        names = " ".join(plain(node.name) for node in nodes if node.quarantined)
        lines.append("It ends with them, or a reboot. To give such a device out all the same: ")
        lines[-1] += "skyq resume %s %s" % (plain(cluster), names)
    return "\n".join(lines)


def strangers_text(nodes: Iterable[Node], cluster: str, grows: bool = True) -> str:
    """A line for each device that others use, or that is missing, and what to do; "" where there is none.

    `grows`: whether it is a cluster to which `skyq add` adds.
    """
    found = [(node.name, each) for node in nodes for each in node.strangers if each.who]
    lines = []
    for name, each in found:
        what = " is missing: " if each.missing else " is in use by others: "
        lines.append("%s: device %d" % (plain(name), each.device) + what + plain(each.who))
    if lines:
        lines.append("Nothing new starts there until that has changed. To give it out all the same: ")
        lines[-1] += "skyq config %s strangers=ignore" % plain(cluster)
    if grows and (names := sorted({plain(name) for name, each in found if each.missing})):
        lines.append("What is missing for good, or has another number: ")
        lines[-1] += "skyq add %s %s" % (plain(cluster), " ".join(names))
    return "\n".join(lines)


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def nodes_table(nodes: Sequence[Node], holding: Iterable[Holding], style: Style = UNSTYLED) -> str:
    """What each node has, how much of it is in use, and by which jobs."""
    rows = [
        (
            plain(node.name),
            _shortened(node.unusable, _REASON_LENGTH) or UP,
            _devices_in_use(node, use) or "-",
            "%s/%s" % (_number(use.cpus / 1000), _number(node.cpus / 1000)),
            "%s/%s GB" % (_number(use.memory / 1024, 1), _number(node.memory / 1024, 1)),
            _shortened(", ".join(map(str, use.jobs)), _LIST_LENGTH) or "-",
        )
        for node, use in _uses(nodes, holding)
    ]
    return table(("NODE", "STATE", "DEVICES", "CPUS", "MEMORY", "JOBS"), rows, {"STATE": style.state})


def _devices_in_use(node: Node, use: _Use) -> str:
    """ "H100: 1.5 of 4 in use", for each kind of device."""
    used: dict[str, int] = {}
    total: dict[str, int] = {}
    for device in node.devices:
        used[device.accelerator] = used.get(device.accelerator, 0) + use.devices.get(device.index, 0)
        total[device.accelerator] = total.get(device.accelerator, 0) + 1
    not_given = {
        "in quarantine": {each.device for each in node.quarantined},
        "by others": {each.device for each in node.strangers if each.who and not each.missing},
        "missing": {each.device for each in node.strangers if each.missing},
    }
    texts = []
    for kind in total:
        texts.append("%s: %s of %d in use" % (kind, _number(used[kind] / UNIT), total[kind]))
        its = {device.index for device in node.devices if device.accelerator == kind}
        texts += ["%d %s" % (len(its & kept), word) for word, kept in not_given.items() if its & kept]
    return ", ".join(texts)


def _number(value: float, decimals: int = 4) -> str:
    text = "%.*f" % (decimals, value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def nodes_json(
    cluster: str, nodes: Sequence[Node], holding: Iterable[Holding]
) -> dict[str, list[dict[str, object]]]:
    """The same nodes for programs."""
    return {cluster: [_node_record(node, use) for node, use in _uses(nodes, holding)]}


def _who_of(node: Node, device: int, missing: bool) -> str:
    return "; ".join(each.who for each in node.strangers if (each.device, each.missing) == (device, missing))


def _node_record(node: Node, use: _Use) -> dict[str, object]:
    return {
        "node": node.name,
        "ip": node.ip,
        "usable": not node.unusable,
        "reason": node.unusable,
        "devices": [
            {
                "index": device.index,
                "accelerator": device.accelerator,
                "uuid": device.uuid,
                "in_use": use.devices.get(device.index, 0) / UNIT,
                "quarantine": "; ".join(
                    "%s of job %d can't be killed" % (kept.who, kept.job)
                    for kept in node.quarantined
                    if kept.device == device.index
                ),
                "strangers": _who_of(node, device.index, missing=False),
                "missing": _who_of(node, device.index, missing=True),
            }
            for device in node.devices
        ],
        "cpus": node.cpus / 1000,
        "cpus_in_use": use.cpus / 1000,
        "memory_mb": node.memory,
        "memory_mb_in_use": use.memory,
        "jobs": use.jobs,
    }
