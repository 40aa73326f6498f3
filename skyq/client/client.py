"""What the search for a cluster on other machines gets from who asks, and how it may end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from skyq import __version__
from skyq.client.records import Remote
from skyq.core.errors import SkyqError
from skyq.core.host import Pool
from skyq.core.paths import Home
from skyq.core.typed import NamedTuple
from skyq.core.versions import order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.client.guest import Place
    from skyq.client.party import Dial
    from skyq.client.slices import Whole
    from skyq.transport.ssh import Session


class Gone(SkyqError):
    """The cluster isn't on its head any more."""


class Unknown(SkyqError):
    """There is no such cluster, as far as can be seen from here."""


class Ended(SkyqError):
    """Its head knows nothing of the cluster any more, but hosts are claimed for it."""


class Client(NamedTuple):
    """What this machine has, and how it shows what goes on."""

    home: Home
    pools: Callable[[], Mapping[str, Pool]]
    dial: Dial
    whole: Callable[[], Whole]
    tell: Callable[[str], None]
    """Gets a line when something goes on."""
    show: Callable[[str, tuple[Place, ...]], None]
    """Gets a new cluster's name, and what became of each host."""


Way = tuple[Remote, "Session"]


def older(version: str) -> bool:
    """Whether that skyq is to be replaced by this one."""
    return order(version) < order(__version__)
