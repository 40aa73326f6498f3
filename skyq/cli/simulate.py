"""`skyq simulate`: what a cluster would do with a list of jobs, without running them."""

from __future__ import annotations

import csv
import os
import sys
import time
from argparse import Namespace

from skyq.cli.parser import Parser
from skyq.core.errors import SkyqError, TaskError, UsageError
from skyq.core.model import DEFAULT_CPUS, Device, Node, Request
from skyq.core.request import (
    check_num_nodes,
    check_priority,
    parse_accelerators,
    parse_cpus,
    parse_memory,
    show,
)
from skyq.core.schedule import misfit
from skyq.core.simulate import Arrival, Played, play, share_of, utilisation
from skyq.core.words import duration, parsed_duration

_COLUMNS = ("submit", "duration", "gpus", "nodes", "cpus", "memory", "priority", "limit", "name")
_EXAMPLES = """\
  skyq simulate trace.csv pools.yaml                    the hosts of an inventory, with what it says they have
  skyq simulate trace.csv --nodes 16 --gpus H100:8      so many equal ones
  skyq simulate trace.csv --nodes 16 --gpus H100:8 --reserve-after never

  trace.csv has a line per job, and a first line that names its columns:
    submit,duration,gpus,nodes          when it comes and how long it lasts: 90, 90s, 2h; H100:2; 1
    0,2h,H100:8,1                       also cpus, memory, priority, limit, name; only duration is needed
"""


def parser() -> Parser:
    """Its flags."""
    about = (
        "Play a list of jobs through the scheduler: who would wait how long, and how full the devices were."
    )
    found = Parser("simulate", "[OPTIONS] TRACE.csv [POOLS.yaml]", about, _EXAMPLES)
    add = found.add_argument
    add("trace", metavar="TRACE.csv", help="the jobs")
    add("pools", nargs="?", metavar="POOLS.yaml", help="the nodes, as in the inventory")
    add("--nodes", type=int, metavar="N", help="instead: so many equal ones")
    add("--gpus", metavar="TYPE:COUNT", default="GPU:8", help="devices of each (GPU:8)")
    add("--cpus", metavar="N", default="64", help="CPUs of each (64)")
    add("--memory", metavar="GB", default="512", help="memory of each (512)")
    add("--reserve-after", metavar="TIME", default="30m", help="as `skyq config` has it: 10m, never (30m)")
    return found


def main(words: list[str]) -> int:
    """Exit code 0."""
    found = parser().read(words)
    nodes = _nodes(found)
    arrivals = _trace(found.trace, nodes)
    began = time.perf_counter()
    played = play(nodes, arrivals, _reserve_after(found.reserve_after))
    took = time.perf_counter() - began
    print(_report(nodes, played))
    print("%d jobs played in %.1f s" % (len(played), took), file=sys.stderr)
    return 0


def _reserve_after(text: str) -> float | None:
    seconds = parsed_duration(text)
    if seconds is None and text != "never":
        raise UsageError("--reserve-after should be a time: 90s, 10m, 2h; or never. Found: %s" % text)
    return seconds


