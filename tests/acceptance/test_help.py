"""Help, version, and what the program says to words that it doesn't know."""

from __future__ import annotations

import pytest

from skyq import __version__
from skyq.cli.verbs import VERBS
from tests.cluster import LocalQueue


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_examples(queue: LocalQueue, verb: str, flag: str) -> None:
    result = queue.ok(verb, flag)

    assert result.lines[0].startswith("usage: skyq %s " % verb)
    assert "\n  skyq %s " % verb in result.out.partition("examples:\n")[2]
    assert max(map(len, result.lines)) <= 110
    assert result.err == ""


def test_help_names_every_verb_and_the_exit_codes(queue: LocalQueue) -> None:
    result = queue.ok("--help")

    for verb in VERBS:
        result.line(r"  %s +\w.*" % verb)
    assert "100 failed, 101 not finished, 102 not found, 103 cancelled" in result.out
    assert queue.ok("-h").out == result.out


def test_without_a_command_the_help_is_shown_and_it_is_a_usage_error(queue: LocalQueue) -> None:
    result = queue.run()

    assert result.code == 2
    assert result.out == queue.ok("-h").out


@pytest.mark.parametrize("flag", ["-v", "--version"])
def test_the_version(queue: LocalQueue, flag: str) -> None:
    assert queue.ok(flag).out == "skyq %s\n" % __version__


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quue"], "No such command: quue Did you mean `skyq queue`?"),
        (["frobnicate"], "No such command: frobnicate"),
        (["--frobnicate"], "No such option: --frobnicate"),
    ],
)
def test_an_unknown_command_is_a_usage_error(queue: LocalQueue, words: list[str], said: str) -> None:
    result = queue.run(*words)

    assert result.code == 2
    assert result.err.splitlines()[-1] == "Error: " + said


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_a_usage_error_and_no_abbreviation_counts(queue: LocalQueue, verb: str) -> None:
    result = queue.run(verb, "bash" if verb == "completion" else "local", "--hel")

    assert result.code == 2
    assert result.err.splitlines()[0].startswith("Usage: skyq %s " % verb)
    assert result.err.splitlines()[-1] == "Error: No such option: --hel"


def test_help_needs_no_home(queue: LocalQueue) -> None:
    env = {"SKYQ_HOME": "/proc/nowhere", "HOME": "/proc/nowhere"}

    assert queue.run("--help", env=env).code == 0
