"""What would hand a string to a program as an option of its own."""

from __future__ import annotations

import pytest

from skyq.core.errors import TaskError
from skyq.core.request import Overrides
from skyq.core.taskfile import load_task

EVIL = [
    "--upload-pack=touch canary",
    "-c protocol.ext.allow=always",
    "ext::sh -c 'touch canary'",
    "fd::17",
    "https://host/x\nurl = ext::sh -c x",
    "https://host/\x1b]0;x\a",
]


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize("field", ["url", "ref"])
def test_git_gets_no_option_and_no_helper_for_an_address_or_a_ref(field: str, text: str) -> None:
    git = {"url": "https://host/x", "ref": "main", field: "$EVIL"}
    lines = [
        "run: x",
        "envs: {EVIL: %s}" % ascii(text).replace("'", '"'),
        "workdir: {url: %(url)s, ref: %(ref)s}" % git,
    ]

    with pytest.raises(TaskError):
        load_task("\n".join(lines), "t.yaml")
    with pytest.raises(TaskError):
        load_task(
            "run: x",
            "t.yaml",
            Overrides(git_url=git["url"].replace("$EVIL", text), git_ref=git["ref"].replace("$EVIL", text)),
        )
