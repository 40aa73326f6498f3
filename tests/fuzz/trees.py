"""Near-valid input: trees of a file's own keys with values that nearly fit, and broken texts."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import strategies as st

ODD_TEXTS = st.sampled_from(
    [
        *(
            "",
            "~",
            "no",
            "0777",
            "12:30:45",
            "3.10",
            "-1",
            "1e999",
            "NaN",
            ".inf",
            "H100:4",
            "H100:0.5",
            "4+",
        ),
        *("-rf", "--help", "../x", "/nowhere/x", "~/x", "$(touch canary)", "`x`", "a'b\"c", "a\nb", "a\tb"),
        *(
            "\x1b]0;x\a",
            "\u202e",
            "a\0b",
            "\x85",
            "\u2028",
            "ext::sh -c x",
            "--upload-pack=x",
            "s3://b",
            "x" * 300,
            "数",
        ),
    ]
)
HUGE = st.sampled_from([10**30, -(10**30), 1 << 63, 1 << 31, -1])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 70_000)
    | HUGE
    | st.floats()
    | ODD_TEXTS
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)


def trees(keys: list[str]) -> st.SearchStrategy[Any]:
    """Values for a mapping of such keys, nested a little."""
    return st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(keys) | ODD_TEXTS, inner, max_size=4)
        ),
        max_leaves=8,
    )


@st.composite
def yaml_texts(draw: st.DrawFn, keys: list[str], top: st.SearchStrategy[Any]) -> str:
    """Such a tree as YAML or JSON, often with a piece cut out or put in."""
    tree = draw(top)
    how = draw(st.sampled_from(["block", "flow", "json"]))
    if how == "json":
        text = json.dumps(tree, ensure_ascii=draw(st.booleans()))
    else:
        text = yaml.safe_dump(tree, default_flow_style=how == "flow", allow_unicode=True, sort_keys=False)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 5))
        pieces = [
            *"{}[]:,-?&*!|>%@`#'\"\n\t ",
            "&a ",
            "*a",
            "<<: ",
            "---\n",
            "!!python/object:os.x ",
            "\0",
            "\ufeff",
        ]
        text = text[:at] + draw(st.sampled_from(["", *pieces, *keys])) + text[at + cut :]
    return text


def harmless(error: Exception, source: str) -> None:
    """An error in words: it says where, and is of a bounded size and made of lines of plain text."""
    text = str(error)
    assert source in text, text
    assert len(text) < 3000, len(text)
    assert "Traceback" not in text
