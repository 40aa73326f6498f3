"""Getting there: directly, by jump hosts, by the user's own command; what is said when there is no way."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyq.core.errors import Unreachable
from skyq.core.paths import Home
from skyq.transport import dial, opening, slots, ssh
from skyq.transport.ssh import Session
from tests.transport.server import HOST, Silent, Sshd, free_port
from tests.transport.test_session import read_all
from tests.waiting import wait_until

LogIn = Callable[..., Session]


def says(session: Session) -> bytes:
    """What the host answers: which connection it sees."""
    return read_all(session.run("echo here"))


def failure(log_in: LogIn, sshd: Sshd, **more: object) -> Unreachable:
    with pytest.raises(Unreachable) as error:
        log_in(sshd.target(**more))
    assert "node1" in str(error.value)
    return error.value


def test_a_port_where_nobody_listens_is_refused(sshd: Sshd, log_in: LogIn) -> None:
    error = failure(log_in, sshd, port=free_port())

    assert error.kind == "refused"
    assert "ssh node1" in str(error)


def test_a_name_that_nobody_knows_is_told(sshd: Sshd, log_in: LogIn) -> None:
    error = failure(log_in, sshd, hostname="nobody.invalid")

    assert error.kind == "name"
    assert "nobody.invalid" in str(error)


@pytest.mark.parametrize("name", ["a" * 300, "-", "a..b", "ä" * 80])
def test_a_name_that_can_be_none_is_told(sshd: Sshd, log_in: LogIn, name: str) -> None:
    assert failure(log_in, sshd, hostname=name).kind == "name"


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Where packets vanish: the kernel drops what doesn't fit into the queue of a listener."""
    listener = socket.create_server((HOST, 0), backlog=0)
    port = listener.getsockname()[1]
    fill = [socket.socket() for _ in range(4)]
    for each in fill:
        each.setblocking(False)
        each.connect_ex((HOST, port))
    yield port
    for each in [listener, *fill]:
        each.close()


def test_a_host_that_doesnt_answer_has_its_time(sshd: Sshd, log_in: LogIn, deaf_port: int) -> None:
    error = failure(log_in, sshd, port=deaf_port, connect_timeout=0.5)

    assert error.kind == "timeout"
    assert "0.5 s" in str(error)


def test_one_that_doesnt_answer_behind_a_session_does_that_no_harm(
    sshd: Sshd, log_in: LogIn, deaf_port: int
) -> None:
    above = log_in(sshd.target(name="head"))

    with pytest.raises(Unreachable, match=r"doesn't answer head .* within 0.5 s") as error:
        log_in(sshd.target(port=deaf_port, connect_timeout=0.5), via=above)

    assert error.value.kind == "timeout"
    assert says(above) == b"here\n"


def test_an_address_without_a_route_is_told(sshd: Sshd, log_in: LogIn) -> None:
    error = failure(
        log_in, sshd, hostname="fe80::1%lo" if os.path.exists("/proc/net/if_inet6") else "255.255.255.255"
    )

    assert error.kind in ("no-route", "other", "refused", "timeout")


def test_a_dead_address_of_a_name_doesnt_hold_up_the_others(sshd: Sshd, deaf_port: int) -> None:
    began = time.monotonic()

    found, errors = dial._race(
        [
            (socket.AF_INET, (HOST, deaf_port)),
            (socket.AF_INET, (HOST, free_port())),
            (socket.AF_INET, (HOST, sshd.port)),
        ],
        began + 5,
    )

    assert found is not None and found.getpeername() == (HOST, sshd.port)
    assert [error.errno for error in errors] == [errno.ECONNREFUSED]
    assert time.monotonic() - began < 3
    found.close()


