# GNU General Public License v3.0+ (see COPYING)
"""stack_guard as an operator meets it: ansible-playbook, extra variables, the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.stack_guard import (
    Inventory,
    guard,
)
from tests.conftest import ROOT
from tests.module_process import run_module

SLOW = pytest.mark.slow
LIVE = {"SEED": 0, "SMOKE": 0, "DRY_RUN": 0}
DRY = {"SEED": 1, "SMOKE": 1, "DRY_RUN": 1}
OF_AN_OPERATOR = {
    "SEED", "SMOKE", "DRY_RUN", "STACK", "RELEASE_WINDOW", "ROLLBACK_TARGET", "PROTO_KILL_SWITCH",
}  # fmt: skip


def ask(**changes: Any) -> None:
    members: dict[str, Any] = {
        "groups": ["prod"],
        "required": {},
        "variables": {},
        "environment": {},
        "env_file": None,
    }
    guard(Inventory("prod", LIVE, file="prod.yml"), "release", **members | changes)


def refusal(**changes: Any) -> ApgmsError:
    with pytest.raises(ApgmsError) as caught:
        ask(**changes)
    return caught.value


@pytest.mark.parametrize("value", ["", None, "  ", "<fill in>", "CHANGE_ME", "changeme", [], {}])
def test_every_value_that_is_not_filled_in_is_listed(value: object) -> None:
    required = {"apgms_gateway_url": value, "apgms_operator": "operator", "apgms_policy": value}
    error = refusal(required=required)
    assert error.reason == "inventory.unset"
    assert error.details["unset"] == ["apgms_gateway_url", "apgms_policy"]
    assert "apgms_gateway_url, apgms_policy" in str(error)
    assert "set them in prod.yml" in str(error)


@pytest.mark.parametrize("value", [0, False, "0", "exchange-member", "a <b> c"])
def test_odd_values_are_filled_in(value: object) -> None:
    ask(required={"apgms_operator": value})


@pytest.mark.parametrize("groups", [["proto"], ["prod", "proto"]])
def test_the_inventory_of_the_other_stack_is_refused(groups: list[str]) -> None:
    error = refusal(groups=groups)
    assert error.reason == "stack.wrong_inventory"
    assert "-i inventories/prod" in str(error)


def test_a_missing_environment_file_states_nothing(tmp_path: Path) -> None:
    ask(env_file=str(tmp_path / ".env.prod"))


@pytest.mark.parametrize("kind", ["folder", "binary", "pipe", "device", "huge"])
def test_an_environment_file_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".env.prod"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        path.write_bytes(b"#" * (1 << 20) + b"\nSEED=1\n")
    else:
        path.write_bytes(b"DRY_RUN=0\n\xff\xfe")
    assert refusal(env_file=str(path)).reason == "env_file.unreadable"


def test_the_module_returns_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / ".env.prod"
    path.write_text("SEED=off\n")
    options = {
        "stack": "prod",
        "flags": LIVE,
        "purpose": "release",
        "release_window": 202611251800,
        "variables": {"DRY_RUN": "no", "UNRELATED": "x"},
        "environment": {"STACK": "prod", "PATH": "/bin"},
        "env_file": str(path),
    }
    result = run_module("stack_guard", options)
    assert not result["changed"]
    assert result["flags"] == {"seed": False, "smoke": False, "dryRun": False}
    assert result["release_window"] == "202611251800"
    assert result["agreeing"] == [
        "DRY_RUN in the extra or survey variables",
        "STACK in the process environment",
        f"SEED in {path} line 1",
    ]
    assert run_module("stack_guard", options, check=True) == result


@pytest.fixture
def site(tmp_path: Path) -> Any:
    """Run the role against an inventory, with an operator's command line and environment."""
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump(
            [{"hosts": "all", "gather_facts": False, "roles": ["apgms.release.stack_guard"]}]
        )
    )

    def run(
        stack: str,
        *command_line: str,
        flags: dict[str, object] | None = None,
        env_file: str | None = None,
        **environment: str,
    ) -> tuple[int, str]:
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "apgms_stack": stack,
            "apgms_flags": flags or (DRY if stack == "proto" else LIVE),
            "apgms_env_file": str(tmp_path / ".env"),
            "stack_guard_required": [],
        }
        (tmp_path / "hosts.yml").write_text(
            yaml.safe_dump({stack: {"hosts": {f"apgms-{stack}": variables}}})
        )
        if env_file is not None:
            (tmp_path / ".env").write_text(env_file)
        outside = {name: value for name, value in os.environ.items() if name not in OF_AN_OPERATOR}
        done = subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"), "-i", tmp_path / "hosts.yml",
                tmp_path / "play.yml", *command_line,
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**outside, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), **environment},
            check=False,
        )  # fmt: skip
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return run


