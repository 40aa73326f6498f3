"""`skyq ssh`: a shell on a node of a cluster, or one command there, by the user's own OpenSSH."""

from __future__ import annotations

import os
import shlex
import shutil
import sys

from skyq.cli import cluster
from skyq.cli.nodewords import add_cluster, read
from skyq.cli.parser import Parser
from skyq.core.errors import SkyqError
from skyq.core.paths import Home
from skyq.store.place import home_root, state_home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.core.host import Host

_EXAMPLES = """\
  skyq ssh lab                       a shell on its head
  skyq ssh lab node2
  skyq ssh lab node2 -- nvidia-smi   one command; its exit code is ours
"""


def parser() -> Parser:
    """Its flags."""
    about = "A shell on a node of a cluster, or one command there. Devices are not set aside for it."
    found = Parser("ssh", "CLUSTER [NODE] [-- COMMAND...]", about, _EXAMPLES)
    add_cluster(found)
    found.add_argument(
        "node", nargs="?", metavar="NODE", help="a name as `skyq status` prints it; else the head"
    )
    return found


def main(words: list[str]) -> int:
    """Becomes ssh, or here a shell; exit code: that of the command."""
    found = read(parser(), words)
    command = found.after or []
    sys.stdout.flush()
    if cluster.here(found.cluster):
        return _from_the_head(found.cluster, found.node, command)
    host, jump = cluster.way(found.cluster, found.node)
    options = _options(host, jump) + _pinned(Home(home_root()).known_hosts)
    return _become([*options, host.ip], command)


def _from_the_head(name: str, node: str | None, command: list[str]) -> int:
    from skyq.cli.nodewords import resolve

    nodes = cluster.open_head(name, refresh=False).store.nodes()
    reach = resolve(nodes, [node], name)[0].reach if node else None
    if reach is None:
        shell = os.environ.get("SHELL") or "/bin/sh"
        os.execvp(shell, [shell, "-c", shlex.join(command)] if command else [shell])
    options = ["-p", str(reach.port), "-l", reach.user]
    pinned = _pinned(state_home().cluster(name).known_hosts)
    return _become([*options, *pinned, reach.host], command)


def _become(words: list[str], command: list[str]) -> int:
    if not shutil.which("ssh"):
        raise SkyqError(
            "There is no ssh on this machine: install OpenSSH's client (apt install openssh-client)."
        )
    terminal = ["-t"] if not command else []
    # Several words keep their quoting, as after `exec CLUSTER --`; one is a shell line.
    line = [shlex.join(command)] if len(command) > 1 else command
    os.execvp("ssh", ["ssh", *terminal, *words, *(["--", *line] if line else [])])
    return 0


def _options(host: Host, jump: Host | None) -> list[str]:
    """What the inventory says of how to reach it; OpenSSH knows the rest."""
    found = []
    if host.user:
        found += ["-l", host.user]
    if host.port:
        found += ["-p", str(host.port)]
    if host.identity_file:
        found += ["-i", os.path.expanduser(host.identity_file)]
    if jump:
        # -J has no room for an identity file.
        through = shlex.join(["ssh", *_options(jump, None), *_pinned(Home(home_root()).known_hosts)])
        found += [
            "-o",
            "ProxyCommand=%s -W '[%%h]:%%p' %s" % (through.replace("%", "%%"), shlex.quote(jump.ip)),
        ]
    return found


def _pinned(path: str) -> list[str]:
    """Host keys that skyq knows count beside the user's own."""
    if not os.path.exists(path):
        return []
    own = " ".join(os.path.expanduser("~/.ssh/" + name) for name in ("known_hosts", "known_hosts2"))
    return ["-o", 'UserKnownHostsFile=%s "%s"' % (own, path)]
