"""Somebody at a terminal, asked while hosts are being connected to: about their keys, for passwords."""

from __future__ import annotations

import os
import sys
import threading

from skyq.core.errors import SkyqError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyq.transport.ssh import Session


class Terminal:
    """Somebody to ask; one question at a time, whichever host it is about."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._key_wanted: bool | None = None

    @staticmethod
    def there() -> bool:
        """Whether there is a terminal: standard input may well be a task file."""
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
            return True
        except OSError:
            return False

    def ask(self, question: str) -> bool:
        """Yes or no."""
        with self._turn:
            return self._ask(question)

    def _ask(self, question: str) -> bool:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            while True:
                terminal.write((question + " [y/N]: ").encode())
                answer = terminal.readline().strip().lower()
                if answer in (b"y", b"yes", b"n", b"no", b""):
                    return answer.startswith(b"y")

    def ask_secret(self, prompt: str) -> str | None:
        """What isn't shown while it is typed."""
        from getpass import getpass

        with self._turn:
            try:
                return getpass(prompt)  # on /dev/tty
            except EOFError:
                return None

    def offer_key(self, session: Session) -> None:
        """Where a password was typed: install the user's key, if that is wanted; asked once for all hosts.

        What goes wrong is told, and no error: we are in.
        """
        from skyq.transport import keycopy

        line = keycopy.own_public_key(session.target)
        if not line:
            return
        with self._turn:
            if self._key_wanted is None:
                name = line.split(" ", 2)[2] if line.count(" ") > 1 else line[:40]
                text = "Let your key (%s) log in to %s from now on, and where else you typed a password?"
                self._key_wanted = self._ask(text % (name, session.target.name))
        try:
            if self._key_wanted and keycopy.install(session, line):
                print("Your key is installed on %s." % session.target.name, file=sys.stderr)
        except SkyqError as error:
            print(error, file=sys.stderr)
