# GNU General Public License v3.0+ (see COPYING)
"""The approvals of a release at the time it is sent: they must not have expired since its intent."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ...domain.approval.statement import Signed, parse_statement
from ...domain.release.journal_chain import parse
from ...domain.release.manifest import Manifest
from ..approvals.approvals import consume
from .gates import require_approved
from .records import Context


def renewed_approvals(context: Context, manifest: Manifest) -> list[dict[str, str]]:
    """Inside the transaction of an attempt: use up new approvals where those on record expired.

    :return: what the journal says of the new ones; nothing where the old ones are still valid
    :raises ApgmsError: as :func:`.gates.require_approved`
    """
    if context.clock.now() < _approved_until(context, manifest.checksum):
        return []
    statements = require_approved(context, manifest)
    consume(context.connection, statements, manifest.checksum)
    return [on_record(signed) for signed in statements]


def on_record(signed: Signed) -> dict[str, str]:
    """Return a statement as the journal keeps it."""
    return {
        "kind": signed.statement.kind,
        "signer": signed.statement.signer,
        "nonce": signed.statement.nonce,
        "sha256": signed.sha256,
        "document": signed.data.decode(),
        "signature": signed.signature.decode(),
    }


def _approved_until(context: Context, manifest_sha256: str) -> datetime:
    """Return when the first of the approvals on record expires; the operator's intent is none."""
    rows = context.connection.execute(
        "SELECT document FROM apgms_release.journal WHERE manifest_sha256 = %s"
        " AND event IN ('release.intent', 'release.sending') ORDER BY seq DESC",
        [manifest_sha256],
    )
    bodies = (parse(bytes(document)).body for (document,) in rows)
    recorded: list[dict[str, Any]] = next(
        body["statements"] for body in bodies if "statements" in body
    )
    return min(
        parse_statement(one["document"].encode(), "apgms_release.journal").expires_at
        for one in recorded
        if one["kind"] != "intent"
    )
