"""The module gateway_release in a process of its own, and in a playbook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Manifest
from tests.conftest import ROOT
from tests.faults.invariants import require_accepted_once
from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess
from tests.module_process import run_module

TOKEN = "s3cret-bearer-token-of-the-gateway"


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> Any:
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    options = ("--token-file", str(folder / "token"))
    gateway = GatewayProcess(folder, options=options).start()
    yield Stack(tmp_path / "prod", database_url, gateway).prepare()
    gateway.stop()


@pytest.fixture
def manifest(stack: Stack) -> Manifest:
    return stack.bundle()


def options(stack: Stack, manifest: Manifest, **changes: Any) -> dict[str, Any]:
    return {
        "stack": "prod",
        "manifest": manifest.checksum,
        "database_url": stack.database_url,
        "object_store": stack.store.url,
        "gateway_url": stack.gateway.url,
        "gateway_token": TOKEN,
        "policy": stack.policy_path,
        "statements": str(stack.statements),
        "operator": "operator",
        "operator_key": str(stack.keys.person("operator")),
        **changes,
    }


def test_its_prediction_is_what_the_run_then_does(stack: Stack, manifest: Manifest) -> None:
    predicted = run_module("gateway_release", options(stack, manifest), check=True)
    assert predicted.get("changed"), predicted
    assert stack.gateway.counters["submissions"] == 0
    done = run_module("gateway_release", options(stack, manifest))
    assert done["diff"]["before"] == predicted["diff"]["before"]
    assert (done["state"], done["changed"]) == (predicted["state"], predicted["changed"])
    assert done["rows"]["sent"] == predicted["rows"]["sent"]
    assert done["rows"]["accepted"]["count"] == manifest.batch_total
    again = run_module("gateway_release", options(stack, manifest))
    assert (again["changed"], again["state"]) == (False, "ACKNOWLEDGED")
    assert again["diff"]["before"] == again["diff"]["after"] == done["diff"]["after"]
    assert run_module("gateway_release", options(stack, manifest), check=True)["changed"] is False


def test_an_unfinished_release_fails_with_its_state(stack: Stack, manifest: Manifest) -> None:
    stack.gateway.plan({"point": "status", "fault": "still_running", "times": 1000})
    failed = run_module("gateway_release", options(stack, manifest, time_limit=1))
    assert (failed["reason"], failed.get("state")) == ("release.not_finished", "PENDING"), failed
    assert "run the same command again" in failed["msg"]
    stack.gateway.plan()
    assert run_module("gateway_release", options(stack, manifest))["state"] == "ACKNOWLEDGED"


def test_a_wrong_token_is_one_message_without_the_token(stack: Stack, manifest: Manifest) -> None:
    failed = run_module("gateway_release", options(stack, manifest, gateway_token="wrong-" + TOKEN))
    assert failed["reason"] == "gateway.refused"
    assert TOKEN not in json.dumps(failed).replace("VALUE_SPECIFIED_IN_NO_LOG_PARAMETER", "")


def play(stack: Stack, manifest: Manifest, folder: Path, **environment: str) -> str:
    """Return what a playbook run prints, at high verbosity and into a log file."""
    module = options(stack, manifest, gateway_token="{{ token }}")
    release = {"apgms.release.gateway_release": module, "register": "released"}
    shown = {"ansible.builtin.debug": {"var": "released.state"}}
    book = [{"hosts": "localhost", "gather_facts": False, "tasks": [release, shown]}]
    (folder / "play.json").write_text(json.dumps(book))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-vvv", "-i", "localhost,", "-c", "local",
         folder / "play.json", "-e", "ansible_python_interpreter={{ ansible_playbook_python }}",
         "-e", "token={{ lookup('ansible.builtin.env', 'TEST_TOKEN') }}"],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_LOG_PATH": str(folder / "ansible.log"),
            "TEST_TOKEN": TOKEN,
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def die_at(point: int) -> dict[str, str]:
    """Return the environment in which the module's process is killed at a point of its steps."""
    dying = str(ROOT / "tests" / "faults" / "dying")
    return {"PYTHONPATH": dying, "APGMS_DIE_AT": str(point)}


@pytest.mark.parametrize(
    "point",
    [13, *(pytest.param(point, marks=pytest.mark.slow) for point in (*range(13), *range(14, 28)))],
)
def test_the_playbook_run_again_after_its_module_was_killed(
    stack: Stack, manifest: Manifest, tmp_path: Path, point: int
) -> None:
    assert "ACKNOWLEDGED" not in play(stack, manifest, tmp_path, **die_at(point))
    assert '"released.state": "ACKNOWLEDGED"' in play(stack, manifest, tmp_path)
    require_accepted_once(stack, manifest)
    assert run_module("gateway_release", options(stack, manifest))["changed"] is False


def test_a_playbook_shows_progress_and_leaves_the_token_nowhere(
    stack: Stack, manifest: Manifest, tmp_path: Path
) -> None:
    stack.gateway.plan({"point": "status", "fault": "still_running", "times": 2})
    output = play(stack, manifest, tmp_path)
    assert '"released.state": "ACKNOWLEDGED"' in output, output
    assert "    Watching job-" in output
    (tmp_path / "gateway" / "token").unlink()
    left = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]
    assert left == []
    assert TOKEN not in output
