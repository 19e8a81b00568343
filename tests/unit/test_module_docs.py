"""What a module's documentation promises of the keywords that Ansible itself decides on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

WITH_ACTION = sorted(path.stem for path in (ROOT / "plugins" / "action").glob("*.py"))


def attributes(module: Path) -> dict[str, Any]:
    """Return what the documentation of a module says of its attributes."""
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DOCUMENTATION":
            return dict(yaml.safe_load(ast.literal_eval(node.value))["attributes"])
    raise AssertionError(f"{module} has no DOCUMENTATION")


@pytest.mark.parametrize("module", WITH_ACTION)
def test_a_module_that_shows_its_progress_says_that_it_cannot_be_left_alone(module: str) -> None:
    said = attributes(ROOT / "plugins" / "modules" / f"{module}.py").get("async", {})
    assert said.get("support") == "none"
    ansible = Path(sys.executable).with_name("ansible")
    asynchronous = [ansible, "localhost", "-m", f"apgms.release.{module}", "-B", "9", "-P", "1"]
    done = subprocess.run(asynchronous, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "does not support async" in done.stdout
