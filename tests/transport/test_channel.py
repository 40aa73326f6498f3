"""The dispatcher's side: it never waits, whatever becomes of the connection."""

from __future__ import annotations

import hashlib
import os
import select
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from skyq.core.errors import Unreachable
from skyq.core.model import Reach
from skyq.transport import channel as channel_module
from skyq.transport import opening
from skyq.transport.channel import BUFFER, INBOX, SshChannel
from tests.program import ROOT
from tests.transport.server import HOST, Relay, Silent, Sshd, free_port
from tests.waiting import wait_until

AT_ONCE = 2.0  # seconds; what takes longer has waited for something


@pytest.fixture
def open_channel(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SshChannel]]:
    """To `sshd`; closed afterwards."""
    monkeypatch.setattr(channel_module, "GOODBYE", 0.5)
    monkeypatch.setattr(opening, "BANNER_LIMIT", 3.0)
    channels: list[SshChannel] = []

    def open_channel(command: str = "cat", reach: Reach | None = None) -> SshChannel:
        if reach:
            key = sshd.host_key
            sshd.known_hosts.write_text("%s %s\n[%s]:%d %s\n" % (sshd.name, key, HOST, reach.port, key))
        channels.append(SshChannel(reach or sshd.reach(), str(sshd.key), str(sshd.known_hosts), command))
        return channels[-1]

    yield open_channel
    for channel in channels:
        channel.close()
    wait_until(
        lambda: not any(t.name.startswith(("ssh ", "goodbye")) for t in threading.enumerate()), "they end"
    )


OpenChannel = Callable[..., SshChannel]


def readable(channel: SshChannel, within: float = 0.0) -> bool:
    return bool(select.select([channel.fileno()], [], [], within)[0])


def read(channel: SshChannel) -> bytes:
    """What comes next; the channel must say when."""
    while True:
        assert readable(channel, 30), "nothing comes"
        try:
            return channel.read()
        except BlockingIOError:
            continue


def read_all(channel: SshChannel, count: int = sys.maxsize) -> bytes:
    found = b""
    while len(found) < count and (data := read(channel)):
        found += data
    return found


def ended(channel: SshChannel) -> Unreachable:
    """Why there was no connection."""
    with pytest.raises(Unreachable) as error:
        read(channel)
    assert readable(channel)
    with pytest.raises(Unreachable):
        channel.write(b"more")
    return error.value


def test_bytes_go_both_ways_from_the_first_moment(open_channel: OpenChannel) -> None:
    channel = open_channel()

    assert channel.write(b"hello\n") == 6

    assert read_all(channel, 6) == b"hello\n"


def test_there_is_nothing_to_read_until_something_came(open_channel: OpenChannel) -> None:
    channel = open_channel()

    assert not readable(channel)
    with pytest.raises(BlockingIOError):
        channel.read()
    channel.write(b"a")
    assert read(channel) == b"a"
    assert not readable(channel)
    with pytest.raises(BlockingIOError):
        channel.read()


def test_large_amounts_come_back_as_they_went(make_sshd: Callable[..., Sshd]) -> None:
    sshd = make_sshd().start(RekeyLimit="1M")
    channel = SshChannel(sshd.reach(), str(sshd.key), str(sshd.known_hosts), "cat")
    data = os.urandom(8 * 1024 * 1024)
    back, rest = hashlib.sha256(), memoryview(data)
    count = 0

    while count < len(data):
        rest = rest[channel.write(bytes(rest[:65536])) :]
        if readable(channel, 0 if rest else 30):
            came = channel.read()
            back.update(came)
            count += len(came)

    assert back.digest() == hashlib.sha256(data).digest()
    channel.close()


def test_the_end_of_the_program_is_the_end_of_the_channel(open_channel: OpenChannel) -> None:
    channel = open_channel("echo bye")

    assert read_all(channel) == b"bye\n"

    assert readable(channel)
    assert channel.read() == b""
    with pytest.raises(OSError, match="has ended"):
        channel.write(b"more")


