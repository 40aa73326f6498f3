"""`skyq completion`: what makes a shell complete skyq's words, and the answers it asks for.

The scripts hold no list: they call `skyq _complete WORD...` with the words typed so far, the last one
being the one to complete, and take each line of the answer as a candidate.
"""

from __future__ import annotations

import sys

from skyq.cli.parser import Parser

SCRIPTS = {
    "bash": """\
_skyq() {
    local IFS=$'\\n'
    local word="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=($(skyq _complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [ ${#COMPREPLY[@]} -eq 0 ] && COMPREPLY=($(compgen -f -- "$word"))
}
complete -o filenames -F _skyq skyq skyq.pyz ./skyq.pyz
""",
    "zsh": """\
_skyq() {
    local -a found
    found=("${(@f)$(skyq _complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -- ${found:#} || _files
}
compdef _skyq skyq skyq.pyz
""",
    "fish": """\
complete -c skyq -f -a '(skyq _complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
complete -c skyq -F -n '__fish_seen_subcommand_from exec launch'
""",
}
_EXAMPLES = """\
  skyq completion bash >> ~/.bashrc
  skyq completion zsh >> ~/.zshrc
  skyq completion fish > ~/.config/fish/completions/skyq.fish
"""
_TAKE_JOBS = frozenset(("logs", "cancel", "why", "hold", "release", "wait", "rerun"))


def parser() -> Parser:
    """Its flags."""
    about = "Print what completes skyq's words in a shell; `skyq` on PATH is a link to skyq.pyz."
    found = Parser("completion", "{bash,zsh,fish}", about, _EXAMPLES)
    found.add_argument("shell", choices=sorted(SCRIPTS))
    return found


def main(words: list[str]) -> int:
    """Exit code 0."""
    print(SCRIPTS[parser().read(words).shell], end="")
    return 0


def complete(words: list[str]) -> int:
    """Print the candidates for the last word, given those before it; nothing where it may be a file."""
    before, last = words[:-1], words[-1] if words else ""
    for candidate in sorted(_candidates(before, last)):
        if candidate.startswith(last):
            sys.stdout.write(candidate + "\n")
    return 0


def _candidates(before: list[str], last: str) -> list[str]:
    from importlib import import_module

    from skyq.cli.verbs import VERBS

    if not before:
        return list(VERBS)
    verb = before[0]
    if verb not in VERBS or "--" in before:
        return []
    if last.startswith("-"):
        actions = import_module("skyq.cli." + VERBS[verb][0]).parser()._actions
        return [flag for action in actions if action.help != "==SUPPRESS==" for flag in action.option_strings]
    given = [word for word in before[1:] if not word.startswith("-")]
    if not given and verb != "launch":
        from skyq.cli import cluster

        return cluster.known()
    return _jobs(given[0]) if verb in _TAKE_JOBS else []


def _jobs(name: str) -> list[str]:
    from skyq.cli import cluster
    from skyq.cli.user import user

    if not cluster.here(name):
        return []  # who completes a word doesn't wait for another machine
    jobs = cluster.open_head(name).jobs(user(), unfinished=False)
    return [str(job.id) for job in jobs] + sorted({job.name for job in jobs if job.name})
