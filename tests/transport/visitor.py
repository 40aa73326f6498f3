"""Runs in a lab's client: logs in to a host, types what it is told to, and says in JSON what became of it.

Its first argument is JSON: host, port, user, identities, known_hosts, home, types (answers to prompts),
install (a line for authorized_keys), command, patience (seconds for a host that doesn't answer).
"""

from __future__ import annotations

import json
import sys
from typing import Any

from skyq.core.errors import Unreachable
from skyq.core.paths import Home
from skyq.transport import keycopy, opening
from skyq.transport.hosts import Target
from skyq.transport.keyring import Keyring
from skyq.transport.ssh import connect
from skyq.transport.trust import Trust


def visit(order: dict[str, Any]) -> dict[str, Any]:
    prompts: list[str] = []

    def ask(prompt: str) -> str | None:
        prompts.append(prompt)
        return order["types"].pop(0) if order["types"] else None

    target = Target(
        "there",
        order["host"],
        order.get("port", 22),
        order["user"],
        tuple(order["identities"]),
        known_hosts=(order["known_hosts"],),
        connect_timeout=order.get("patience", 0.0),
    )
    opening.BANNER_LIMIT = order.get("patience", opening.BANNER_LIMIT)
    found: dict[str, Any] = {"prompts": prompts}
    try:
        session = connect(
            target, Trust(Home(order["home"])), keyring=Keyring(ask if "types" in order else None)
        )
        found["by_password"] = session.by_password
        if "install" in order:
            found["installed"] = keycopy.install(session, order["install"])
        stream = session.run(order.get("command", "hostname"))
        found["said"] = stream.read(30).decode()
        session.close()
    except Unreachable as error:
        found.update(kind=error.kind, error=str(error))
    return found


if __name__ == "__main__":
    print(json.dumps(visit(json.loads(sys.argv[1]))))
