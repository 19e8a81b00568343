# GNU General Public License v3.0+ (see COPYING)
"""The embedded stacks come up again, whatever ended them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.conftest import ROOT
from tests.module_process import run_module


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="apgms-") as name:  # short: it holds a socket
        yield Path(name)
        local("down", Path(name))


def local(act: str, root: Path) -> str:
    """Run ``make local-up`` or ``local-down``, below another folder, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "services.local", act, "--root", str(root)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": ".collections"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def services(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "services.json").read_text())
    return content


def answers(root: Path) -> bool:
    """Return whether the production-like database answers."""
    with psycopg.connect(services(root)["stacks"]["prod"]["database_url"]) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def test_what_was_killed_is_not_ended_again_and_comes_back(root: Path) -> None:
    local("up", root)
    postgres = psutil.Process(services(root)["processes"]["postgres"]["pid"])
    postgres.kill()
    postgres.wait(10)
    assert local("down", root) == "Stopped: gateway-proto, gateway-prod"
    local("up", root)
    assert answers(root)


def test_a_pid_that_is_another_process_by_now_is_left_alone(root: Path) -> None:
    local("up", root)
    assert local("down", root) == "Stopped: gateway-proto, gateway-prod, postgres"
    stale = services(root)
    stale["processes"] = {"gateway-proto": {"pid": 1}, "gateway-prod": {"pid": os.getpid()}}
    (root / "services.json").write_text(json.dumps(stale))
    data = root / "postgres"
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n1\n5432\n{data}\n\n0\nready\n")
    assert local("down", root) == "Stopped: nothing was running"
    local("up", root)
    assert answers(root)


def test_a_service_that_is_down_is_named_with_what_starts_it(tmp_path: Path) -> None:
    file = tmp_path / "services.json"
    file.write_text(json.dumps({"processes": {"here": {"pid": os.getpid()}}}))
    found = run_module(
        "services_info",
        {"engine": "local", "services_file": str(file), "expected": ["here", "postgres"]},
    )
    assert found["failed"]
    assert found["msg"] == (
        f"Services that are not up: postgres. Where: {file}. Why: postgres (never started)."
        " Mend: make local-up"
    )
