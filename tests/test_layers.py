"""Imports run one way: between the packages, and between the parts of the record and of the benchmarks.

import-linter says which order; this only that there is one. An import counts wherever it stands: in a function, and
under TYPE_CHECKING too.
"""

import ast
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}


def imported(tree: ast.AST) -> Iterator[str]:
    """All names that may be modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "a relative import"
            yield from (f"{node.module}.{each.name}" for each in node.names)


def graph(inside: str) -> dict[str, set[str]]:
    """Which part of a package (of all: the packages) imports which others."""
    folder, place = (ROOT / inside, 1) if inside else (ROOT, 0)
    parts = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    parts &= parts - {"__init__"} if inside else PACKAGES
    found: dict[str, set[str]] = {part: set() for part in parts}
    for part in parts:
        path = folder / part
        for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
            for name in imported(ast.parse(file.read_text("utf-8"))):
                words = name.split(".")
                if words[:place] == [inside][:place] and len(words) > place and words[place] in parts - {part}:
                    found[part].add(words[place])
    return found


@pytest.mark.parametrize("inside", ["", "registry", "benchmarks"])
def test_no_package_is_imported_by_one_that_it_imports(inside):
    found = graph(inside)
    assert len(found) > 5 and any(found.values())
    TopologicalSorter(found).prepare()  # raises CycleError, which names the circle


def test_import_linter_looks_at_every_package():
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    assert set(configured["root_packages"]) == PACKAGES
