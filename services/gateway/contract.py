# GNU General Public License v3.0+ (see COPYING)
"""The contract's forms: canonical JSON, problems, manifests and rows, signed receipts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

CONTRACT = "apgms.release/gateway/1"
MANIFEST_SCHEMA = "apgms.release/manifest/1"
RECEIPT_SCHEMA = "apgms.release/receipt/1"
RECEIPT_TYPE = "application/vnd.apgms.receipt+json"
STACK_OF_ENVIRONMENT = {"sandbox": "proto", "production-like": "prod"}
IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9._-]{16,128}")
SHA256 = re.compile(r"[0-9a-f]{64}")
CONTENT_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
_BATCH_TEXTS = ("tax_type", "period_id", "amount_cents", "rpt_sha256")
MAX_LINE_BYTES = 16 << 20
MAX_CENTS = 1 << 43

STATUS_OF_CODE = {
    "bad_request": 400,
    "missing_idempotency_key": 400,
    "missing_content_digest": 400,
    "digest_mismatch": 400,
    "unauthorised": 401,
    "dry_run": 403,
    "wrong_environment": 403,
    "not_found": 404,
    "too_slow": 408,
    "key_in_progress": 409,
    "duplicate_manifest": 409,
    "too_large": 413,
    "wrong_media_type": 415,
    "manifest_malformed": 422,
    "rows_differ_from_manifest": 422,
    "key_reused": 422,
    "too_many_requests": 429,
    "unavailable": 503,
}


class Problem(Exception):
    """An answer that is not what was asked for (RFC 9457)."""

    def __init__(self, code: str, detail: str, job_id: str | None = None) -> None:
        super().__init__(detail)
        self.status = STATUS_OF_CODE[code]
        self.body = {
            "title": code.replace("_", " "),
            "status": self.status,
            "code": code,
            "detail": detail,
        }
        if job_id:
            self.body["job_id"] = job_id


@dataclass(frozen=True)
class Row:
    """One RPT row of a submission; the amount in cents."""

    rpt_id: str
    tax_type: str
    period_id: str
    amount_cents: int
    payload_sha256: str


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 bytes of values without floats and with ASCII keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_manifest(upload: IO[bytes], environment: str) -> tuple[dict[str, Any], str]:
    """Return the manifest at the beginning of an upload, and its checksum.

    :raises Problem: manifest_malformed, dry_run, wrong_environment
    """
    line = upload.readline(MAX_LINE_BYTES)
    data = line.removesuffix(b"\n")
    try:
        manifest = json.loads(data)
        if canonical(manifest) != data or not _described(manifest):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Problem(
            "manifest_malformed", "the first line is not the canonical bytes of a manifest"
        ) from None
    if manifest["flags"]["dryRun"] is not False:
        raise Problem("dry_run", "a manifest with dryRun is never submitted")
    if manifest["stack"] != STACK_OF_ENVIRONMENT[environment]:
        raise Problem(
            "wrong_environment", f"{environment} takes no manifest of stack {manifest['stack']}"
        )
    return manifest, hashlib.sha256(data).hexdigest()


def _described(manifest: dict[str, Any]) -> bool:
    kinds = (str, str, int, bool)
    named = (
        manifest["stack"],
        manifest["submission_id"],
        manifest["batch_total"],
        manifest["flags"]["dryRun"],
    )
    return (
        manifest["schema"] == MANIFEST_SCHEMA
        and all(map(isinstance, named, kinds))
        and all(
            isinstance(batch["count"], int)
            and all(isinstance(batch[name], str) for name in _BATCH_TEXTS)
            for batch in manifest["batches"]
        )
    )


def read_rows(upload: IO[bytes], manifest: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of an upload, which must be those of the manifest's batches.

    :raises Problem: rows_differ_from_manifest
    """
    for batch in manifest["batches"]:
        yield from _read_batch(upload, batch)
    total = sum(batch["count"] for batch in manifest["batches"])
    if upload.read(1) or total != manifest["batch_total"]:
        raise _differ("the number of rows is not batch_total")


def _read_batch(upload: IO[bytes], batch: dict[str, Any]) -> Iterator[Row]:
    name = f"{batch['tax_type']} {batch['period_id']}"
    digest, total = hashlib.sha256(), 0
    for _ in range(batch["count"]):
        line = upload.readline(MAX_LINE_BYTES)
        digest.update(line)
        row = _read_row(line, name)
        if (row.tax_type, row.period_id) != (batch["tax_type"], batch["period_id"]):
            raise _differ(f"row {row.rpt_id} stands in batch {name}")
        total += row.amount_cents
        yield row
    if digest.hexdigest() != batch["rpt_sha256"] or str(total) != batch["amount_cents"]:
        raise _differ(f"digest or amount of batch {name} are not the manifest's")


def _read_row(line: bytes, batch: str) -> Row:
    try:
        row = json.loads(line)
        digest = row["payload_sha256"] or hashlib.sha256(line).hexdigest()
        texts = (row["id"], row["tax_type"], row["period_id"], digest)
        amount_cents = int(row["amount_cents"])
        if not line.endswith(b"\n") or not all(isinstance(text, str) for text in texts):
            raise ValueError
        if abs(amount_cents) > MAX_CENTS:
            raise ValueError
        return Row(*texts[:3], amount_cents, digest)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _differ(f"a row of batch {batch} is missing or not an RPT row") from None


def _differ(detail: str) -> Problem:
    return Problem("rows_differ_from_manifest", detail)


class SigningKey:
    """The ECDSA P-256 key that signs receipts."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        public = key.public_key()
        self.public_pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
        self.key_id = hashlib.sha256(
            public.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).hexdigest()

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Return the key in a PEM file.

        :raises OSError, ValueError: where there is none
        """
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError(f"{path} holds no ECDSA P-256 private key")
        return cls(key)

    @classmethod
    def generate(cls) -> SigningKey:
        """Return a new key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    def envelope(self, receipt: dict[str, Any], key_id: str | None = None) -> bytes:
        """Return the signed envelope of a receipt (DSSE)."""
        payload = canonical(receipt)
        kind = RECEIPT_TYPE.encode()
        message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
        signature = self._key.sign(message, ec.ECDSA(hashes.SHA256()))
        return canonical(
            {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": RECEIPT_TYPE,
                "signatures": [
                    {
                        "keyid": key_id or self.key_id,
                        "sig": base64.b64encode(signature).decode(),
                    }
                ],
            }
        )


def receipt_of(envelope: bytes) -> dict[str, Any]:
    """Return the receipt in an envelope."""
    receipt: dict[str, Any] = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return receipt
