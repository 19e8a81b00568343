# GNU General Public License v3.0+ (see COPYING)
"""A small bundle in an object store, built by hand, whose every part an approver can check."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.attestation import (
    VERDICT,
    attest,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
    sha256_hex,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Batch,
    Ledger,
    Manifest,
    object_key,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import KeyFileSigner
from services.keys import Keys
from tests.approvals import make_manifest
from tests.conftest import ROOT

RATES = ROOT / "roles" / "rates" / "files" / "rates" / "2024-25" / "catalog.json"


def put_bundle(
    store: FolderStore, keys: Keys, rows: dict[str, list[bytes]] | None = None, **changes: Any
) -> Manifest:
    """Put a bundle of a GST and a PAYGW batch; return its manifest.

    :param rows: lines of ``rpts/*.jsonl`` by tax type
    :param changes: members of the manifest
    """
    rows = rows or {tax: [rpt_row(keys, tax, n) for n in range(3)] for tax in ("GST", "PAYGW")}
    files = {f"rpts/{tax}-2025-09.jsonl": b"".join(lines) for tax, lines in rows.items()}
    files |= {f"ledger/{tax.lower()}.json": canonical({"rows": len(rows[tax])}) for tax in rows}
    files["checkpoint"] = b"apgms.local/prod\n6\n\n"
    files["image.jsonl"] = b""
    catalog = RATES.read_bytes()
    files["rates/2024-25/catalog.json"] = catalog
    hashes = {tax.lower(): sha256_hex(files[f"ledger/{tax.lower()}.json"]) for tax in rows}
    files["ledger_hashes.json"] = canonical(hashes)
    manifest = make_manifest(
        **{
            "stack": keys.stack,
            "rates_bundle_sha256": sha256_hex(catalog),
            "image_sha256": sha256_hex(b""),
            "batches": tuple(_batch(tax, lines, hashes) for tax, lines in rows.items()),
            "ledger": Ledger(
                f"apgms.local/{keys.stack}",
                6,
                "ab" * 32,
                sha256_hex(files["checkpoint"]),
                sha256_hex(files["ledger_hashes.json"]),
                hashes,
            ),
            **changes,
        }
    )
    signer = KeyFileSigner(keys.manifest_key, "ecdsa-p256")
    files["manifest.dsse.json"] = attest(
        {"manifest.json": manifest.checksum}, VERDICT, {}, signer.key_id, signer.sign
    )
    files["rates/2024-25/rates.bundle.sha256"] = f"{sha256_hex(catalog)}  catalog.json\n".encode()
    files["manifest.json.sha256"] = f"{manifest.checksum}  manifest.json\n".encode()
    files["manifest.json"] = manifest.to_bytes()
    for name, data in files.items():
        store.put_new(object_key(manifest.checksum, name), data)
    return manifest


def rpt_row(keys: Keys, tax_type: str, number: int, **changes: Any) -> bytes:
    """Return a signed line of ``rpts/*.jsonl``; ``changes`` replace members after signing."""
    cents = 1000 + number
    message = json.dumps({"entity_id": "53004085616", "amount_cents": cents}).encode()
    key = ed25519.Ed25519PrivateKey.from_private_bytes(base64.b64decode(keys.rpt_key.read_bytes()))
    row = {
        "id": str(number + 1),
        "abn": "53004085616",
        "tax_type": tax_type,
        "period_id": "2025-09",
        "amount_cents": str(cents),
        "created_at": "2025-10-01T00:00:00Z",
        "kid": keys.rpt_kid,
        "status": "ISSUED",
        "payload_c14n": message.decode(),
        "payload_sha256": sha256_hex(message),
        "signature": base64.b64encode(key.sign(message)).decode(),
    }
    return canonical({**row, **changes}) + b"\n"


def _batch(tax_type: str, lines: list[bytes], hashes: dict[str, str]) -> Batch:
    return Batch(
        tax_type=tax_type,
        period_id="2025-09",
        count=len(lines),
        amount_cents=sum(int(json.loads(line)["amount_cents"]) for line in lines),
        rpt_sha256=sha256_hex(b"".join(lines)),
        ledger_sha256=hashes[tax_type.lower()],
    )


def rebatched(manifest: Manifest, **changes: Any) -> tuple[Batch, ...]:
    """Return the manifest's batches with members of the first one changed."""
    first, *others = manifest.batches
    return (dataclasses.replace(first, **changes), *others)


def store_in(folder: Path) -> FolderStore:
    """Return an empty object store."""
    return FolderStore(folder / "object-store")
