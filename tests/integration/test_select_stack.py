# GNU General Public License v3.0+ (see COPYING)
"""scripts/select_stack.sh, evaluated by a shell as an operator does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

NAMES = ("STACK", "SEED", "SMOKE", "DRY_RUN", "AWS_PROFILE")
PROTO = {"SEED": 1, "SMOKE": "yes", "DRY_RUN": True}


def select(stack: str, inventory: Path | None = None) -> tuple[int, dict[str, str], str]:
    """Return the status of eval, the variables after it, and what was said on stderr."""
    program = f"""
        export STACK=before DRY_RUN=before AWS_PROFILE=before
        eval "$({ROOT}/scripts/select_stack.sh {stack})"
        status=$?
        env -0
        exit $status
    """
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    if inventory:
        environment["INVENTORY"] = str(inventory)
    done = subprocess.run(
        ["sh", "-c", program], capture_output=True, text=True, env=environment, check=False
    )
    found = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)
    return done.returncode, {n: found[n] for n in NAMES if n in found}, done.stderr


@pytest.fixture
def inventory(tmp_path: Path) -> Any:
    """Write an inventory of one host in the group proto."""

    def write(**variables: Any) -> Path:
        members = {"apgms_stack": "proto", "apgms_flags": PROTO, **variables}
        path = tmp_path / "hosts.yml"
        path.write_text(yaml.safe_dump({"proto": {"hosts": {"apgms-proto": members}}}))
        return path

    return write


@pytest.mark.parametrize(
    ("stack", "flags"), [("proto", ("1", "1", "1")), ("prod", ("0", "0", "0"))]
)
def test_the_inventories_of_this_repository(stack: str, flags: tuple[str, ...]) -> None:
    status, found, _ = select(stack)
    assert status == 0
    assert found == dict(zip(NAMES, (stack, *flags, f"apgms-{stack}"), strict=True))


def test_a_stack_without_a_profile_unsets_the_one_before(inventory: Any) -> None:
    status, found, _ = select("proto", inventory(apgms_aws_profile=""))
    assert (status, found) == (0, {"STACK": "proto", "SEED": "1", "SMOKE": "1", "DRY_RUN": "1"})


def test_values_are_quoted(inventory: Any, tmp_path: Path) -> None:
    profile = f"a'; touch {tmp_path}/touched; $(touch {tmp_path}/touched) `id`\n'\"\\"
    status, found, _ = select("proto", inventory(apgms_aws_profile=profile))
    assert status == 0
    assert found["AWS_PROFILE"] == profile
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("stack", "variables", "words"),
    [
        ("production", {}, "'production' is not proto or prod"),
        ("", {}, "'' is not proto or prod"),
        ("prod", {}, "its group prod has 0 hosts"),
        pytest.param(
            "proto", {"apgms_stack": "prod"}, "apgms_stack is 'prod'", marks=pytest.mark.slow
        ),
        pytest.param(
            "proto",
            {"apgms_flags": "SEED=1"},
            "not SEED, SMOKE and DRY_RUN",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "proto",
            {"apgms_flags": {**PROTO, "DRY_RUN": 0}},
            "requires DRY_RUN=1",
            marks=pytest.mark.slow,
        ),
        ("proto", {"apgms_flags": {**PROTO, "SEED": "$(id)"}}, "'$(id)' is none of"),
        pytest.param(
            "proto",
            {"apgms_flags": {**PROTO, "DRYRUN": 1}},
            "no flag 'DRYRUN'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_refusal_fails_and_leaves_no_earlier_choice(
    inventory: Any, stack: str, variables: dict[str, Any], words: str
) -> None:
    status, found, said = select(stack, inventory(**variables))
    assert status != 0
    assert found == {}
    assert words in said
    assert "Traceback" not in said
