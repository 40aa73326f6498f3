"""A long cable: `python relay.py ONE OTHER SECONDS` carries packets between two interfaces, so much later.

What `tc qdisc add … netem delay` does, for kernels without netem. Standard library; it runs at the bridge.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque

ALL = 3  # ETH_P_ALL
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE = 263, 15, 23, 33
PACKET = 128 * 1024  # bytes that are surely more than one has, unsegmented as it is here
BUFFER = 64 * 1024 * 1024  # bytes
AT_ONCE = 64  # packets


def end(interface: str) -> socket.socket:
    """One end of the cable. Packets come and go with what is known of their checksums and segments."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    found.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    found.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    found.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    found.bind((interface, ALL))
    found.setblocking(False)
    return found


def carry(one: socket.socket, other: socket.socket, seconds: float) -> None:
    """For ever."""
    under_way: deque[tuple[float, socket.socket, bytes]] = deque()
    to = {one: other, other: one}
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for source in select.select([one, other], [], [], wait)[0]:
            for _ in range(AT_ONCE):
                try:
                    packet = source.recv(PACKET)
                except BlockingIOError:
                    break
                except OSError:  # the interface was down, and this told so
                    continue
                under_way.append((time.monotonic() + seconds, to[source], packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, target, packet = under_way.popleft()
            try:
                target.send(packet)
            except OSError:
                pass  # nobody is there: it is lost, as packets are


if __name__ == "__main__":
    ends = end(sys.argv[1]), end(sys.argv[2])
    print("up", flush=True)
    carry(*ends, float(sys.argv[3]))
