"""What a script finds: default signals, three descriptors, the account's ~/.bashrc, and nothing of skyq's."""

from __future__ import annotations

import json
import os
import sys

import pytest

from skyq.node.baseenv import base_env
from tests.node.agent import Node

TOLD = """
import json, os, sys
print(json.dumps({
    "fds": sorted(os.listdir("/proc/self/fd"), key=int)[:-1],
    "stdin": os.readlink("/proc/self/fd/0"),
    "umask": os.umask(0),
    "group": os.getpgid(0) == os.getpgid(os.getppid()),
    "oom": int(open("/proc/self/oom_score_adj").read()),
    "cwd": os.getcwd(),
}))
"""
BASHRCS = {
    "none": None,
    "empty": "",
    "Debian's guard": "case $- in\n*i*) ;;\n*) return;;\nesac\n",
    "the other guard": '[ -z "$PS1" ] && return\n',
    "exits": "exit 9\n",
    "sets -e": "set -e\nfalse\n",
    "sets much": "set -euxfC -o pipefail\nset -m\n",
    "noise": "echo noise\necho noise >&2\nprintf '\\ec'\n",
    "syntax error": "if then (\n",
    "traps": "trap 'echo noise' EXIT DEBUG ERR\n",
    "goes elsewhere": "cd /tmp\n",
    "goes elsewhere and exits": "cd /tmp; exit\n",
    "descriptors": "exec 5>&1 >/dev/null\n",
    "reads": "read answer; cat\n",
    "becomes another shell": "exec sh\n",
    "an own cd": 'cd() { builtin cd "$@" && echo here; }; cd /tmp\n',
}


def told(node: Node, script: str, **spec: object) -> str:
    """What a script wrote, exit code 0."""
    agent = node.agent()
    agent.start(script, **spec)
    code = agent.hear("gone")["code"]
    assert code == 0, node.log()
    return node.log()


@pytest.mark.parametrize("kind", BASHRCS)
def test_every_script_starts_from_the_same_whatever_bashrc_does(node: Node, kind: str) -> None:
    (node.root / "tell.py").write_text(TOLD)
    if BASHRCS[kind] is not None:
        (node.home / ".bashrc").write_text(BASHRCS[kind] or "")

    signals = "grep -hE '^Sig(Ign|Blk)' /proc/self/status"
    lines = told(node, "%s; %s %s/tell.py" % (signals, sys.executable, node.root), cwd="").splitlines()

    assert lines[:-1] == ["SigBlk:\t" + "0" * 16, "SigIgn:\t" + "0" * 16]
    assert json.loads(lines[-1]) == {
        **{"fds": ["0", "1", "2"], "stdin": "/dev/null", "umask": 0o022, "group": True, "oom": 200},
        **{"cwd": str(node.home / "sky_workdir")},
    }


@pytest.mark.parametrize("guard", ["Debian's guard", "the other guard", "noise", "goes elsewhere"])
def test_what_bashrc_sets_at_its_end_is_there(node: Node, guard: str) -> None:
    (node.home / ".bashrc").write_text("%s\nexport FROM_RC=yes PATH=$PATH:/from/rc\n" % BASHRCS[guard])

    assert told(node, 'echo "$FROM_RC ${PATH##*:}"') == "yes /from/rc\n"


def test_the_jobs_own_variables_win_over_bashrc_byte_for_byte(node: Node) -> None:
    (node.home / ".bashrc").write_text("export A=rc B=rc\n")
    value = " $(touch canary) `touch canary`\n'\"\\ é \t"

    assert told(node, 'printf "<%s>" "$A" "$B"', env={"A": value}) == "<%s><rc>" % value


def test_a_script_has_no_arguments_and_ends_as_its_last_command_does(node: Node) -> None:
    assert told(node, 'echo $# "${1-none}"; false; true') == "0 none\n"


def test_a_script_is_shown_nothing_of_skyq(node: Node) -> None:
    names = set(told(node, "env | cut -d= -f1 | sort").split())

    assert names - {"PWD", "SHLVL", "_"} == {*base_env(), "SKYQ_STEP_ID"}


@pytest.mark.parametrize("line", ["kill 0", "kill -9 0", "kill -TERM -$$"])
def test_a_script_that_signals_its_own_group_ends_itself_alone(node: Node, line: str) -> None:
    agent = node.agent()
    agent.start("sleep 600", step="run-1")
    agent.start("sleep 600 & %s; sleep 600" % line)

    message = agent.hear("gone", step="run-0")
    assert message["code"] == 128 + (9 if "-9" in line else 15)
    assert not message["stopped"]
    assert os.path.exists(node.run("run-1").started)
    agent.stop("run-1")
    assert agent.hear("gone", step="run-1")["stopped"]


def test_a_broken_pipe_ends_a_command_as_in_any_shell(node: Node) -> None:
    assert told(node, 'yes | head -n 1; echo "${PIPESTATUS[0]}"') == "y\n141\n"
