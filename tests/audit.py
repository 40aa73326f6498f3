"""`python -m tests.audit`: whether a library inside skyq.pyz (requirements.lock) has a known vulnerability.

pip-audit asks PyPI, then OSV, in an environment of its own below .venv. Exit code 1: there is one. 0: there
is none, or nobody could be asked, which is said loudly: a machine without network fails no check for that.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
OWN = ROOT / ".venv" / "audit"
AUDITOR = "pip-audit>=2.7"
SERVICES = ("pypi", "osv")
PATIENCE = 300  # seconds for one service or installation
LOUD = "NOT AUDITED: %s. Nobody has looked whether a library in skyq.pyz is vulnerable."


class NotAudited(Exception):
    """Nobody could be asked; the text says why."""


def main() -> int:
    """The exit code."""
    try:
        found = audited()
    except NotAudited as error:
        print("*" * 80 + "\n" + LOUD % error + "\n" + "*" * 80)
        return 0
    print("\n".join(found) or "No known vulnerability in %s." % LOCK.name)
    return 1 if found else 0


def audited() -> list[str]:
    """A line for each vulnerability, by the first service that knows all libraries. Raises NotAudited."""
    python, whys = installed(), []
    for service in SERVICES:
        words = [str(python), "-m", "pip_audit", "-r", str(LOCK), "--no-deps", "--disable-pip"]
        words += ["-s", service, "-f", "json", "--progress-spinner", "off", "--timeout", "20"]
        try:
            # Its exit code is 1 where it found something, and where it failed.
            return verdict(run(words).stdout, pinned(LOCK.read_text(encoding="utf-8")))
        except NotAudited as error:
            whys.append("%s: %s" % (service, error))
    raise NotAudited("; ".join(whys))


def verdict(text: str, wanted: set[str]) -> list[str]:
    """What pip-audit's JSON says of the libraries `wanted`. A vulnerability counts, whatever else is missing.

    Raises NotAudited where it knows nothing of one of them.
    """
    try:
        told = {entry["name"].lower(): entry for entry in json.loads(text)["dependencies"]}
        found = [
            "%s %s: %s (mended in %s)"
            % (name, entry["version"], bug["id"], ", ".join(bug["fix_versions"]) or "no version yet")
            for name, entry in sorted(told.items())
            for bug in entry.get("vulns", [])
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotAudited("it gave no answer") from None
    unknown = sorted(name for name in wanted if "vulns" not in told.get(name, {}))
    if unknown and not found:
        raise NotAudited("it knows nothing of %s" % ", ".join(unknown))
    return found


def pinned(lock: str) -> set[str]:
    """The names of the libraries in requirements.lock."""
    return {line.partition("==")[0].strip().lower() for line in lock.splitlines() if "==" in line}


def installed() -> Path:
    """A Python that has pip-audit. Raises NotAudited."""
    python = OWN / "bin" / "python"
    asked = [str(python), "-c", "import pip_audit"]
    if not python.exists() or run(asked).returncode:
        run([sys.executable, "-m", "venv", "--clear", str(OWN)])
        if run([str(python), "-m", "pip", "install", "-qq", AUDITOR]).returncode:
            raise NotAudited("pip-audit can't be installed")
    return python


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """What became of a command. Raises NotAudited where it doesn't end, or can't begin."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAudited(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
