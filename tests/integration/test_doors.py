# GNU General Public License v3.0+ (see COPYING)
"""The doors of the runbook, opened wrongly: each says what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def door(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the runbook in the checkout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": path, "HOME": os.environ.get("HOME", "/"), **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("playbook", "mend"),
    [
        ("approve", "-e approve_signer=PRINCIPAL -e approve_key=KEY"),
        ("cosign", "-e cosign_key=KEY.pem"),
        ("kill_switch", "-e kill_switch_state=on"),
    ],
)
def test_a_playbook_says_what_it_must_be_given(playbook: str, mend: str) -> None:
    done = door(
        "ansible-playbook", "-i", "inventories/proto", f"playbooks/{playbook}.yml", STACK="proto"
    )
    assert done.returncode == 2
    assert f"Mend:   {mend}" in done.stdout
    assert "changed=0" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        ("verify_rpt.sh", "scripts/verify_rpt.sh --stack proto --dry-run"),
        ("verify_rpt.sh --stack", "scripts/verify_rpt.sh --stack proto --dry-run"),
        ("verify_rpt.sh --stack prod --dry-run", "playbooks/prod_rehearsal.yml"),
        ("check_seed.sh prod", "scripts/check_seed.sh proto"),
        ("check_release.sh", "scripts/check_release.sh prod"),
        ("check_ledger.sh live", "scripts/check_ledger.sh prod"),
    ],
)
def test_a_script_says_how_it_is_called(arguments: str, mend: str) -> None:
    script, *words = arguments.split()
    done = door(f"scripts/{script}", *words)
    assert done.returncode == 2
    assert "Mend: " in done.stderr
    assert done.stderr.rstrip().endswith(mend)