def _nodes(found: Namespace) -> list[Node]:
    if bool(found.nodes) == bool(found.pools):
        raise UsageError("Give the nodes: either POOLS.yaml or --nodes N.")
    if found.nodes:
        name, amount = (parse_accelerators(found.gpus) or (("", 0),))[0]
        accelerators = {name: amount // 10_000} if name else {}
        have = accelerators, parse_cpus(found.cpus)[0], parse_memory(found.memory)
        return [_node("node%d" % n, n, *have) for n in range(check_num_nodes(found.nodes))]
    from skyq.core.inventory import load_inventory

    pools = load_inventory(_text(found.pools), found.pools)
    hosts = [host for pool in pools.values() for host in pool.hosts]
    lacking = [host.ip for host in hosts if host.accelerators is None]
    if lacking or not hosts:
        what = "of %s it isn't said what they have" % ", ".join(lacking[:5]) if lacking else "no host"
        raise SkyqError("%s: %s. Write accelerators: {H100: 8}." % (found.pools, what))
    cpus, memory = parse_cpus(found.cpus)[0], parse_memory(found.memory)
    return [
        _node(host.ip, at, host.accelerators or {}, host.cpus or cpus, host.memory or memory)
        for at, host in enumerate(hosts)
    ]


def _node(name: str, index: int, accelerators: dict[str, int], cpus: int, memory: int) -> Node:
    kinds = [kind for kind, count in accelerators.items() for _ in range(count)]
    return Node(name, index, tuple(Device(at, kind) for at, kind in enumerate(kinds)), cpus, memory)


def _text(path: str) -> str:
    try:
        with open(os.path.expanduser(path), encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise SkyqError("%s can't be read: %s" % (path, error)) from None


def _trace(path: str, nodes: list[Node]) -> list[Arrival]:
    rows = csv.DictReader(_text(path).splitlines())
    columns = [name.strip() for name in rows.fieldnames or ()]
    unknown = [name for name in columns if name not in _COLUMNS]
    if unknown or "duration" not in columns:
        raise SkyqError(
            "%s: the first line should name the columns: duration, and any of %s. Found: %s"
            % (
                path,
                ", ".join(sorted({*_COLUMNS} - {"duration"})),
                ", ".join(columns) or "nothing",
            )
        )
    rows.fieldnames = columns
    arrivals = []
    possible: set[tuple[int, Request]] = set()
    for row in rows:
        where = "%s, line %d" % (path, rows.line_num)
        try:
            arrival = _arrival({name: (text or "").strip() for name, text in row.items() if name in _COLUMNS})
        except (TaskError, ValueError) as error:
            raise SkyqError("%s: %s" % (where, error)) from None
        shape = arrival.num_nodes, arrival.request
        why = None if shape in possible else misfit(nodes, arrival.num_nodes, [arrival.request], "CLUSTER")
        if why:
            raise SkyqError("%s: %s" % (where, "\n".join(why.splitlines()[:3])))
        possible.add(shape)
        arrivals.append(arrival)
    if not arrivals:
        raise SkyqError("%s has no jobs." % path)
    return arrivals


def _arrival(row: dict[str, str]) -> Arrival:
    name, amount = (parse_accelerators(row.get("gpus") or None) or ((None, 0),))[0]
    cpus = parse_cpus(row["cpus"])[0] if row.get("cpus") else DEFAULT_CPUS
    memory = parse_memory(row["memory"]) if row.get("memory") else 0
    lasts = _seconds("duration", row["duration"])
    limit = _seconds("limit", row["limit"]) if row.get("limit") else None
    return Arrival(
        _seconds("submit", row.get("submit") or "0"),
        lasts if limit is None else min(lasts, limit),
        check_num_nodes(_whole("nodes", row.get("nodes") or "1")),
        Request(name, amount, cpus, memory),
        check_priority(_whole("priority", row.get("priority") or "0")),
        limit,
    )


def _seconds(field: str, text: str) -> float:
    found = parsed_duration(text)
    if found is not None:
        return float(found)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e10:
        raise ValueError("%s should be a time: 90, 90s, 2h. Found: %s" % (field, show(text)))
    return seconds


def _whole(field: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("%s should be a whole number. Found: %s" % (field, show(text))) from None


def _report(nodes: list[Node], played: list[Played]) -> str:
    from skyq.cli.render import table

    groups: dict[str, list[Played]] = {}
    for each in sorted(played, key=lambda each: (each.arrival.num_nodes, each.arrival.request.amount)):
        groups.setdefault(_shape(each.arrival), []).append(each)
    rows = [(name, *_cells(each)) for name, each in [*groups.items(), ("all", played)]]
    begin = min(each.arrival.submitted for each in played)
    span = max(each.ended for each in played) - begin
    full = ", ".join("%s %.1f %%" % (kind, 100 * part) for kind, part in utilisation(nodes, played).items())
    return "%s\n%d nodes; %s from the first submit to the last end; devices in use: %s" % (
        table(("PER JOB", "JOBS", "MEAN WAIT", "MEDIAN", "95 %", "LONGEST"), rows),
        *(len(nodes), duration(span), full or "there are none"),
    )


def _shape(arrival: Arrival) -> str:
    from skyq.core.accelerators import resources_text

    return resources_text(arrival.num_nodes, [arrival.request], "")


def _cells(played: list[Played]) -> tuple[str, ...]:
    share = share_of(played)
    return (str(share.jobs), *(duration(each) if each >= 1 else "0s" for each in share[1:]))
