"""Imports point down only, and each layer may do only what is its own. Read from the source, not from a run.

          cli
client    head    node
  transport    store
          core
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.program import ROOT

LAYERS = {
    "core": set(),
    "store": {"core"},
    "transport": {"core"},
    "client": {"core", "transport", "store"},
    "head": {"core", "transport", "store"},
    "node": {"core", "transport"},
    "cli": {"core", "transport", "store", "client", "head", "node"},
}
"""What each layer may import besides itself: less than the picture allows node, which needs no more."""

ENTRY = {"__init__", "__main__", "boot", "entry", "folders", "landing", "program", "pythons", "unpack"}
"""The way from the file to the command line: no layer."""
ENTRY_IMPORTS = {"core", "cli"}
STARTS_AGAIN = {"head.wake", "head.launcher"}
"""Who starts the program again, and so must know how it was started. The command line may know it anyhow."""

IMPURE = {
    "time",
    "os",
    "subprocess",
    "socket",
    "sqlite3",
    "random",
    "secrets",
    "threading",
    "shutil",
    "tempfile",
}
ONLY_IN = {
    "fabric": "transport",
    "paramiko": "transport",
    "cryptography": "transport",
    "sqlite3": "store",
    "filelock": "store.lock",
}
HEAVY = {"transport.opening", "transport.login"}
"""They import fabric or paramiko as they are loaded; all others only once a connection is opened."""
NODE_PYTHON = (3, 8)

MODULES = {
    ".".join(path.relative_to(ROOT / "skyq").with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted((ROOT / "skyq").rglob("*.py"))
}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, wherever in the code, by its full name; `from a import b` is a.b."""
    for found in ast.walk(tree):
        if isinstance(found, ast.Import):
            yield from (alias.name for alias in found.names)
        elif isinstance(found, ast.ImportFrom):
            assert found.level == 0, "relative import"
            yield from ("%s.%s" % (found.module, alias.name) for alias in found.names)


def own(tree: ast.AST) -> set[str]:
    """What is imported of skyq, by the name without `skyq.`."""
    return {name[len("skyq.") :] for name in imports(tree) if name.startswith("skyq.")}


def layer(module: str) -> str:
    """The layer of a module of skyq, or of a name in one; empty for the way in."""
    first = module.partition(".")[0]
    return first if first in LAYERS else ""


def modules(name: str) -> list[str]:
    """The modules of a layer."""
    found = [module for module in MODULES if layer(module) == name]
    assert found, "the layer %s is empty" % name
    return found


def closure(module: str) -> set[str]:
    """The modules of skyq that come along when one is imported, itself included."""
    found: set[str] = set()
    todo = [module]
    while todo:
        one = todo.pop()
        if one in MODULES and one not in found:
            found.add(one)
            # `from skyq.core import states` names a module, `from skyq.core.states import FINAL` not.
            todo += [
                name for imported in own(MODULES[one]) for name in (imported, imported.rpartition(".")[0])
            ]
    return found


def test_every_module_is_in_a_layer_or_on_the_way_in() -> None:
    assert {module for module in MODULES if not layer(module)} == ENTRY


@pytest.mark.parametrize("name", LAYERS)
def test_imports_point_down(name: str) -> None:
    for module in modules(name):
        wrong = {each for each in own(MODULES[module]) if layer(each) not in {*LAYERS[name], name, ""}}
        assert not wrong, "%s imports %s" % (module, ", ".join(sorted(wrong)))


def test_only_who_starts_the_program_again_imports_the_way_in() -> None:
    for module, tree in MODULES.items():
        if layer(module) not in ("", "cli") and module not in STARTS_AGAIN:
            assert {each for each in own(tree) if not layer(each)} <= {"__version__"}, module


@pytest.mark.parametrize("module", sorted(ENTRY))
def test_the_way_in_knows_only_the_command_line_and_what_is_pure(module: str) -> None:
    assert {layer(each) for each in own(MODULES[module]) if layer(each)} <= ENTRY_IMPORTS


@pytest.mark.parametrize("library", ONLY_IN)
def test_one_place_imports_it(library: str) -> None:
    for module, tree in MODULES.items():
        if library in {name.partition(".")[0] for name in imports(tree)}:
            assert (module + ".").startswith(ONLY_IN[library] + "."), module


def loaded_with(tree: ast.Module) -> set[str]:
    """What a module imports as it is loaded, by the first word: not in functions, not for types only."""
    found = [each for each in tree.body if isinstance(each, (ast.Import, ast.ImportFrom))]
    return {name.partition(".")[0] for each in found for name in imports(each)}


def loads(tree: ast.Module) -> set[str]:
    """The modules of skyq that come along as it is loaded."""
    found = [each for each in tree.body if isinstance(each, ast.ImportFrom)]
    named = {name for each in found for name in own(each)}
    return {name for each in named for name in (each, each.rpartition(".")[0]) if name in MODULES}


def test_only_a_connection_loads_the_libraries_of_ssh() -> None:
    for module, tree in MODULES.items():
        heavy = bool(loaded_with(tree) & {"fabric", "paramiko", "cryptography"})
        assert heavy == (module in HEAVY), module
        assert module in HEAVY or not loads(tree) & HEAVY, module


def test_core_touches_nothing() -> None:
    for module in modules("core"):
        used = {name for name in imports(MODULES[module]) if name.partition(".")[0] in IMPURE}
        assert used <= {"os.path"}, "%s imports %s" % (module, used)


def test_core_reads_no_clock_and_opens_no_file() -> None:
    for module in modules("core"):
        for found in ast.walk(MODULES[module]):
            if isinstance(found, ast.Call):
                called = ast.unparse(found.func)
                assert called not in {"open", "print", "input", "exec", "eval"}, "%s: %s" % (module, called)
                assert not called.startswith("os.path.") or called == "os.path.join" or module == "core.paths"
            assert not (isinstance(found, ast.Attribute) and found.attr in {"now", "today"}), module


def test_what_runs_on_a_node_is_the_standard_library() -> None:
    for module in sorted(set().union(*map(closure, modules("node")))):
        outside = {name.partition(".")[0] for name in imports(MODULES[module])} - {"skyq", "__future__"}
        assert outside <= sys.stdlib_module_names, "%s imports %s" % (module, outside)


def node_files() -> list[Path]:
    """What a node's Python reads: its own modules, what they import, and the way in."""
    needed = {
        *set().union(*map(closure, modules("node"))),
        *ENTRY,
        "cli.internal",
        "cli.main",
        "cli.setup",
        "head.launcher",
    }
    return [(ROOT / "skyq" / module.replace(".", "/")).with_suffix(".py") for module in sorted(needed)]


@pytest.mark.parametrize("path", node_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_runs_on_a_node_is_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=NODE_PYTHON)


def test_one_module_builds_paths_of_skyq_home() -> None:
    texts = {
        module: {
            each.value
            for each in ast.walk(tree)
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        }
        for module, tree in MODULES.items()
    }
    names = texts.pop("core.paths")
    files = {text for text in names if re.fullmatch(r"[a-z-]+\.[a-z]+", text) and not text.endswith(".py")}

    assert {"pools.yaml", "queue.db", "tick.lock"} <= files
    assert not {module: found for module, found in texts.items() if found & files}
