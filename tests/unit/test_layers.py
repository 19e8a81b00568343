# GNU General Public License v3.0+ (see COPYING)
"""Dependencies run one way: the layers of docs/architecture.md, read from the imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

CORE = ROOT / "plugins" / "module_utils"
BARRED = {
    "domain": {"ports", "usecases", "boundary"},
    "ports": {"usecases", "boundary"},
    "usecases": {"boundary"},
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the level of each import (0: absolute) and the first part of the name, from the core."""
    depth = len(path.relative_to(CORE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, name.name.split(".")[0]) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            inside = path.relative_to(CORE).parts[: depth - node.level] if node.level else ()
            yield node.level, (*inside, *parts)[0]


def files(layer: str) -> list[Path]:
    found = sorted((CORE / layer).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("layer", BARRED)
def test_no_layer_knows_one_above_it(layer: str) -> None:
    known = {(path, name) for path in files(layer) for level, name in imports(path) if level}
    assert [(path, name) for path, name in known if name in BARRED[layer]] == []


def test_the_core_imports_others_through_libraries_and_ansible_in_the_boundary_alone() -> None:
    foreign = {
        (path.name, name)
        for path in files(".")
        for level, name in imports(path)
        if not level and name not in sys.stdlib_module_names and name != "mypy_boto3_s3"
    }
    others = {(file, name) for file, name in foreign if file != "libraries.py"}
    assert others == {("boundary.py", "ansible")}
