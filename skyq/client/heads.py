"""From a cluster's name to skyq on its head, where that is another machine.

By this machine's record, which is all that most commands need; else by what client/search.py finds or makes.
"""

from __future__ import annotations

from collections.abc import Callable

from skyq.client import records
from skyq.client.client import Client, Gone, Way, older
from skyq.client.records import Remote
from skyq.core import keylines, protocol
from skyq.core.errors import SkyqError, Unreachable
from skyq.core.paths import ClusterDir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.client.wanted import Wanted
    from skyq.transport.base import Stream
    from skyq.transport.ssh import Session

GONE = "skyq-gone"


def open_agent(client: Client, name: str, create: bool, wanted: Wanted | None = None) -> Agent:
    """An agent on the head of a cluster; with `create` the cluster is made where it isn't there: of the pool
    of its name, or of what is `wanted`.

    Raises Unknown, SkyqError; Gone comes at the first read.
    """

    def make() -> Way:
        from skyq.client import search

        return search.find_or_make(client, name, wanted)

    remote = records.read(client.home, name)
    if remote is None:
        from skyq.client import search

        return Agent(*(make() if create else search.find(client, name)))
    if older(remote.version):
        from skyq.client import search

        remote = search.upgrade(client, remote)
    again = make if create and (wanted or name in client.pools()) else None
    return Agent(remote, client.dial(remote.head, None), again)


class Agent:
    """skyq on the head, at the other end of a connection of its own; a Stream.

    `anew` makes the cluster, where it turns out that its head has it no more: what was written until then is
    written to the new one.
    """

    def __init__(self, remote: Remote, session: Session, anew: Callable[[], Way] | None = None) -> None:
        self.remote = remote
        self._anew = anew
        self._greeted = False
        self._said = b""
        """What came before the greeting."""
        self._written = b""
        """What was written before it."""
        self._start(remote, session)

    def _start(self, remote: Remote, session: Session) -> None:
        self.session = session
        where = ClusterDir(remote.state_dir)
        try:
            line = keylines.shell_line(
                remote.launcher, "_agent", needs=(where.database, where.journal), else_say=GONE
            )
            self._stream: Stream = session.run(line)
        except keylines.NoLine as error:
            session.close()
            raise SkyqError("skyq can't be started on %s: %s." % (remote.head.ip, error)) from None

    def read(self, timeout: float) -> bytes:
        """See Stream. Raises Gone, SkyqError where the program doesn't even greet."""
        if self._greeted:
            return self._stream.read(timeout)
        word = protocol.GREETING.encode() + b" "
        while word not in self._said:
            data = self._read_first(timeout)
            self._said += data
            if not data:
                self._begin_anew(self._why_not())
        self._greeted = True
        return self._said

    def _read_first(self, timeout: float) -> bytes:
        """What comes from a login shell may take longer."""
        limit = max(timeout, protocol.FIRST_WORD)
        try:
            return self._stream.read(limit)
        except TimeoutError:
            raise Unreachable(
                "%s, the head of cluster '%s', has not answered for %d seconds: is it overloaded, or does a "
                "file like ~/.bashrc there wait for something? This must end at once: ssh %s true"
                % (self.remote.head.ip, self.remote.name, limit, self.remote.head.ip),
                "lost",
            ) from None

    def _begin_anew(self, error: SkyqError) -> None:
        """Once, if that can be."""
        if self._anew is None or not isinstance(error, Gone):
            raise error
        anew, self._anew, self._said = self._anew, None, b""
        self.close()
        self.remote, session = anew()
        self._start(self.remote, session)
        self._stream.write(self._written)

    def _why_not(self) -> SkyqError:
        remote = self.remote
        if GONE.encode() in self._said:
            return Gone(
                "Cluster '%s' is no longer on %s, where its head was. Type `skyq down %s` to forget it."
                % (remote.name, remote.head.ip, remote.name)
            )
        from skyq.client.landing import last_words

        said = last_words(self._said.decode("utf-8", "replace") + "\n" + self._stream.stderr())
        text = "skyq doesn't start on %s, the head of cluster '%s': %s\nTry: ssh %s %s --version"
        words = (remote.head.ip, remote.name, said or "it says nothing", remote.head.ip, remote.launcher)
        return SkyqError(text % words)

    def write(self, data: bytes) -> None:
        """See Stream."""
        if not self._greeted:
            self._written += data
        self._stream.write(data)

    def close(self) -> None:
        """See Stream. The connection ends too."""
        self._stream.close()
        self.session.close()

    def stderr(self) -> str:
        """See Stream."""
        return self._stream.stderr()

    def exit_code(self) -> int | None:
        """See Stream."""
        return self._stream.exit_code()
