"""From a host's address to a socket that leads there: TCP, or the user's ProxyCommand. No SSH yet."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import subprocess
import threading
import time

from skyq.core.errors import Unreachable
from skyq.core.typed import NamedTuple
from skyq.transport.hosts import Target
from skyq.transport.limits import Limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple, TypeAlias

CONNECT_LIMIT = 10.0  # seconds
NEXT_ADDRESS = 0.3  # seconds after which the next address of a name is tried, beside the first
FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL)
QUICKACK = getattr(socket, "TCP_QUICKACK", None)
"""Linux has it."""
STDERR_KEPT = 4096  # bytes of what a ProxyCommand said

Address: TypeAlias = "Tuple[int, Tuple[object, ...]]"
"""Family and what connect() takes."""


class Wire(NamedTuple):
    """What leads to a host."""

    sock: Any
    """A socket, or a channel of another session."""
    peer: str
    """The address that was connected to; as it was given, where another host connected. Empty: not known."""
    proxy: Optional[Proxy] = None
    carrier: Optional[Callable[[], None]] = None
    """Cuts the session that a channel is one of."""

    def shut(self) -> None:
        """Wake whoever waits on it, in whichever thread. Never waits itself."""
        if self.carrier is None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        else:
            # To close a channel is to write to the session that carries it, which may be dead.
            threading.Thread(target=self._close_sock, daemon=True).start()

    def close(self, transport: Any = None) -> None:
        """Its end, that of paramiko's transport on it, and that of the ProxyCommand."""
        if self.carrier is None:
            self.shut()  # or paramiko's thread wouldn't notice for a while
        if transport is not None:
            with Limit(CONNECT_LIMIT, self.carrier or self.shut):
                transport.close()
        self._close_sock()
        if self.proxy:
            self.proxy.close()

    def _close_sock(self) -> None:
        with Limit(CONNECT_LIMIT, self.carrier or self.shut), contextlib.suppress(OSError, EOFError):
            self.sock.close()


class _Prompt(socket.socket):
    """A TCP connection that holds nothing back, as paramiko's would: 40 ms for each request or more.

    Our small packets wait for no acknowledgement, and we acknowledge at once what comes: sshd sends no second
    small packet before that.
    """

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def recv(self, count: int, flags: int = 0) -> bytes:
        """As always; the kernel forgets the option when it likes."""
        data = super().recv(count, flags)
        if data and QUICKACK is not None:
            self.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        return data


def dial(target: Target) -> Wire:
    """Connect. Raises Unreachable."""
    if target.proxy_command:
        return _through_proxy(target)
    limit = target.connect_timeout or CONNECT_LIMIT
    deadline = time.monotonic() + limit
    addresses = _addresses(target, limit)
    found, errors = _race(addresses, deadline)
    if found is None:
        raise _no_answer(target, errors, limit)
    peer = found.getpeername()[0]
    return Wire(_Prompt(fileno=found.detach()), peer)


def _addresses(target: Target, limit: float) -> List[Address]:
    """Of a name; in a thread, because a name server that is silent can't be given a limit otherwise."""
    found: List[Address] = []
    failed: List[OSError] = []
    family = FAMILIES.get(target.family, socket.AF_UNSPEC)

    def look_up() -> None:
        try:
            for each in socket.getaddrinfo(target.hostname, target.port, family, socket.SOCK_STREAM):
                found.append((each[0], each[4]))
        except (OSError, UnicodeError) as error:
            failed.append(error if isinstance(error, OSError) else OSError(0, str(error)))

    if _is_address(target.hostname):
        look_up()
    else:
        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(limit)
    if found:
        return list(dict.fromkeys(found))
    why = failed[0].strerror if failed else "no answer from the name server within %d s" % limit
    raise Unreachable(
        "The name %s can't be resolved: %s.\nCorrect it in pools.yaml, or give its address in ~/.ssh/config "
        "(HostName)." % (_named(target), why),
        "name",
    )


def _is_address(name: str) -> bool:
    for family in FAMILIES.values():
        try:
            socket.inet_pton(family, name.partition("%")[0])
            return True
        except OSError:
            continue
    return False


