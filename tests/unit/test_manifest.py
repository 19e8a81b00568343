# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Batch,
    Flags,
    Ledger,
    Manifest,
    Previous,
    object_key,
    parse_manifest,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.usecases.bundle.manifests import (
    load_manifest,
)


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def batch(tax_type: str, period_id: str = "2025-09", count: int = 2, cents: int = 5) -> Batch:
    return Batch(tax_type, period_id, count, cents, digest(tax_type + period_id), digest(tax_type))


MANIFEST = Manifest(
    stack="prod",
    purpose="release",
    flags=Flags(seed=False, smoke=False, dry_run=False),
    built_at="2025-10-20T10:00:00.000Z",
    release_window="202510201000",
    submission_id="sub-1",
    rates_version="2025-26.1",
    rates_bundle_sha256=digest("rates"),
    batches=(batch("GST"), batch("PAYGW", cents=9_007_199_254_740_993)),
    ledger=Ledger(
        origin="apgms.local/prod",
        tree_size=12,
        root=digest("root"),
        checkpoint_sha256=digest("checkpoint"),
        hashes_sha256=digest("hashes"),
        namespaces={"gst": digest("GST"), "paygw": digest("PAYGW")},
    ),
    image_sha256=digest("image"),
    previous=Previous(digest("before"), 7),
    collection_version="0.1.0",
    source_revision="4f2a",
)
DATA = MANIFEST.to_bytes()


def refused(data: bytes, **expected: Any) -> str:
    with pytest.raises(ApgmsError) as caught:
        parse_manifest(data, where="manifest.json", **expected)
    assert "manifest.json" in str(caught.value)
    return caught.value.reason


def changed(**members: Any) -> bytes:
    return canonical({**MANIFEST.document(), **members})


def test_the_checksum_is_that_of_the_file() -> None:
    assert MANIFEST.checksum == hashlib.sha256(DATA).hexdigest()
    assert parse_manifest(DATA, where="-", checksum=MANIFEST.checksum, stack="prod") == MANIFEST


def test_totals_are_the_sums_of_the_batches() -> None:
    document = json.loads(DATA)
    assert document["batch_total"] == 4
    assert document["amount_total_cents"] == "9007199254740998"
    assert document["flags"] == {"seed": False, "smoke": False, "dryRun": False}


def test_a_first_release_has_no_predecessor_and_proto_no_window() -> None:
    first = dataclasses.replace(MANIFEST, previous=None, release_window=None, stack="proto")
    assert parse_manifest(first.to_bytes(), where="-") == first


def test_every_file_is_bound() -> None:
    assert MANIFEST.files["rpts/GST-2025-09.jsonl"] == digest("GST2025-09")
    assert MANIFEST.files["ledger/paygw.json"] == digest("PAYGW")
    assert MANIFEST.files["rates/2025-26.1/catalog.json"] == digest("rates")
    assert MANIFEST.files.keys() >= {"image.jsonl", "checkpoint", "ledger_hashes.json"}


@given(st.integers(0, len(DATA) - 1))
def test_any_cut_is_called_truncated(length: int) -> None:
    assert refused(DATA[:length], checksum=MANIFEST.checksum) == "manifest.truncated"


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(position: int, flip: int) -> None:
    data = bytearray(DATA)
    data[position] ^= flip
    assert refused(bytes(data), checksum=MANIFEST.checksum).startswith("manifest.")


@pytest.mark.parametrize(
    "data", [json.dumps(json.loads(DATA)).encode(), DATA + b"\n", b'{"a":1,"a":2}', b"{nonsense}"]
)
def test_other_bytes_are_altered_even_without_a_known_checksum(data: bytes) -> None:
    assert refused(data) == "manifest.altered"


def test_a_well_formed_manifest_with_another_checksum_is_altered() -> None:
    assert refused(changed(submission_id="sub-2"), checksum=MANIFEST.checksum) == "manifest.altered"


@pytest.mark.parametrize("data", [changed(schema="apgms.release/manifest/2"), b"[]", b'{"a":1}'])
def test_unknown_schema(data: bytes) -> None:
    assert refused(data) == "manifest.unknown_schema"


def test_the_other_stack() -> None:
    assert refused(DATA, stack="proto") == "manifest.other_stack"


@pytest.mark.parametrize(
    "members",
    [
        {"batch_total": 5},
        {"batch_total": True},
        {"amount_total_cents": "1"},
        {"amount_total_cents": 9007199254740},
        {"stack": "test"},
        {"purpose": "holiday"},
        {"extra": 1},
        {"flags": {"seed": False, "smoke": False, "dryRun": 0}},
        {"flags": {"seed": False, "smoke": False}},
        {"image_sha256": digest("image").upper()},
        {"release_window": "2025-10-20"},
        {"submission_id": ""},
        {"previous": {"manifest_sha256": digest("before")}},
        {"batches": list(reversed(MANIFEST.document()["batches"]))},
        {"batches": MANIFEST.document()["batches"] + MANIFEST.document()["batches"][:1]},
        {"batches": [{**MANIFEST.document()["batches"][0], "period_id": "../../etc"}]},
        {"ledger": {**MANIFEST.document()["ledger"], "namespaces": {"../x": digest("x")}}},
        {"ledger": {**MANIFEST.document()["ledger"], "tree_size": "12"}},
    ],
)
def test_malformed_members(members: dict[str, Any]) -> None:
    assert refused(changed(**members)) == "manifest.malformed"


def test_load_from_the_store(tmp_path: Any) -> None:
    store = FolderStore(tmp_path)
    store.put_new(object_key(MANIFEST.checksum, "manifest.json"), DATA)
    assert load_manifest(store, MANIFEST.checksum, "prod") == MANIFEST


@pytest.mark.parametrize(
    ("checksum", "reason"),
    [(digest("nobody"), "manifest.unknown"), ("latest", "manifest.malformed_checksum")],
)
def test_load_what_is_not_there(tmp_path: Any, checksum: str, reason: str) -> None:
    with pytest.raises(ApgmsError) as caught:
        load_manifest(FolderStore(tmp_path), checksum)
    assert caught.value.reason == reason
