# GNU General Public License v3.0+ (see COPYING)
"""Run a module of the collection in a process of its own, as Ansible does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.conftest import ROOT

PACKAGE = "ansible_collections.apgms.release.plugins.modules"


def run_module(
    name: str,
    options: dict[str, Any],
    *,
    check: bool = False,
    diff: bool = True,
    environment: dict[str, str] | None = None,
    memory: int | None = None,
) -> dict[str, Any]:
    """Return the result of a module; ``failed`` is in it where it failed.

    :param environment: variables that the process has besides those of this one
    :param memory: how many bytes of address space it may have
    """
    arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": diff}
    limited = [] if memory is None else ["prlimit", f"--as={memory}"]
    done = subprocess.run(
        [*limited, sys.executable, "-m", f"{PACKAGE}.{name}"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / ".collections"), **(environment or {})},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert bool(result.get("failed")) == (done.returncode != 0)
    return result
