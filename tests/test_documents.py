"""What README.md and ARCHITECTURE.md name is there: links, commands, flags, knobs, fields."""

from __future__ import annotations

import re

import pytest

from skyq.cli.main import HIDDEN, VERBS
from skyq.core import rankenv, taskfile
from skyq.core.model import Device
from tests.cluster import LocalQueue
from tests.program import ROOT

README = (ROOT / "README.md").read_text()
KNOB = re.compile(r'(?:environ(?:\.get\(|\[)|environment\.get\()"(SKYQ_[A-Z_]+|NO_COLOR)"')


def table(heading: str) -> dict[str, str]:
    """The rows of the first table under a heading: what its first cell names → the row."""
    lines = README.split("\n" + heading + "\n", 1)[1].splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("|---")) + 1
    rows: dict[str, str] = {}
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        for name in re.findall(r"`([^`]+)`", line.split("|")[1]):
            rows[name] = line
    return rows


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"])
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")) for line in text.splitlines() if line.startswith("#")
    }
    anchors = {heading.lower().replace(" ", "-") for heading in headings}

    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif "://" not in target:
            assert (ROOT / target).exists(), target


def test_every_command_has_its_row_and_every_flag_in_it_works(queue: LocalQueue) -> None:
    rows = {words.split()[0]: row for words, row in table("## Commands").items()}

    assert sorted(set(rows) & set(VERBS)) == sorted(VERBS)
    for verb in VERBS:
        described = queue.ok(verb, "-h").out
        for flag in re.findall(r"`(--?[a-z][a-z-]*)", rows[verb]):
            assert flag in described, "%s %s" % (verb, flag)


def test_every_knob_has_its_row() -> None:
    code = "\n".join(path.read_text() for path in sorted((ROOT / "skyq").rglob("*.py")))

    assert set(KNOB.findall(code)) == set(table("## Knobs"))
    assert HIDDEN.keys() & table("## Commands").keys() == set()


def test_every_field_of_a_task_file_has_its_row() -> None:
    rows = table("## The task file")

    task = taskfile._TASK_FIELDS.keys() - {"resources"}
    resources = {name if name in rows else "resources." + name for name in taskfile._RESOURCE_FIELDS}
    assert task | resources == set(rows) & (task | resources)


def test_every_variable_of_a_job_has_its_row() -> None:
    facts = rankenv.JobFacts("local", 1, "sky-1", "ada", ("127.0.0.1",), 1)
    rows = " ".join(table("### What a job sees").values())

    run = rankenv.run_env(facts, 0, [Device(0, "H100")], {})
    given = {**run, **rankenv.setup_env(facts, 0, ["127.0.0.1"], {})}
    named = {name for name in given if not name.startswith("SKYQ_")} - {"PYTHONUNBUFFERED"}
    assert [name for name in sorted(named) if name not in rows] == []
