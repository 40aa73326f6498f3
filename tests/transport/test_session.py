"""A session runs programs, one after the other, and every wait in it ends."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from skyq.core.errors import Unreachable
from skyq.transport import session as session_module
from skyq.transport.base import STDERR_KEPT
from skyq.transport.ssh import Session, SshStream
from tests.transport.server import Relay, Sshd
from tests.waiting import wait_until

LogIn = Callable[..., Session]


def read_all(stream: SshStream) -> bytes:
    """What a program says until its end."""
    found = b""
    while data := stream.read(30):
        found += data
    return found


def test_a_program_gets_its_input_and_its_output_and_exit_code_come_back(sshd: Sshd, log_in: LogIn) -> None:
    stream = log_in(sshd.target()).run("read word; echo got $word; echo trouble >&2; exit 3")

    stream.write(b"hello\n")

    assert read_all(stream) == b"got hello\n"
    assert stream.stderr() == "trouble\n"
    assert stream.exit_code() == 3


def test_the_session_tells_the_hosts_key_and_address(sshd: Sshd, log_in: LogIn) -> None:
    session = log_in(sshd.target())

    assert (session.name, session.host_keys, session.peer) == ("node1", sshd.host_key, "127.0.0.1")


def test_a_program_that_a_signal_ended_has_no_exit_code_of_its_own(sshd: Sshd, log_in: LogIn) -> None:
    stream = log_in(sshd.target()).run("kill -9 $$")

    assert read_all(stream) == b""
    assert stream.exit_code() == -1


def test_reading_gives_up_after_its_time_and_loses_nothing(sshd: Sshd, log_in: LogIn) -> None:
    stream = log_in(sshd.target()).run("read word; echo $word")

    with pytest.raises(TimeoutError):
        stream.read(0.05)
    assert stream.exit_code() is None
    stream.write(b"late\n")

    assert read_all(stream) == b"late\n"


def test_bytes_come_back_as_they_went_while_one_thread_reads_and_one_writes(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    sshd = make_sshd().start(RekeyLimit="1M")
    data = os.urandom(8 * 1024 * 1024)
    stream = log_in(sshd.target()).run("cat")
    writer = threading.Thread(target=lambda: (stream.write(data), stream.end_input()))

    writer.start()
    back = read_all(stream)
    writer.join()

    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()


def test_much_on_stderr_neither_stops_the_program_nor_fills_the_memory(sshd: Sshd, log_in: LogIn) -> None:
    stream = log_in(sshd.target()).run("head -c 6000000 /dev/zero | tr '\\0' x >&2; echo done")

    wait_until(lambda: stream_says(stream) == b"done\n", "the program ends")

    assert stream.stderr() == "x" * STDERR_KEPT


def stream_says(stream: SshStream) -> bytes:
    try:
        return stream.read(0.1)
    except TimeoutError:
        return b""


def test_where_one_session_is_allowed_programs_run_one_after_the_other(
    make_sshd: Callable[..., Sshd], log_in: LogIn
) -> None:
    sshd = make_sshd().start(MaxSessions="1")
    session = log_in(sshd.target())

    said = []
    for number in range(5):
        stream = session.run("echo %d" % number)
        said.append(read_all(stream))
        stream.close()

    assert said == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]


def test_a_second_program_at_once_is_refused_where_one_is_allowed(
    make_sshd: Callable[..., Sshd], log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "OPEN_AGAIN_FOR", 0.2)
    session = log_in(make_sshd().start(MaxSessions="1").target())
    first = session.run("cat")

    with pytest.raises(Unreachable, match=r"lets .* log in, but start no program"):
        session.run("true")
    first.close()


def test_a_small_request_isnt_held_up_by_the_network(sshd: Sshd, log_in: LogIn) -> None:
    session = log_in(sshd.target())

    assert session.transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_command_may_be_replaced_by_the_server(sshd: Sshd, log_in: LogIn) -> None:
    sshd.allowed.write_text('restrict,command="echo $SSH_ORIGINAL_COMMAND; cat" ' + sshd.allowed.read_text())
    stream = log_in(sshd.target()).run("skyq")

    stream.write(b"more")
    stream.end_input()

    assert read_all(stream) == b"skyq\nmore"


def test_a_program_that_ends_before_it_has_read_all_is_told_of(sshd: Sshd, log_in: LogIn) -> None:
    stream = log_in(sshd.target()).run("exit 7")

    with pytest.raises(Unreachable, match="ended before it had read all"):
        for _ in range(1000):
            stream.write(b"x" * 100_000)
    assert read_all(stream) == b""
    assert stream.exit_code() == 7


def test_a_connection_that_is_cut_is_lost_to_who_reads_and_writes(
    sshd: Sshd, relay: Relay, log_in: LogIn
) -> None:
    stream = log_in(sshd.target(port=relay.port, host_key_alias=sshd.name)).run("cat")

    relay.close()

    with pytest.raises(Unreachable, match="was lost") as error:
        stream.read(30)
    assert error.value.kind == "lost"
    with pytest.raises(Unreachable):
        stream.write(b"hello")


def test_a_dead_peer_is_noticed_by_who_writes(
    sshd: Sshd, relay: Relay, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "WRITE_LIMIT", 1.0)
    stream = log_in(sshd.target(port=relay.port, host_key_alias=sshd.name)).run("cat >/dev/null")
    relay.stop()

    with pytest.raises(Unreachable, match="takes nothing for 1 s") as error:
        stream.write(b"x" * 30_000_000)
    assert error.value.kind == "lost"


def test_a_dead_peer_is_noticed_by_who_starts_a_program(
    sshd: Sshd, relay: Relay, log_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "OPEN_LIMIT", 1.0)
    session = log_in(sshd.target(port=relay.port, host_key_alias=sshd.name))
    relay.stop()

    with pytest.raises(Unreachable, match="no answer within 1 s"):
        session.run("true")


def test_closing_waits_for_no_dead_peer(sshd: Sshd, relay: Relay, log_in: LogIn) -> None:
    session = log_in(sshd.target(port=relay.port, host_key_alias=sshd.name))
    session.run("cat")
    relay.stop()
    began = time.monotonic()

    session.close()

    assert time.monotonic() - began < 5


def test_no_thread_is_left_of_a_session(sshd: Sshd, log_in: LogIn) -> None:
    session = log_in(sshd.target())
    read_all(session.run("true"))

    session.close()

    wait_until(lambda: not [one for one in threading.enumerate() if "paramiko" in repr(one)], "it ends", 3)