def _named(target: Target) -> str:
    return (
        target.hostname if target.name == target.hostname else "%s (of %s)" % (target.hostname, target.name)
    )


def _race(addresses: List[Address], deadline: float) -> Tuple[Optional[socket.socket], List[OSError]]:
    """The first of the addresses that answers; a dead one doesn't hold up the others."""
    waiting: Dict[int, socket.socket] = {}
    errors: List[OSError] = []
    todo = list(addresses)
    try:
        while todo or waiting:
            if todo:
                _begin(todo.pop(0), waiting, errors)
            left = deadline - time.monotonic()
            if left <= 0:
                break
            answered = _answer(waiting, min(left, NEXT_ADDRESS) if todo else left)
            if answered is None:
                continue
            code = answered.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return answered, errors
            errors.append(OSError(code, os.strerror(code)))
            answered.close()
        return None, errors
    finally:
        for each in waiting.values():
            each.close()


def _begin(address: Address, waiting: Dict[int, socket.socket], errors: List[OSError]) -> None:
    try:
        sock = socket.socket(address[0], socket.SOCK_STREAM)
    except OSError as error:
        errors.append(error)
        return
    sock.setblocking(False)
    code = sock.connect_ex(address[1])
    if code in (0, errno.EINPROGRESS):
        waiting[sock.fileno()] = sock
        return
    errors.append(OSError(code, os.strerror(code)))
    sock.close()


def _answer(waiting: Dict[int, socket.socket], limit: float) -> Optional[socket.socket]:
    """The next that is connected, or failed; it is taken out of `waiting`."""
    poll = select.poll()
    for number in waiting:
        poll.register(number, select.POLLOUT)
    ready = poll.poll(limit * 1000) if waiting else []
    return waiting.pop(ready[0][0]) if ready else None


def _no_answer(target: Target, errors: List[OSError], limit: float) -> Unreachable:
    codes = {error.errno for error in errors}
    if errno.ECONNREFUSED in codes:
        return Unreachable(
            "%s refuses the connection: no SSH server listens on port %d there.\n"
            "Start sshd on it, or correct the port in pools.yaml or ~/.ssh/config. Try: ssh %s"
            % (target.where, target.port, target.name),
            "refused",
        )
    if not errors or errno.ETIMEDOUT in codes:
        return Unreachable(
            "%s doesn't answer within %g s: it is off, or a firewall drops the packets.\nTry: ssh %s"
            % (target.where, limit, target.name),
            "timeout",
        )
    kind = "no-route" if codes & set(NO_ROUTE) else "other"
    return Unreachable(
        "There is no way to %s: %s. It is off, or not on this network.\nTry: ssh %s"
        % (target.where, errors[-1].strerror, target.name),
        kind,
    )


class Proxy:
    """The user's ProxyCommand: a process whose input and output are one end of a socket pair.

    Not paramiko's, which doesn't notice when the process ends, and waits 0.1 s for each short read.
    """

    def __init__(self, command: str, end: socket.socket) -> None:
        self._said, theirs = os.pipe()
        os.set_blocking(self._said, False)
        os.set_blocking(theirs, False)  # who talks much there must not stop for want of a reader
        try:
            self._process = subprocess.Popen(
                [os.environ.get("SHELL") or "/bin/sh", "-c", "exec " + command],
                stdin=end.fileno(),
                stdout=end.fileno(),
                stderr=theirs,
            )
        except BaseException:
            os.close(self._said)
            raise
        finally:
            os.close(theirs)

    def said(self) -> str:
        """Its last words on stderr."""
        try:
            return os.read(self._said, STDERR_KEPT).decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def close(self) -> None:
        """It ends with its socket; if not, it is ended."""
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._said)


def _through_proxy(target: Target) -> Wire:
    ours, theirs = socket.socketpair()
    try:
        proxy = Proxy(target.proxy_command, theirs)
    except OSError as error:
        ours.close()
        raise Unreachable(
            "The ProxyCommand of %s can't be started: %s.\nTry: ssh %s" % (target.where, error, target.name)
        ) from None
    finally:
        theirs.close()
    return Wire(ours, "", proxy)
