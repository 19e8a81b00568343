"""What a message says mends it can be typed: its targets, scripts, playbooks and variables exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

TARGETS = set(re.findall(r"^([a-z]+(?:-[a-z]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
HYPHENATED = sorted(target for target in TARGETS if "-" in target)
DEFAULTS = "\n".join(path.read_text() for path in ROOT.glob("roles/*/defaults/main.yml"))


def mends() -> Iterator[tuple[str, str]]:
    """Yield where a mend stands and its words, with ``?`` for what is put in."""
    for path in sorted((ROOT / "plugins" / "module_utils").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "mend":
                yield f"{path.name}:{node.value.lineno}", words(node.value)


def words(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(words, node.values))
    if isinstance(node, ast.IfExp):
        return f"{words(node.body)} / {words(node.orelse)}"
    return str(node.value) if isinstance(node, ast.Constant) else "?"


@pytest.mark.parametrize(("where", "mend"), list(mends()))
def test_a_mend_can_be_typed(where: str, mend: str) -> None:
    made = re.findall(r"\bmake ([a-z]+-[a-z-]+|[a-z]+(?= STACK=))", mend)
    assert set(made) <= TARGETS
    for target in HYPHENATED:
        assert len(re.findall(rf"\b{target}\b", mend)) == made.count(target)
    for file in re.findall(r"\b(?:scripts|playbooks|docs)/[\w-]+\.\w+", mend):
        assert (ROOT / file).is_file()
    for playbook in re.findall(r"(?<!STACK=\? )ansible-playbook .*?(playbooks/\w+\.yml)", mend):
        assert "apgms_play_stack" in (ROOT / playbook).read_text()
    assert mend.count(" versions") == mend.count("own versions or a backup of its folder")
    for variable in re.findall(r"-e (\w+)=", mend):
        assert f"\n{variable}:" in DEFAULTS
