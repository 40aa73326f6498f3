"""Where a host is and how one gets there, as the user's OpenSSH would: `ssh -G` is asked, not imitated."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from skyq.core.errors import Unreachable
from skyq.core.host import Host
from skyq.core.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Tuple

ASK_LIMIT = 15.0  # seconds for `ssh -G`, which may run the user's own `Match exec`
HOPS_LIMIT = 8  # jump hosts behind each other: more is a circle
SSH_PORT = 22
IDENTITIES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


class Target(NamedTuple):
    """All that is needed to connect to one host."""

    name: str
    """As it was typed."""
    hostname: str
    port: int
    user: str
    identities: Tuple[str, ...] = ()
    """Private key files to try in that order; some may not exist."""
    identities_only: bool = False
    """No key of the agent but these."""
    agent: str = ""
    """Socket of the SSH agent; empty: none."""
    jumps: Tuple[Target, ...] = ()
    """Jump hosts, in the order of the way."""
    proxy_command: str = ""
    """What to run instead of a TCP connection; ready for a shell."""
    known_hosts: Tuple[str, ...] = ()
    host_key_alias: str = ""
    connect_timeout: float = 0.0
    """Seconds; 0: not said."""
    family: str = "any"
    """any, inet or inet6."""
    certificates: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()
    """One line each: what of the user's configuration couldn't be read."""

    @property
    def where(self) -> str:
        """For people: the name, and where that is if the name doesn't say it."""
        port = "" if self.port == SSH_PORT else " port %d" % self.port
        if self.name == self.hostname:
            return self.name + port
        return "%s (%s%s)" % (self.name, self.hostname, port)


def resolve(host: Host) -> Target:
    """The way to a host of the inventory. Unreachable when OpenSSH can't read its own configuration."""
    return _resolve(host, 0)


def _resolve(host: Host, depth: int) -> Target:
    if depth > HOPS_LIMIT:
        raise Unreachable(
            "%s is reached through more than %d jump hosts: ProxyJump in ~/.ssh/config runs in a circle.\n"
            "See `ssh -G %s`." % (host.ip, HOPS_LIMIT, host.ip)
        )
    asked, notes = _ask(host)
    target = _target(host, asked, tuple(notes))
    jump = _last(asked, "proxyjump")
    if jump and jump.lower() != "none":
        return target._replace(jumps=_jumps(jump, depth), proxy_command="")
    return target


def _jumps(spec: str, depth: int) -> Tuple[Target, ...]:
    """The hosts of a ProxyJump. Only the first is reached by its own way, as in OpenSSH."""
    hops: List[Target] = []
    for word in spec.split(","):
        hop = _resolve(_jump_host(word), depth + 1)
        if hops:
            hop = hop._replace(proxy_command="")
        else:
            hops += hop.jumps
        hops.append(hop._replace(jumps=()))
    return tuple(hops)


def _jump_host(word: str) -> Host:
    """[ssh://][user@]host[:port]"""
    text = word.strip()
    if text.startswith("ssh://"):
        text = text[len("ssh://") :].rstrip("/")
    user, _, place = text.rpartition("@")
    found = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?|([^:]+)(?::(\d+))?", place)
    if not found:
        return Host(ip=place, user=user or None)  # a bare IPv6 address
    port = found.group(2) or found.group(4)
    return Host(ip=found.group(1) or found.group(3), user=user or None, port=int(port) if port else None)


def _target(host: Host, asked: Dict[str, List[str]], notes: Tuple[str, ...]) -> Target:
    user = host.user or _last(asked, "user") or _me()
    port = host.port or int(_last(asked, "port") or SSH_PORT)
    hostname = _last(asked, "hostname") or host.ip
    tokens = _Tokens(host.ip, hostname, port, user, _last(asked, "hostkeyalias"))
    own = [host.identity_file] if host.identity_file else asked.get("identityfile", [])
    timeout = _last(asked, "connecttimeout")
    proxy = _last(asked, "proxycommand")
    return Target(
        name=host.ip,
        hostname=hostname,
        port=port,
        user=user,
        identities=tuple(path for path in map(tokens.path, own) if path),
        identities_only=bool(host.identity_file) or _last(asked, "identitiesonly") == "yes",
        agent=_agent(_last(asked, "identityagent"), tokens),
        proxy_command="" if proxy.lower() in ("", "none") else tokens.expand(proxy),
        known_hosts=tuple(
            path
            for key in ("userknownhostsfile", "globalknownhostsfile")
            for path in map(tokens.path, _paths(_last(asked, key)))
            if path
        ),
        host_key_alias=_last(asked, "hostkeyalias"),
        connect_timeout=float(timeout) if timeout.isdigit() else 0.0,
        family=_last(asked, "addressfamily") or "any",
        certificates=tuple(path for path in map(tokens.path, asked.get("certificatefile", [])) if path),
        notes=notes,
    )