@pytest.mark.parametrize(
    ("stack", "command_line", "environment", "env_file", "words"),
    [
        (
            "proto", ["-e", "DRY_RUN=0"], {}, None,
            "DRY_RUN in the extra or survey variables: it says 0, the inventory says 1",
        ),
        (
            "proto", ["-e", '{"DRY_RUN": false, "apgms_flags": {"DRY_RUN": 0}}'], {}, None,
            "a proto prototype requires DRY_RUN=1",
        ),
        (
            "proto", ["-e", "apgms_stack=prod", "-e", '{"apgms_flags": {"DRY_RUN": 0}}'], {}, None,
            "This is a run for prod with the inventory of proto",
        ),
        (
            "prod", [], {"SEED": "1"}, None,
            "SEED in the process environment: it says 1, the inventory says 0",
        ),
        pytest.param(
            "prod", [], {"DRY_RUN": ""}, None,
            "'' is none of 1, true", marks=SLOW,
        ),
        ("prod", [], {}, "A=b\nSMOKE=yes\n", ".env line 2: it says 1, the inventory says 0"),
        pytest.param(
            "prod", ["-e", "apgms_purpose=rehearsal"], {}, None,
            "requires DRY_RUN=1", marks=SLOW,
        ),
        pytest.param(
            "prod", [], {"STACK": "proto"}, None,
            "it says 'proto', the inventory says prod", marks=SLOW,
        ),
    ],
)  # fmt: skip
def test_nobody_is_talked_into_another_run(
    site: Any,
    stack: str,
    command_line: list[str],
    environment: dict[str, str],
    env_file: str | None,
    words: str,
) -> None:
    status, said = site(stack, *command_line, env_file=env_file, **environment)
    assert status != 0
    assert words in said


def test_the_kill_switch_reaches_the_modules_from_wherever_it_is_set(
    site: Any, tmp_path: Path
) -> None:
    play = {
        "hosts": "all",
        "gather_facts": False,
        "roles": ["apgms.release.stack_guard"],
        "tasks": [
            {
                "ansible.builtin.command": "printenv PROTO_KILL_SWITCH PROTO_KILL_SWITCH_REASON",
                "environment": "{{ apgms_kill_switch }}",
                "register": "seen",
            },
            {"ansible.builtin.debug": {"msg": "a module sees {{ seen.stdout_lines | join(' ') }}"}},
        ],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    env_file = "PROTO_KILL_SWITCH=stop\nPROTO_KILL_SWITCH_REASON='duplicate credits'\n"
    status, said = site("prod", env_file=env_file)
    assert status == 0, said
    assert "PROTO_KILL_SWITCH is on, so nothing is sent, seeded, reopened or restored" in said
    assert "a module sees 1 'duplicate credits', in" in said


def test_a_run_that_everything_agrees_with_starts(site: Any) -> None:
    status, said = site(
        "prod",
        "-e",
        '{"SEED": "no", "SMOKE": false, "RELEASE_WINDOW": "202611251800"}',
        env_file="# production\nexport DRY_RUN='0'\n",
        STACK="prod",
        DRY_RUN="off",
    )
    assert status == 0, said
    assert "prod release: SEED=0 SMOKE=0 DRY_RUN=0" in said
    assert "PROTO_KILL_SWITCH" not in said


@pytest.mark.parametrize(
    ("stack", "more"),
    [("proto", ["apgms_rpt_signing_key", "apgms_aws_account"]), ("prod", ["apgms_aws_account"])],
)
def test_the_first_task_lists_all_that_the_inventory_leaves_empty(
    stack: str, more: list[str]
) -> None:
    """Whatever group_vars of the checkout leaves empty is in one message."""
    values = yaml.safe_load((ROOT / f"inventories/{stack}/group_vars/{stack}.yml").read_text())
    empty = {name for name, value in values.items() if value in ("", [])}
    assert empty >= {"apgms_audit_store", "apgms_periods", *more}
    outside = {name: value for name, value in os.environ.items() if name not in OF_AN_OPERATOR}
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"), "-i", f"inventories/{stack}",
            f"playbooks/{stack}_release.yml",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, env=outside,
    )  # fmt: skip
    assert done.returncode != 0
    assert "1 steps, changed=0" in done.stdout
    assert {
        name for name in values if f"{name}," in done.stdout or f"{name}." in done.stdout
    } == empty