def test_a_server_that_says_nothing_is_frozen(
    sshd: Sshd, silent: Silent, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BANNER_LIMIT", 0.5)

    error = failure(log_in, sshd, port=silent.port)

    assert error.kind == "frozen"
    assert "ssh node1" in str(error)


def test_a_server_that_says_no_more_than_what_it_is_is_frozen(
    sshd: Sshd, silent: Silent, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "HANDSHAKE_LIMIT", 0.5)
    silent.greets(b"SSH-2.0-Silent\r\n")

    error = failure(log_in, sshd, port=silent.port)

    assert error.kind == "frozen"
    assert "handshake within 0.5 s" in str(error)


def test_what_isnt_ssh_is_told(sshd: Sshd, log_in: LogIn) -> None:
    listener = socket.create_server((HOST, 0))

    def answer() -> None:
        caller, _ = listener.accept()
        with caller:
            caller.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 200)
            caller.recv(1000)

    threading.Thread(target=answer, daemon=True).start()
    error = failure(log_in, sshd, port=listener.getsockname()[1])

    assert error.kind == "other"
    assert "doesn't talk SSH" in str(error)
    listener.close()


def test_servers_without_a_common_algorithm_are_told(make_sshd: Callable[..., Sshd], log_in: LogIn) -> None:
    sshd = make_sshd().start(Ciphers="chacha20-poly1305@openssh.com")

    assert "no SSH algorithm in common" in str(failure(log_in, sshd))


