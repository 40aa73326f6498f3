"""A vulnerability fails the checks; a service that can't be asked doesn't, and is no clean bill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import __main__ as checks
from tests import audit
from tests.audit import NotAudited, pinned, verdict

BUG = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": ["CVE-1"], "description": "bad"}


def answer(**libraries: list[object] | None) -> str:
    """pip-audit's; None for one that the service doesn't know."""
    entries = [
        {"name": name, "skip_reason": "not found"}
        if vulns is None
        else {"name": name, "version": "1.0", "vulns": vulns}
        for name, vulns in libraries.items()
    ]
    return json.dumps({"dependencies": entries, "fixes": []})


def test_a_known_vulnerability_is_named_with_what_mends_it() -> None:
    assert verdict(answer(a=[], B=[BUG]), {"a", "b"}) == ["b 1.0: PYSEC-1 (mended in 2.0)"]


def test_none_is_known_only_where_every_library_is() -> None:
    assert verdict(answer(a=[], b=[]), {"a", "b"}) == []
    with pytest.raises(NotAudited, match="nothing of b"):
        verdict(answer(a=[], b=None), {"a", "b"})
    with pytest.raises(NotAudited, match="nothing of b"):
        verdict(answer(a=[]), {"a", "b"})


def test_a_vulnerability_counts_though_others_are_unknown() -> None:
    assert verdict(answer(a=[BUG], b=None), {"a", "b"})


@pytest.mark.parametrize("text", ["", "Traceback", "[]", "{}", '{"dependencies": [1]}'])
def test_no_answer_is_no_clean_bill(text: str) -> None:
    with pytest.raises(NotAudited):
        verdict(text, {"a"})


@pytest.mark.parametrize(("vulns", "code"), [([BUG], 1), ([], 0), (None, 0)])
def test_only_a_vulnerability_fails_and_silence_is_loud(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    vulns: list[object] | None,
    code: int,
) -> None:
    """Another program in pip-audit's place."""
    text = answer(**{name: vulns for name in pinned(audit.LOCK.read_text())})
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncat <<'END'\n%s\nEND\n" % text)
    python.chmod(0o755)
    monkeypatch.setattr(audit, "installed", lambda: python)

    assert audit.main() == code
    assert ("NOT AUDITED" in capsys.readouterr().out) == (vulns is None)


def test_it_is_one_of_the_checks_and_looks_at_all_that_is_shipped() -> None:
    assert checks.CHECKS["audit"] == ["tests.audit"]
    assert {"paramiko", "fabric", "cryptography", "pyyaml", "pydantic-core"} <= pinned(audit.LOCK.read_text())
