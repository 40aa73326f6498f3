"""The machines of one lab, and the network between them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tests.lab import disk
from tests.lab.host import Host
from tests.lab.network import NOWHERE, PREFIX, Network, mac
from tests.lab.traits import USER, Traits

FIRST_CLIENT, FIRST_NODE = 2, 10  # the last parts of addresses


class Lab:
    """Off until up(). Names are client, client2... and node0, node1..."""

    def __init__(
        self,
        folder: Path,
        nodes: int = 4,
        gpus: int = 8,
        *,
        clients: int = 1,
        program: Path | None = None,
        known_hosts: bool = True,
        shared_home: bool = False,
        traits: Mapping[str, Traits] | None = None,
    ) -> None:
        """`program` is /usr/local/bin/skyq on the clients; traits: by name, of those that are special."""
        self.folder = folder / "lab"
        self.program = program
        self.known_hosts = known_hosts
        self.shared_home = shared_home
        self._wires = Network()
        self._deaf: set[tuple[str, str]] = set()  # whose packets to whom vanish
        special = traits or {}
        self.hosts: dict[str, Host] = {}
        for number in range(clients):
            name = "client%s" % (number + 1 if number else "")
            self._add(name, FIRST_CLIENT + number, replace(special.get(name, Traits()), gpus=0))
        for number in range(nodes):
            own = special.get("node%d" % number, Traits())
            count = gpus if own.gpus is None else own.gpus
            self._add("node%d" % number, FIRST_NODE + number, replace(own, gpus=count))
        assert special.keys() <= self.hosts.keys(), "no such host"

    @property
    def client(self) -> Host:
        return self.hosts["client"]

    @property
    def nodes(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.serves]

    @property
    def clients(self) -> list[Host]:
        return [host for host in self.hosts.values() if not host.serves]

    def node(self, number: int) -> Host:
        return self.hosts["node%d" % number]

    def host(self, name: str) -> Host:
        return self.hosts[name]

    def up(self) -> None:
        """Makes the disks, where there are none yet, and boots all machines."""
        if not self.folder.exists():
            self._make_disks()
        self._wires.start()
        try:
            for host in self.hosts.values():
                if host.traits.disk:
                    host.make_disk()
                host.begin_boot()
            for host in self.hosts.values():
                host.end_boot()
        except BaseException:
            self.down(keep=True)
            raise

    def down(self, keep: bool = False) -> None:
        """No process, mount or interface is left; nor a disk, unless it is kept."""
        self._wires.stop()
        for host in self.hosts.values():
            host.forget()
        if not keep and not os.environ.get("SKYQ_KEEP_LAB"):
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def prefix(self) -> list[str]:
        """What makes a command run beside the machines, whose disks it sees at their paths."""
        return self._wires.prefix

    def evidence(self) -> str:
        """What the machines logged."""
        return "".join(host.evidence() for host in self.hosts.values())

    # The network.

    def cut(self, name: str, other: str = "", one_way: bool = False) -> None:
        """Packets of and to this machine vanish; or those between two, or those to the second.

        Connections hang, and go on when it is healed; new ones time out.
        """
        if other:
            self._deaf |= {(name, other)} if one_way else {(name, other), (other, name)}
            self._route(name, other)
        else:
            self.hosts[name].unplug()

    def heal(self, name: str, other: str = "") -> None:
        """The opposite of cut."""
        if other:
            self._deaf -= {(name, other), (other, name)}
            self._route(name, other)
        else:
            self.hosts[name].plug()

    def delay(self, name: str, seconds: float) -> None:
        """Every packet of and to this machine takes so much longer, each way, until it is off."""
        self._wires.delay(name, seconds)

    def _route(self, name: str, other: str) -> None:
        for source, target in ((name, other), (other, name)):
            self._write_network(self.hosts[source])
            if self.hosts[source].on:
                self.hosts[source].root("ip", *self._neighbour(source, target).split())

    def _neighbour(self, source: str, target: str) -> str:
        """Hardware addresses are told, not asked for: so nobody ever learns that a host can't be reached."""
        address = self.hosts[target].address
        there = NOWHERE if (source, target) in self._deaf else mac(address)
        return "neigh replace %s lladdr %s dev eth0 nud permanent" % (address, there)

    # Machines by name.

    def reboot(self, name: str) -> None:
        self.hosts[name].reboot()

    def power_off(self, name: str) -> None:
        self.hosts[name].power_off()

    def power_on(self, name: str) -> None:
        self.hosts[name].boot()

    def freeze(self, name: str) -> None:
        self.hosts[name].freeze()

    def thaw(self, name: str) -> None:
        self.hosts[name].thaw()

    def stop_sshd(self, name: str) -> None:
        self.hosts[name].stop_sshd()

    def start_sshd(self, name: str) -> None:
        self.hosts[name].start_sshd()

    def restart_sshd(self, name: str) -> None:
        self.hosts[name].restart_sshd()

    # Disks.

    def _add(self, name: str, number: int, traits: Traits) -> None:
        host = Host(self.folder / name, name, PREFIX + str(number), self._wires, traits)
        host.serves = name.startswith("node")
        if self.shared_home and host.serves:
            host.homes = self.folder / "home"
        self.hosts[name] = host

    def _make_disks(self) -> None:
        for host in self.hosts.values():
            disk.make(host.disk, host.name, host.traits)
            disk.home(host.homes)
            self._write_network(host)
            (host.disk / "shared").write_text("".join("%s\t%s\n" % pair for pair in self._shared(host)))
            if host.serves:
                host.new_host_key()
                host.sshd_options()
        disk.addresses(
            [host.disk for host in self.hosts.values()], {n: h.address for n, h in self.hosts.items()}
        )
        for client in self.clients:
            self._let_in(client)

    def _let_in(self, client: Host) -> None:
        """ada's key of this machine opens all nodes."""
        line = disk.new_key(client.home / ".ssh" / "id_ed25519", "%s@%s" % (USER, client.name))
        disk.give(client.home / ".ssh" / "id_ed25519", client.home / ".ssh" / "id_ed25519.pub")
        blocks, known = "", ""
        for node in self.nodes:
            if client is self.client or node.homes == node.disk / "home":
                add_line(node.home / ".ssh" / "authorized_keys", line)
            blocks += disk.CLIENT.format(name=node.name, address=node.address, port=node.port, user=USER)
            names = [node.name, node.address]
            names = names if node.port == 22 else ["[%s]:%d" % (name, node.port) for name in names]
            known += "%s %s\n" % (",".join(names), node.host_key)
        client.write("/home/%s/.ssh/config" % USER, blocks, 0o600)
        if self.known_hosts:
            client.write("/home/%s/.ssh/known_hosts" % USER, known, 0o600)

    def _shared(self, host: Host) -> Iterator[tuple[Path, Path | str]]:
        yield from ((path, path) for path in host.traits.shared)
        if self.program is not None and not host.serves:
            yield self.program, "/usr/local/bin/skyq"

    def _write_network(self, host: Host) -> None:
        lines = ["link set lo up", "addr add %s/24 dev eth0" % host.address, "link set eth0 up"]
        lines += [self._neighbour(host.name, other) for other in self.hosts if other != host.name]
        (host.disk / "network").write_text("\n".join(lines) + "\n")


def add_line(path: Path, line: str) -> None:
    """To a file of ada's, which need not exist yet."""
    with open(path, "a") as file:
        file.write(line)
    path.chmod(0o600)
    disk.give(path)
