"""Who types."""

from __future__ import annotations

import os


def user() -> str:
    """Who submits: people who share a Unix account tell themselves apart by SKYQ_USER."""
    if os.environ.get("SKYQ_USER"):
        from skyq.core.logtext import plain

        return plain(os.environ["SKYQ_USER"])  # it stands in everybody's tables
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
