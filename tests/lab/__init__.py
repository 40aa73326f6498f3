"""Several machines within this one, with a real sshd each, for what only shows between machines.

    lab = Lab(tmp_path, nodes=4, gpus=8)
    lab.up()
    lab.client.run(["ssh", "node1", "hostname"])      -> CompletedProcess, as ada in her home
    lab.client.terminal(["ssh", "node1"])             -> Terminal: expect(), type(), wait()
    lab.cut("node1"); lab.heal("node1")               packets vanish, and no longer
    lab.delay("client", 0.02)                         each of its packets takes 20 ms longer, each way
    lab.reboot("node1")                               as a power cut does: same disk, another boot id
    lab.down()                                        nothing is left

Each has its own network, processes, host name, boot id, machine id, home, /tmp, /var/tmp, /run, /etc and
devices. Programs, libraries and the clock are this machine's; its root file system is seen read-only.
Root is needed. All ends with the process that made the lab, also when that is killed.
"""

from __future__ import annotations

from tests.lab.host import Host
from tests.lab.inside import Program
from tests.lab.lab import Lab
from tests.lab.terminal import CTRL_C, Terminal
from tests.lab.traits import PASSWORD, Traits

__all__ = ["CTRL_C", "PASSWORD", "Host", "Lab", "Program", "Terminal", "Traits"]
