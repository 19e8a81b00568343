# GNU General Public License v3.0+ (see COPYING)
"""The prototype flow as an operator runs it, and the whole demo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from services.local.stacks import LocalStacks
from tests.bench.__main__ import Figure
from tests.conftest import ROOT

PROTOTYPE_LIMIT_SECONDS = 15
DEMO_LIMIT_SECONDS = 90


def measure(rows: int = 100) -> list[Figure]:
    """Return the seconds of a prototype release with ``rows`` entities, and of ``make demo``."""
    return [
        _figure(f"prototype flow, {rows} entities", _prototype(rows), PROTOTYPE_LIMIT_SECONDS),
        _figure("make demo, dependencies installed", _demo(), DEMO_LIMIT_SECONDS),
    ]


def _prototype(entities: int) -> float:
    stacks = LocalStacks(ROOT / "build" / "bench-flow")
    shutil.rmtree(stacks.root, ignore_errors=True)
    stacks.up()
    playbook = Path(sys.executable).with_name("ansible-playbook")
    try:
        return _seconds(
            [str(playbook), "-i", "inventories/local", "playbooks/proto_release.yml",
             "-e", f"apgms_seed_entities={entities}"],
            {"APGMS_LOCAL": str(stacks.root)},
        )  # fmt: skip
    finally:
        stacks.down()


def _demo() -> float:
    return _seconds(["make", "demo"], {})


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def _figure(name: str, value: float, limit: float) -> Figure:
    return {
        "name": name,
        "value": round(value, 1),
        "unit": "s",
        "limit": limit,
        "holds": value <= limit,
    }
