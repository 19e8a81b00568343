# GNU General Public License v3.0+ (see COPYING)
"""Small bundles to submit, for tests of the gateway alone."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from dataclasses import dataclass
from typing import Any

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
    sha256_hex,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    Batch,
    Flags,
    Ledger,
    Manifest,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.receipt import Sent
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway import (
    Body,
    submission_body,
)

ZERO = "0" * 64


@dataclass(frozen=True)
class Submission:
    """A manifest, the rows of its batches, and the key to send them under."""

    manifest: Manifest
    rpts: tuple[bytes, ...]
    idempotency_key: str

    @property
    def body(self) -> Body:
        """What is sent."""
        openers = [functools.partial(io.BytesIO, rows) for rows in self.rpts]
        return submission_body(self.manifest.to_bytes(), openers)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the contract wants with it."""
        digest = base64.b64encode(bytes.fromhex(self.body.sha256)).decode()
        return {
            "Content-Type": "application/x-ndjson",
            "Content-Digest": f"sha-256=:{digest}:",
            "Idempotency-Key": self.idempotency_key,
        }

    @property
    def sent(self) -> Sent:
        """What its receipt must answer."""
        return Sent(
            environments=("production-like",),
            stack=self.manifest.stack,
            manifest_sha256=self.manifest.checksum,
            submission_id=self.manifest.submission_id,
            idempotency_key=self.idempotency_key,
            body_sha256=self.body.sha256,
            count=self.manifest.batch_total,
            amount_cents=self.manifest.amount_total_cents,
        )


def make_submission(name: str = "one", rows: int = 3, **changes: Any) -> Submission:
    """Return a submission of two batches with ``rows`` rows each.

    :param name: what makes its manifest, its rows and its key differ from others
    :param changes: members of the manifest
    """
    contents = {
        tax_type: b"".join(_row(name, tax_type, number, first_id) for number in range(rows))
        for tax_type, first_id in (("GST", 1), ("PAYGW", rows + 1))
    }
    batches = tuple(
        Batch(
            tax_type=tax_type,
            period_id="2025-09",
            count=rows,
            amount_cents=sum(1000 + number for number in range(rows)),
            rpt_sha256=sha256_hex(content),
            ledger_sha256=ZERO,
        )
        for tax_type, content in contents.items()
    )
    members: dict[str, Any] = {
        "stack": "prod",
        "purpose": "release",
        "flags": Flags(seed=False, smoke=False, dry_run=False),
        "built_at": "2025-10-01T00:00:00.000Z",
        "release_window": "202510010000",
        "submission_id": f"submission-{name}",
        "rates_version": "2025-26",
        "rates_bundle_sha256": ZERO,
        "batches": batches,
        "ledger": Ledger("apgms.test/prod", 0, ZERO, ZERO, ZERO, {}),
        "image_sha256": ZERO,
        "previous": None,
        "collection_version": "0.1.0",
        "source_revision": "test",
    }
    key = f"test-{hashlib.sha256(name.encode()).hexdigest()}"
    return Submission(Manifest(**{**members, **changes}), tuple(contents.values()), key)


def _row(name: str, tax_type: str, number: int, first_id: int) -> bytes:
    row = {
        "id": str(first_id + number),
        "abn": "53004085616",
        "tax_type": tax_type,
        "period_id": "2025-09",
        "amount_cents": str(1000 + number),
        "payload_sha256": sha256_hex(f"{name} {tax_type} {number}".encode()),
    }
    return canonical(row) + b"\n"