def test_a_server_that_drops_connections_is_tried_again(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    sshd = make_sshd().start(MaxStartups="1:100:1")
    occupant = socket.create_connection((HOST, sshd.port))
    done: list[bytes] = []
    thread = threading.Thread(target=lambda: done.append(says(log_in(sshd.target()))))

    thread.start()
    wait_until(
        lambda: "past MaxStartups" in sshd.log() or "drop connection" in sshd.log(),
        "one is dropped",
        evidence=sshd.log,
    )
    occupant.close()
    thread.join()

    assert done == [b"here\n"]


def test_a_server_that_drops_all_is_given_up(
    make_sshd: Callable[..., Sshd], log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "RETRY_FOR", 1.0)
    sshd = make_sshd().start(MaxStartups="1:100:1")
    with socket.create_connection((HOST, sshd.port)):
        error = failure(log_in, sshd)

    assert "MaxStartups" in str(error)


def test_many_log_in_at_once_where_the_server_takes_few(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    sshd = make_sshd().start(MaxStartups="4:100:8")
    said: list[bytes] = []
    threads = [threading.Thread(target=lambda: said.append(says(log_in(sshd.target())))) for _ in range(24)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert said == [b"here\n"] * 24


def test_so_many_handshakes_are_in_flight_at_most(tmp_path: Path) -> None:
    inside, most = [0], [0]
    lock = threading.Lock()
    full = threading.Barrier(slots.SLOTS)

    def shake_hands(first: bool) -> None:
        with slots.slot(str(tmp_path / "locks"), "node1", 22):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            if first:
                full.wait(10)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=shake_hands, args=(number < slots.SLOTS,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most[0] == slots.SLOTS


def test_slots_are_a_courtesy_where_no_lock_can_be_had(sshd: Sshd, log_in: LogIn, home: Home) -> None:
    Path(home.root).mkdir()
    Path(home.handshakes).write_text("no folder")

    assert says(log_in(sshd.target())) == b"here\n"


def test_a_slot_is_free_after_a_handshake(sshd: Sshd, log_in: LogIn, home: Home) -> None:
    log_in(sshd.target())

    for path in Path(home.handshakes).iterdir():
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_jump_hosts_lead_there_and_each_ones_key_is_checked(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    first, second, last = (make_sshd().start() for _ in range(3))
    jumps = (first.target(name="first"), second.target(name="second"))

    session = log_in(last.target(jumps=jumps))

    assert says(session) == b"here\n"
    assert session.host_keys == last.host_key
    second.known_hosts.unlink()
    with pytest.raises(Unreachable, match="On the way to node1: The host key of second"):
        log_in(last.target(jumps=jumps))


def test_large_amounts_pass_through_jump_hosts(make_sshd: Callable[..., Sshd], log_in: LogIn) -> None:
    first, last = make_sshd().start(), make_sshd().start()
    stream = log_in(last.target(jumps=(first.target(name="first"),))).run("cat")
    data = os.urandom(3_000_000)
    writer = threading.Thread(target=lambda: (stream.write(data), stream.end_input()))

    writer.start()

    assert read_all(stream) == data
    writer.join()


def test_a_session_to_a_jump_host_ends_with_the_one_behind_it(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    first, last = make_sshd().start(), make_sshd().start()
    session = log_in(last.target(jumps=(first.target(name="first"),)))
    (hop,) = session.hops

    session.close()

    assert not hop.transport.is_active()


def test_a_host_behind_an_open_session_is_reached_through_it(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    head, worker = make_sshd().start(), make_sshd().start()
    above = log_in(head.target(name="head"))

    session = log_in(worker.target(), via=above)

    assert says(session) == b"here\n"
    assert session.peer == HOST
    session.close()
    assert says(above) == b"here\n"


def test_several_hosts_are_reached_through_one_session_at_once(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    head, worker = make_sshd().start(MaxSessions="1"), make_sshd().start()
    above = log_in(head.target(name="head"))
    said: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: said.append(says(log_in(worker.target(), via=above))))
        for _ in range(6)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert said == [b"here\n"] * 6


def test_what_the_host_in_between_cant_reach_is_told(sshd: Sshd, log_in: LogIn) -> None:
    above = log_in(sshd.target(name="head"))

    with pytest.raises(Unreachable, match=r"node1 .* can't be reached from head"):
        log_in(sshd.target(port=free_port()), via=above)


def test_a_host_in_between_that_forwards_nothing_is_told(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    sshd = make_sshd().start(AllowTcpForwarding="no")
    above = log_in(sshd.target(name="head"))

    with pytest.raises(Unreachable, match=r"head .* doesn't forward connections"):
        log_in(sshd.target(), via=above)


RELAY = """\
import os, select, socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
while True:
    for each in select.select([0, sock], [], [])[0]:
        data = os.read(0, 65536) if each == 0 else sock.recv(65536)
        if not data:
            sys.exit()
        sock.sendall(data) if each == 0 else os.write(1, data)
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    """A ProxyCommand that works, up to its arguments."""
    (tmp_path / "relay.py").write_text(RELAY)
    return "python3 %s" % shlex.quote(str(tmp_path / "relay.py"))


def test_a_proxy_command_leads_there(sshd: Sshd, log_in: LogIn, command: str) -> None:
    session = log_in(sshd.target(proxy_command="%s %s %d" % (command, HOST, sshd.port)))

    stream = session.run("cat")
    stream.write(b"x" * 1_000_000)
    stream.end_input()

    assert read_all(stream) == b"x" * 1_000_000
    assert session.peer == ""


def test_a_proxy_command_that_fails_is_told_with_its_words(sshd: Sshd, log_in: LogIn) -> None:
    error = failure(log_in, sshd, proxy_command="sh -c 'echo no such proxy >&2'")

    assert "The ProxyCommand of node1" in str(error)
    assert "no such proxy" in str(error)


def test_a_proxy_command_that_says_nothing_is_ended(
    sshd: Sshd, log_in: LogIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(opening, "BANNER_LIMIT", 0.5)
    note = tmp_path / "pid"

    error = failure(log_in, sshd, proxy_command="sh -c 'echo $$ >%s; exec sleep 1000'" % note)

    assert error.kind == "frozen"
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_the_end_of_a_proxy_command_is_noticed(
    sshd: Sshd, log_in: LogIn, command: str, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    proxy = "sh -c 'echo $$ >%s; exec %s %s %d'" % (note, command, HOST, sshd.port)
    stream = log_in(sshd.target(proxy_command=proxy)).run("cat")

    os.kill(int(note.read_text()), 9)

    with pytest.raises(Unreachable, match="was lost"):
        stream.read(30)