def test_what_a_program_said_is_read_though_it_has_ended_and_takes_nothing(open_channel: OpenChannel) -> None:
    count = INBOX + INBOX // 2  # the rest waits at paramiko for room
    channel = open_channel("head -c %d /dev/zero" % count)
    assert readable(channel, 30)
    with pytest.raises(Unreachable):
        wait_until(lambda: channel.write(b"took") == 0, "nobody is there any more")

    found = bytearray()
    with pytest.raises(Unreachable, match="ended before it had read all"):
        while True:
            found += read(channel)
    assert len(found) == count


def test_a_program_that_isnt_there_is_told_with_the_shells_words(open_channel: OpenChannel) -> None:
    error = ended(open_channel("nonesuch"))

    assert "exit code 127" in str(error)
    assert "not found" in str(error)


def test_what_is_said_on_stderr_is_no_news(open_channel: OpenChannel) -> None:
    channel = open_channel("head -c 3000000 /dev/zero >&2; echo done")

    assert read(channel) == b"done\n"


def test_a_host_that_refuses_is_told_and_at_once(sshd: Sshd, open_channel: OpenChannel) -> None:
    began = time.monotonic()
    channel = open_channel(reach=Reach(HOST, free_port(), sshd.user))
    assert time.monotonic() - began < AT_ONCE

    assert ended(channel).kind == "refused"


def test_a_host_with_another_key_is_told(sshd: Sshd, open_channel: OpenChannel) -> None:
    sshd.known_hosts.write_text("")

    assert ended(open_channel()).kind == "host-key-unknown"


def test_a_key_that_may_not_is_told(sshd: Sshd, open_channel: OpenChannel) -> None:
    sshd.allowed.write_text("")

    assert ended(open_channel()).kind == "auth"


def test_a_forced_command_answers_whatever_was_asked(sshd: Sshd, open_channel: OpenChannel) -> None:
    sshd.allowed.write_text('restrict,command="cat" ' + sshd.allowed.read_text())
    channel = open_channel("rm -rf /nonesuch")

    channel.write(b"hello")

    assert read(channel) == b"hello"


def test_a_key_with_a_forced_command_opens_nothing_else(sshd: Sshd, log_in: Callable[..., object]) -> None:
    sshd.allowed.write_text('restrict,command="cat" ' + sshd.allowed.read_text())

    session = log_in(sshd.target())

    with pytest.raises(Unreachable, match="doesn't forward"):
        session.tunnel(sshd.target())  # type: ignore[attr-defined]


def test_writing_takes_so_much_and_no_more(silent: Silent, sshd: Sshd, open_channel: OpenChannel) -> None:
    channel = open_channel(reach=Reach(HOST, silent.port, sshd.user))

    taken = [channel.write(b"x" * 300_000) for _ in range(6)]

    assert sum(taken) == BUFFER
    assert taken[-1] == 0


def test_a_program_that_doesnt_read_neither_blocks_nor_deafens(open_channel: OpenChannel) -> None:
    channel = open_channel("echo first; sleep 1; echo second; sleep 1000")
    assert read(channel) == b"first\n"

    while channel.write(b"x" * 65536):
        pass
    wait_until(lambda: not channel.write(b"x" * BUFFER), "all is full")

    assert read(channel) == b"second\n"


def test_who_doesnt_read_keeps_little_in_memory(open_channel: OpenChannel) -> None:
    channel = open_channel("head -c 100000000 /dev/zero; sleep 1000")
    assert readable(channel, 30)
    before = psutil.Process().memory_info().rss

    time.sleep(1)  # nothing may happen: there is nothing to wait for

    assert psutil.Process().memory_info().rss - before < 8 * 1024 * 1024
    assert len(channel._inbox) == INBOX


