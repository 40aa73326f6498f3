"""What the documents name is there: links, commands, flags, knobs, fields, words that they quote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skyq.cli.main import HIDDEN, VERBS
from skyq.core import rankenv, taskfile
from skyq.core.inventory import load_inventory
from skyq.core.model import Device
from tests.cluster import LocalQueue
from tests.program import ROOT

README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    *("README.md", "README.zh-CN.md", "ARCHITECTURE.md", "CHANGELOG.md"),
    *("docs/guide.md", "docs/troubleshooting.md", "SECURITY.md"),
]
QUOTED = (
    "No host of pool ",
    " is not known: ",
    "Nothing was sent to it.",
    " has another host key than the known one: nothing was sent to it. It shows ",
    " log in. ",
    "To install your key there: ssh-copy-id -i ",
    "its sshd doesn't take the cluster's key",
    " refuses the connection: no SSH server listens on port ",
    ": it is off, or a firewall drops the packets",
    "the machine hangs or is overloaded",
    " can't be resolved: ",
    "the head can't reach it at ",
    " closes each connection before anything is said",
    "there is no python3",
    "there is no bash, which jobs run in. Install it there (apt install bash).",
    "and the head needs 3.10 or newer.",
    "Make room there: ssh ",
    "Its home can't be written to. Have that mended, or set SKYQ_HOME there.",
    "skyq can't run there. It said: ",
    "it is the same machine as ",
    "one queue per machine, so that no device is given twice.",
    "Submit there, or end that queue first; if it is gone for good: rm ",
    "Processes of this machine's former queue still run",
    ", where its head was. Type `skyq down ",
    "No host of your pools belongs to it (see `skyq status`).",
    "Only the head can be asked",
    "no device has that much free",
    ", in quarantine: ",
    "It ends with them, or a reboot. To give such a device out all the same: ",
    "at most ",
    " that free",
    "the cluster has ",
    "too few such nodes",
    "starts as soon as the dispatcher sees it",
    "Requested resources do not match the existing cluster.",
    "To fix: ask for no more than `skyq status ",
    "Accelerator count above 1 must be a whole number.",
    "exit code 137 (killed by SIGKILL: often out of memory)",
    "out of memory: the kernel killed a process to get some",
    "meanwhile the kernel killed a process of this machine to get memory",
    "exit code 139 (likely due to Segmentation Fault)",
    " (command not found)",
    "setup failed",
    "node rebooted",
    "exit status unknown: its shim was killed",
    " was removed while it was unreachable",
    "These jobs do not end",
    "This job gets no device (CUDA_VISIBLE_DEVICES is empty)",
    "The devices of this machine can't be read: ",
    ", as declared; but nvidia-smi sees ",
    " outside of the queue",
    "unreachable since ",
    "takes it back, and removing it again frees it.",
    "not this queue's: ",
    "Try again when that is back. If it is gone for good: ",
    "Connecting again ...",
    "Whether the job was queued isn't known: skyq queue ",
    " is still on its node",
    "is too old: skyq needs 3.",
    " holds no libraries for Python ",
    " holds its libraries for ",
    "Set SKYQ_HOME to a folder that you can write.",
    "no cron runs here; ",
    "after a reboot, what waits starts with the next skyq command",
    " is on storage that other machines share",
    "(it keeps skyq ",
    "was made by a newer skyq. Use that one",
    "is full or fails",
    "is being removed by `skyq down",
    "in use by others",
    "a process that can't be seen from here",
    "being looked at",
    " is missing: ",
    "nvidia-smi says: ",
    "the connection to its terminal was lost",
    "nobody came to its terminal within ",
)
"""Of what skyq prints, in docs/troubleshooting.md."""
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


def anchors(document: Path) -> set[str]:
    """What a link to a heading of it may say."""
    lines = [line.lstrip("# ") for line in document.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in lines}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    here = ROOT / document

    for target in re.findall(r"\]\(([^)]+)\)", here.read_text()):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        there = here.parent / path if path else here
        assert there.exists(), target
        assert not heading or heading in anchors(there), target


def test_every_test_that_the_threats_name_is_there() -> None:
    rows = [
        line for line in (ROOT / "SECURITY.md").read_text().splitlines() if re.match(r"\| (T|\|)?", line)
    ][1:]
    assert len(rows) > 20
    for row in rows:
        cell = row.rstrip("| ").rpartition("|")[2]
        links = re.findall(r"\]\((tests/[^)]+)\)((?: `\w+`,?)+)", cell)
        assert links, row
        for path, named in links:
            there = re.findall(r"^def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE)
            for name in re.findall(r"`(\w+)`", named):
                assert name in there, "%s has no %s" % (path, name)


def fences(text: str) -> list[tuple[str, str]]:
    """(language, content) of each."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> set[tuple[str, str]]:
    """(verb, the words after it) of each skyq to be typed: after a $, in backticks, or in a fence."""
    typed = [line for _, fence in fences(text) for line in fence.splitlines() if "skyq" in line]
    shown = [line.removeprefix("$ ") for line in typed if re.match(r"(\$ )?(\./)?(skyq|python3 build)", line)]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    hints = [span for line in typed for span in re.findall(r"`([^`]+)`", line)]
    found: set[tuple[str, str]] = set()
    for line in [*shown, *spans, *hints]:
        own = re.split(r" -- |[|;#]|&& ", line.removeprefix("python3 build_zipapp.py && "))[0]
        found.update(re.findall(r"^(?:\S*/)?skyq(?:\.pyz)? ([a-z_]+)\b(.*)", own))
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_in_it_exists_and_knows_its_flags(document: str, queue: LocalQueue) -> None:
    named = commands((ROOT / document).read_text())

    assert named or document == "CHANGELOG.md"
    for verb, words in sorted(named):
        assert verb in VERBS or verb in HIDDEN, verb
        described = queue.ok(verb, "-h").out if verb in VERBS else words
        for flag in re.findall(r"(?<=\s)--?[a-z][a-z-]*", re.sub(r"'[^']*'", "", words)):
            assert re.search(r"(?<![\w-])%s(?![\w-])" % flag, described), "skyq %s %s" % (verb, flag)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_yaml_in_it_is_a_task_or_an_inventory(document: str) -> None:
    for language, text in fences((ROOT / document).read_text()):
        if language == "yaml" and "hosts:" in text:
            assert load_inventory(text, document)
        elif language == "yaml":
            assert taskfile.load_task(text, document, verb="launch").run


def test_the_guides_show_what_was_seen() -> None:
    """Words of errors that they quote are still those of the code."""
    code = "".join(
        re.sub(r'"\s*\n\s*"', "", path.read_text()) for path in sorted((ROOT / "skyq").rglob("*.py"))
    )
    text = " ".join((ROOT / "docs" / "troubleshooting.md").read_text().split())

    assert [words for words in QUOTED if words not in code] == []
    assert [words for words in QUOTED if words not in text] == []


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
