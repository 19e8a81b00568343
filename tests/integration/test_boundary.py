# GNU General Public License v3.0+ (see COPYING)
"""What every module does alike, whatever it acts on."""

from __future__ import annotations

import os
from pathlib import Path

from services.keys import make_keys, policy_document, write_policy
from tests.module_process import run_module

MEBIBYTE = 1 << 20


def test_a_module_that_runs_out_of_memory_is_one_message(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys", "prod")
    policy = write_policy(keys, tmp_path, policy_document(keys))
    checkpoint = tmp_path / "store/log/apgms.local/prod/checkpoint" / f"{1:016d}"
    checkpoint.parent.mkdir(parents=True)
    with checkpoint.open("wb") as note:
        os.truncate(note.fileno(), 2048 * MEBIBYTE)
    options = {
        "stack": "prod",
        "object_store": f"file://{tmp_path}/store",
        "policy": str(policy),
        "cosign_key": str(keys.cosign_key),
    }
    failed = run_module("ledger_cosign", options, memory=1024 * MEBIBYTE)
    assert failed["reason"] == "host.out_of_memory"