def test_no_call_waits_for_a_dead_peer(sshd: Sshd, relay: Relay, open_channel: OpenChannel) -> None:
    channel = open_channel("cat", Reach(HOST, relay.port, sshd.user))
    channel.write(b"a")
    assert read(channel) == b"a"
    relay.stop()

    began = time.monotonic()
    for _ in range(100):
        channel.write(b"x" * 65536)
        with pytest.raises(BlockingIOError):
            channel.read()
    channel.close()

    assert time.monotonic() - began < AT_ONCE


def test_a_closed_channel_leaves_no_connection_to_a_dead_peer(
    sshd: Sshd, relay: Relay, open_channel: OpenChannel
) -> None:
    channel = open_channel("cat", Reach(HOST, relay.port, sshd.user))
    channel.write(b"a")
    assert read(channel) == b"a"
    relay.stop()
    for _ in range(20):
        channel.write(b"x" * 65536)

    channel.close()

    wait_until(lambda: not threads(), "its threads end", 8)


def threads() -> list[str]:
    return [
        each.name
        for each in threading.enumerate()
        if "paramiko" in repr(each) or each.name.startswith("ssh ")
    ]


def test_last_words_are_sent_though_the_process_ends(sshd: Sshd, tmp_path: Path) -> None:
    script = """
        import sys
        from skyq.core.model import Reach
        from skyq.transport.channel import SshChannel
        import select
        host, port, user, key, known, note = sys.argv[1:]
        command = "echo hi; cat >%s; echo end >>%s" % (note, note)
        channel = SshChannel(Reach(host, int(port), user), key, known, command)
        select.select([channel.fileno()], [], [])
        channel.write(b"x" * 1000000)
        channel.write(b"last words\\n")
        channel.close()
    """
    note = tmp_path / "note"
    words = [HOST, str(sshd.port), sshd.user, str(sshd.key), str(sshd.known_hosts), str(note)]

    subprocess.run([sys.executable, "-c", textwrap.dedent(script), *words], cwd=ROOT, check=True, timeout=30)

    wait_until(lambda: note.read_text().endswith("last words\nend\n"), "all of it came")


def test_the_program_sees_the_end_of_its_input_when_the_channel_closes(
    open_channel: OpenChannel, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    channel = open_channel("echo hi; cat >/dev/null; echo end >%s; yes" % note)
    assert read(channel)

    channel.close()

    wait_until(note.exists, "it does")


def test_a_channel_may_be_closed_while_it_connects(
    silent: Silent, sshd: Sshd, open_channel: OpenChannel
) -> None:
    stuck = open_channel(reach=Reach(HOST, silent.port, sshd.user))
    quick = open_channel()
    began = time.monotonic()

    stuck.close()
    quick.close()
    quick.close()

    assert time.monotonic() - began < AT_ONCE
    wait_until(lambda: threads().count("ssh " + HOST) == 1, "the one that could connect has ended")
    silent.close()


def test_sixty_four_connected_workers_fit_into_little_memory(make_sshd: Callable[..., Sshd]) -> None:
    sshd = make_sshd().start(MaxStartups="100")
    script = """
        import select, sys
        from skyq.core.model import Reach
        from skyq.transport.channel import SshChannel
        host, port, user, key, known = sys.argv[1:]
        reach = Reach(host, int(port), user)
        channels = [SshChannel(reach, key, known, "cat") for _ in range(64)]
        for channel in channels:
            channel.write(b"hello")
        for channel in channels:
            select.select([channel.fileno()], [], [])
            assert channel.read() == b"hello"
        with open("/proc/self/status") as status:
            print(next(line.split()[1] for line in status if line.startswith("VmHWM:")))
    """
    words = [HOST, str(sshd.port), sshd.user, str(sshd.key), str(sshd.known_hosts)]

    peak = subprocess.check_output(
        [sys.executable, "-c", textwrap.dedent(script), *words], cwd=ROOT, timeout=120
    )

    assert int(peak) < 60 * 1024  # kB; the dispatcher itself is to fit into 80 MB with them
