# GNU General Public License v3.0+ (see COPYING)
"""What a verified receipt changes in the tables of APGMS; ``docs/exactly-once.md`` says why this.

For each accepted RPT: one payout row in ``owa_ledger``, its period RELEASED, its token consumed;
and one row in ``audit_log``.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from ...domain.ledger.chain import Link, next_link
from ...errors import ApgmsError
from ...libraries import psycopg, sql
from ...ports.database import columns, rehearsal, whole_tables
from ..acts import audit_log
from ..acts.progress import Progress
from .records import Release

if TYPE_CHECKING:
    from ...ports.database import Connection

PAYOUTS = uuid.UUID("6d1f0f6c-6f0a-5c0e-9d53-3b1f2a0c7e11")
"""Namespace of the payouts' transfer UUIDs (version 5): the RPT's payload digest gives the name."""
ROWS_AT_ONCE = 5000


@dataclass(frozen=True)
class Acknowledged:
    """The authority's word: the receipt's own id, its SHA-256, and when it was verified (UTC)."""

    receipt_id: str
    receipt_sha256: str
    at: datetime


def apply(
    connection: Connection, release: Release, acknowledged: Acknowledged, progress: Progress
) -> dict[str, Any]:
    """Apply the outcome of the release's claims inside an open transaction; return its figures.

    :raises ApgmsError: ``database.missing_table``
    """
    manifest = release.manifest_sha256
    connection.execute("LOCK TABLE owa_ledger IN SHARE ROW EXCLUSIVE MODE")
    with whole_tables(connection):
        paid = _pay_out(connection, manifest, acknowledged, progress)
        released = connection.execute(_RELEASE_PERIODS, [manifest]).rowcount
        consumed = connection.execute(_CONSUME_TOKENS, [manifest]).rowcount
    figures = {"payouts": paid, "periods_released": released, "tokens_consumed": consumed}
    said = {
        "manifest_sha256": manifest,
        "submission_id": release.submission_id,
        "receipt_id": acknowledged.receipt_id,
        "receipt_sha256": acknowledged.receipt_sha256,
        **figures,
    }
    audit_log.append(connection, release.operator, "release.acknowledged", said)
    return figures


def payout_uuid(payload_sha256: str) -> str:
    """Return the ``transfer_uuid`` of the payout of an RPT, by its payload's digest."""
    return str(uuid.uuid5(PAYOUTS, payload_sha256))


def rehearse(connection: Connection, at: datetime, release: Release, progress: Progress) -> None:
    """Inside an open transaction: refuse where full acceptance could not be recorded afterwards.

    A deployment may allow one negative row a period, or only some states: better known before a
    byte goes out than after. Leaves no trace.

    :raises ApgmsError: ``release.unrecordable``
    """
    try:
        with rehearsal(connection):
            connection.execute(
                "UPDATE apgms_release.claim SET outcome = 'accepted' WHERE manifest_sha256 = %s",
                [release.manifest_sha256],
            )
            rehearsed = Acknowledged("rehearsal", "0" * 64, at)
            figures = apply(connection, release, rehearsed, progress)
    except psycopg.IntegrityError as error:
        raise _unrecordable(release, " ".join(str(error).split())) from None
    if len(set(figures.values())) != 1:
        raise _unrecordable(release, f"it would change {figures}")


_RELEASE_PERIODS = """
UPDATE periods p SET state = 'RELEASED' FROM apgms_release.claim c
WHERE c.manifest_sha256 = %s AND c.outcome = 'accepted' AND p.state = 'READY_RPT'
  AND (p.abn, p.tax_type, p.period_id) = (c.abn, c.tax_type, c.period_id)
"""
_CONSUME_TOKENS = """
UPDATE rpt_tokens t SET status = 'consumed' FROM apgms_release.claim c
WHERE c.manifest_sha256 = %s AND c.outcome = 'accepted' AND t.id = c.rpt_id
  AND t.status <> 'consumed'
"""
# The last rows come from one aggregate: deployments index the chain or do not.
_LAST_ROWS = """
WITH last_row AS (
    SELECT l.abn, l.tax_type, l.period_id, l.balance_after_cents, l.hash_after FROM owa_ledger l
    JOIN (SELECT max(id) AS id FROM owa_ledger GROUP BY abn, tax_type, period_id) m USING (id)
)
SELECT c.abn, c.tax_type, c.period_id, c.payload_sha256, c.amount_cents,
       coalesce(l.balance_after_cents, 0), l.hash_after
FROM apgms_release.claim c LEFT JOIN last_row l USING (abn, tax_type, period_id)
WHERE c.manifest_sha256 = %s AND c.outcome = 'accepted' ORDER BY c.rpt_id
"""


def _pay_out(
    connection: Connection, manifest_sha256: str, acknowledged: Acknowledged, progress: Progress
) -> int:
    present = columns(connection, "owa_ledger")
    names = [*_ALWAYS, *(name for name in _WHERE_PRESENT if name in present)]
    copy = sql.SQL("COPY owa_ledger ({}) FROM STDIN").format(
        sql.SQL(", ").join(map(sql.Identifier, names))
    )
    release_uuid = str(uuid.uuid5(PAYOUTS, manifest_sha256))
    paid = 0
    total = _accepted(connection, manifest_sha256)
    progress.begin()
    with connection.cursor("apgms_payouts") as claims:
        claims.itersize = ROWS_AT_ONCE
        claims.execute(_LAST_ROWS, [manifest_sha256])
        rows = (_payout(row, acknowledged, release_uuid) for row in claims)
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            with connection.cursor().copy(copy) as ledger:
                for payout in chunk:
                    ledger.write_row([payout[name] for name in names])
            paid += len(chunk)
            progress.done("Working out payouts", paid, total, "RPTs")
    return paid


def _accepted(connection: Connection, manifest_sha256: str) -> int:
    row = connection.execute(
        "SELECT count(*) FROM apgms_release.claim"
        " WHERE manifest_sha256 = %s AND outcome = 'accepted'",
        [manifest_sha256],
    ).fetchone()
    return row[0] if row else 0


_ALWAYS = (
    "abn", "tax_type", "period_id", "transfer_uuid", "amount_cents", "balance_after_cents",
    "bank_receipt_hash", "prev_hash", "hash_after", "created_at",
)  # fmt: skip
_WHERE_PRESENT = ("rpt_verified", "release_uuid", "bank_receipt_id")


def _payout(row: Any, acknowledged: Acknowledged, release_uuid: str) -> dict[str, Any]:
    abn, tax_type, period_id, payload_sha256, amount, balance, last_hash = row
    last = Link(0, balance, None, None, last_hash)
    payout = next_link(last, -amount, f"rcpt:{acknowledged.receipt_sha256}")
    return {
        **vars(payout),
        "abn": abn,
        "tax_type": tax_type,
        "period_id": period_id,
        "transfer_uuid": payout_uuid(payload_sha256),
        "created_at": acknowledged.at,
        "rpt_verified": True,
        "release_uuid": release_uuid,
        "bank_receipt_id": acknowledged.receipt_id,
    }


def _unrecordable(release: Release, why: str) -> ApgmsError:
    return ApgmsError(
        "release.unrecordable",
        "The acceptance of this release could not be recorded, so it is not sent",
        where=f"release {release.manifest_sha256}: owa_ledger, periods or rpt_tokens",
        why=why,
        mend="find what already released these periods (a payout row, a used token); then build a"
        " new bundle without them: make verify-rpt STACK=prod",
    )
