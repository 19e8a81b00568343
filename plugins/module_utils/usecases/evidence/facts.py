# GNU General Public License v3.0+ (see COPYING)
"""What happened to a manifest, as files for its evidence: journal, receipt and approvals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...domain.release.journal_chain import Row, parse

if TYPE_CHECKING:
    from ...ports.database import Connection


def facts_of(connection: Connection, checksum: str) -> dict[str, bytes]:
    """Return name and content of ``journal.jsonl``, ``receipt.json`` and ``approvals/*``.

    The journal goes from its first row to the last one that concerns the manifest, so that its
    chain can be followed; it is empty where none does. A receipt is as it was received.
    """
    rows = [parse(bytes(document)) for (document,) in connection.execute(_JOURNAL, [checksum])]
    files = {"journal.jsonl": b"".join(row.document + b"\n" for row in rows)}
    receipt = connection.execute(_RECEIPT, [checksum]).fetchone()
    if receipt:
        files["receipt.json"] = bytes(receipt[0])
    return files | _approvals(row for row in rows if row.manifest_sha256 == checksum)


def _approvals(rows: Iterable[Row]) -> dict[str, bytes]:
    """Return the statements that the rows carry, each with its signature."""
    files = {}
    for row in rows:
        for one in row.body.get("statements", []):
            name = f"approvals/{one['kind']}-{one['nonce'][:12]}-{one['signer']}.json"
            files[name] = one["document"].encode()
            files[f"{name}.sig"] = one["signature"].encode()
    return files


_JOURNAL = """
SELECT document FROM apgms_release.journal
WHERE seq <= (SELECT max(seq) FROM apgms_release.journal WHERE manifest_sha256 = %s) ORDER BY seq
"""
_RECEIPT = """
SELECT c.document FROM apgms_release.receipt c JOIN apgms_release.release r
    ON r.receipt_sha256 = c.sha256
WHERE r.manifest_sha256 = %s
"""
