"""Handover to an audit store: delivered once, predicted exactly, never overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    parse_canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    object_key,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import read
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle.files import (
    checksum_file,
)
from tests.approvals import make_manifest
from tests.module_process import run_module

MANIFEST = make_manifest()


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    store = FolderStore(tmp_path / "store")
    files = {
        "manifest.json": MANIFEST.to_bytes(),
        "manifest.json.sha256": checksum_file(MANIFEST.checksum),
        "manifest.dsse.json": b"{}",
        "checkpoint": b"origin\n1\nroot\n",
        "ledger_hashes.json": b"{}",
        "ledger/gst.json": b"{}",
    }
    for name, data in files.items():
        store.put_new(object_key(MANIFEST.checksum, name), data)
    return {
        "manifest_sha256": MANIFEST.checksum,
        "object_store": store.url,
        "audit_store": f"file://{tmp_path}/audit",
    }


def test_a_run_is_handed_over_once(options: dict[str, Any], tmp_path: Path) -> None:
    first = run_module("handover", {**options, "notes": "corrective"})
    assert first["changed"] is True
    assert len(first["delivered"]) == 7
    ticket = parse_canonical(read(FolderStore(tmp_path / "audit"), first["ticket"]))
    assert ticket["manifest_sha256"] == MANIFEST.checksum
    assert ticket["rates_version"] == "2024-25"
    assert ticket["notes"] == "corrective"
    assert ticket["hash_summary"] == first["hash_summary"]
    again = run_module("handover", {**options, "notes": "corrective"})
    assert (again["changed"], again["delivered"]) == (False, [])


def test_check_mode_predicts_and_delivers_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    predicted = run_module("handover", options, check=True)
    assert not (tmp_path / "audit").exists()
    assert predicted == run_module("handover", options) | {"invocation": predicted["invocation"]}


def test_other_notes_do_not_replace_a_ticket(options: dict[str, Any], tmp_path: Path) -> None:
    first = run_module("handover", options)
    refused = run_module("handover", {**options, "notes": "something else"})
    assert refused["reason"] == "object_store.conflict"
    assert parse_canonical(read(FolderStore(tmp_path / "audit"), first["ticket"]))["notes"] == ""


def test_an_unknown_checksum_is_one_message(options: dict[str, Any]) -> None:
    refused = run_module("handover", {**options, "manifest_sha256": "0" * 64})
    assert refused["reason"] == "manifest.unknown"
    assert "manifest.json.sha256" in refused["msg"]