def _agent(said: str, tokens: _Tokens) -> str:
    """The agent's socket; SSH_AUTH_SOCK unless the configuration says something else."""
    if said.lower() == "none":
        return ""
    if said in ("", "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK", "")
    if said.startswith("$"):
        return os.environ.get(said[1:].strip("{}"), "")
    return tokens.path(said)


class _Tokens(NamedTuple):
    """What OpenSSH puts for %h and the like, which `ssh -G` prints as they were written."""

    typed: str
    hostname: str
    port: int
    user: str
    alias: str

    def expand(self, text: str) -> str:
        """With the values in place; a token that nobody knows stays."""
        values = {
            "%": "%",
            "h": self.hostname,
            "n": self.typed,
            "p": str(self.port),
            "r": self.user,
            "k": self.alias or self.typed,
            "d": _home(),
            "u": _me(),
            "i": str(os.getuid()),
            "l": os.uname().nodename,
            "L": os.uname().nodename.partition(".")[0],
        }
        return re.sub(r"%(.)", lambda found: values.get(found.group(1), found.group(0)), text)

    def path(self, text: str) -> str:
        """The path of a file; empty for none."""
        if text.lower() == "none":
            return ""
        path = os.path.expandvars(self.expand(text.strip('"')))
        return _home() + path[1:] if path == "~" or path.startswith("~/") else os.path.expanduser(path)


def _ask(host: Host) -> Tuple[Dict[str, List[str]], List[str]]:
    """The configuration of a host: lower-case keyword → its values, and notes."""
    ssh = shutil.which("ssh")
    if not ssh:
        return _read_config(host)
    argv = [ssh, "-G"]
    if host.user:
        argv += ["-l", host.user]
    if host.port:
        argv += ["-p", str(host.port)]
    try:
        asked = subprocess.run(
            [*argv, "--", host.ip],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=ASK_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(
            "`ssh -G %s` didn't answer within %d s; it reads ~/.ssh/config, where a `Match exec` may hang."
            % (host.ip, ASK_LIMIT)
        ) from None
    if asked.returncode:
        raise Unreachable(
            "OpenSSH can't tell how to reach %s: %s\nTry `ssh -G %s`."
            % (host.ip, asked.stderr.strip() or "exit code %d" % asked.returncode, host.ip)
        )
    found: Dict[str, List[str]] = {}
    for line in asked.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key.lower(), []).append(value)
    return found, []


def _read_config(host: Host) -> Tuple[Dict[str, List[str]], List[str]]:
    """The same without an OpenSSH client: paramiko reads the files, all but `Include`."""
    from paramiko import SSHConfig

    config, notes = SSHConfig(), []
    for path in (os.path.join(_home(), ".ssh", "config"), "/etc/ssh/ssh_config"):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except OSError:
            continue
        if re.search(r"(?im)^\s*include\b", text):
            notes.append("%s: Include is not followed, as there is no `ssh` on this machine." % path)
        config.parse(iter(text.splitlines()))
    found: Dict[str, List[str]] = {
        key: value if isinstance(value, list) else [value] for key, value in config.lookup(host.ip).items()
    }
    found.setdefault("identityfile", ["~/.ssh/" + name for name in IDENTITIES])
    found.setdefault("userknownhostsfile", ["~/.ssh/known_hosts ~/.ssh/known_hosts2"])
    found.setdefault("globalknownhostsfile", [" ".join(SYSTEM_KNOWN_HOSTS)])
    return found, notes


def _last(asked: Dict[str, List[str]], key: str) -> str:
    return (asked.get(key) or [""])[-1]


def _paths(text: str) -> List[str]:
    """Several files in one line. `ssh -G` doesn't quote spaces in a path, but each begins at its root."""
    return re.split(r' (?=[/~%$"])', text)


def _me() -> str:
    import getpass

    return getpass.getuser()


def _home() -> str:
    """OpenSSH goes by the account, not by HOME."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return os.path.expanduser("~")
