# GNU General Public License v3.0+ (see COPYING)
"""Watching a job at the gateway, and recording its receipt.

What the gateway says of a job is a hint where to look; only a verified receipt changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.formats.canonical import sha256_hex
from ...domain.release.manifest import Manifest
from ...domain.release.receipt import Receipt, Rejection, Sent, verify_receipt
from ...domain.release.release_state import State
from ...domain.release.retry import pause
from ...errors import ApgmsError
from ...ports.gateway import GatewayUnavailable, Status
from ...ports.object_store import read
from . import effects as release_effects
from .effects import Acknowledged
from .records import Context, Release, move, not_finished

if TYPE_CHECKING:
    from ...ports.database import Connection

STATE_OF = {
    "accepted": State.ACKNOWLEDGED,
    "partially_accepted": State.PARTIAL,
    "rejected": State.REJECTED,
}


def watch(context: Context, release: Release, manifest: Manifest, deadline: datetime) -> Release:
    """Poll the job at the gateway's own pace until its receipt is recorded, or the deadline.

    :return: the release in a terminal state, or UNKNOWN where the gateway no longer knows the job
    :raises ApgmsError: ``release.not_finished`` at the deadline; ``receipt.*`` after the receipt is
        kept and the release is UNKNOWN
    """
    tries = 0
    while True:
        tries += 1
        asked: float | None = None
        try:
            status = context.gateway.status(str(release.job_id))
            asked = status.poll_after_seconds
            if status.state.final and status.receipt_id:
                document = context.gateway.receipt(status.receipt_id)
                return record_receipt(context, release, manifest, document, context.gateway.url)
            _say(context, release, manifest, status)
        except GatewayUnavailable as error:
            if error.reason == "gateway.unknown_job":
                return move(context, release, State.UNKNOWN, str(error))
            asked = error.retry_after_seconds
            context.progress.say(f"Watching {release.job_id}: {error}")
        seconds = pause(tries, asked, context.clock.now(), deadline)
        if seconds is None:
            raise not_finished(release, f"{release.why}; no receipt within the time limit")
        context.lease.wait(context.clock, seconds)


def stored_receipt(context: Context, release: Release, manifest: Manifest) -> bytes | None:
    """Return the verified receipt of a release that the object store kept, if there is one.

    A database restored from a backup has forgotten it.
    """
    for key in context.store.keys(f"receipts/{manifest.checksum}/"):
        document = read(context.store, key)
        try:
            _verify(context, release, manifest, document, key)
        except ApgmsError as error:
            if not error.reason.startswith("receipt."):
                raise
        else:
            return document
    return None


def record_receipt(
    context: Context, release: Release, manifest: Manifest, document: bytes, where: str
) -> Release:
    """Keep a receipt as received, verify it, and record what it says.

    :raises ApgmsError: ``receipt.*`` where it does not hold: it is kept, the release is UNKNOWN
    """
    try:
        receipt = _verify(context, release, manifest, document, where)
        _require_claimed(context.connection, release, receipt, where)
    except ApgmsError as error:
        _refuse(context, release, document, error)
        raise
    key = f"receipts/{release.manifest_sha256}/{sha256_hex(document)}.json"
    context.steps.run("release.put_receipt", lambda: context.store.put_new(key, document))
    return _acknowledge(context, release, receipt, document)


def rejections(connection: Connection, manifest_sha256: str, limit: int) -> list[dict[str, str]]:
    """Return the rows of a release that were rejected and why, the first ``limit`` of them."""
    names = ("rpt_id", "abn", "tax_type", "period_id", "amount_cents", "reason")
    rows = connection.execute(
        "SELECT rpt_id::text, abn, tax_type, period_id, amount_cents::text, outcome_reason"
        " FROM apgms_release.claim WHERE manifest_sha256 = %s AND outcome = 'rejected'"
        " ORDER BY rpt_id LIMIT %s",
        [manifest_sha256, limit],
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def _say(context: Context, release: Release, manifest: Manifest, status: Status) -> None:
    settled = status.accepted_count + status.rejected_count
    context.progress.say(
        f"Watching {release.job_id}: {status.state},"
        f" {settled:,} of {manifest.batch_total:,} RPTs settled"
    )


def sent_of(policy: Policy, manifest: Manifest, release: Release) -> Sent:
    """Return what a receipt of the release must answer."""
    return Sent(
        environments=policy.gateway.environments,
        stack=manifest.stack,
        manifest_sha256=release.manifest_sha256,
        submission_id=release.submission_id,
        idempotency_key=release.idempotency_key,
        body_sha256=release.body_sha256,
        count=manifest.batch_total,
        amount_cents=manifest.amount_total_cents,
    )


def _verify(
    context: Context, release: Release, manifest: Manifest, document: bytes, where: str
) -> Receipt:
    sent = sent_of(context.policy, manifest, release)
    return verify_receipt(document, context.policy.gateway.keys, sent, where=where)


def _require_claimed(
    connection: Connection, release: Release, receipt: Receipt, where: str
) -> None:
    found = connection.execute(
        "SELECT count(*) FROM apgms_release.claim c JOIN"
        " unnest(%s::text[], %s::text[], %s::text[], %s::bigint[])"
        " AS r (rpt_id, tax_type, period_id, amount_cents)"
        " ON (c.rpt_id::text, c.tax_type, c.period_id, c.amount_cents)"
        " = (r.rpt_id, r.tax_type, r.period_id, r.amount_cents)"
        " WHERE c.manifest_sha256 = %s",
        [*_columns_of(receipt.rejections), release.manifest_sha256],
    ).fetchone()
    if found is None or found[0] != len(receipt.rejections):
        raise ApgmsError(
            "receipt.foreign_rows",
            "A receipt rejects rows that were not sent",
            where=where,
            why=f"{found[0] if found else 0} of its {len(receipt.rejections)} rejections are rows"
            " of this release",
            mend="keep it and take it up with the authority; nothing was recorded as acknowledged",
        )


def _columns_of(rejected: tuple[Rejection, ...]) -> Iterator[list[Any]]:
    for name in ("rpt_id", "tax_type", "period_id", "amount_cents"):
        yield [getattr(entry, name) for entry in rejected]


def _refuse(context: Context, release: Release, document: bytes, error: ApgmsError) -> None:
    keep = partial(_keep, context, release, document, error.reason)
    move(context, release, State.UNKNOWN, str(error), keep)


def _keep(context: Context, release: Release, document: bytes, verdict: str) -> dict[str, Any]:
    context.connection.execute(
        "INSERT INTO apgms_release.receipt"
        " (sha256, manifest_sha256, document, verdict, received_at) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (sha256) DO NOTHING",
        [sha256_hex(document), release.manifest_sha256, document, verdict, context.clock.now()],
    )
    return {"receipt_sha256": sha256_hex(document), "verdict": verdict}


def _acknowledge(context: Context, release: Release, receipt: Receipt, document: bytes) -> Release:
    context.progress.say(f"Recording the receipt: {receipt.accepted_count:,} RPTs accepted")

    def effects() -> dict[str, Any]:
        kept = _keep(context, release, document, "verified")
        _settle_claims(context.connection, release, receipt)
        said = Acknowledged(receipt.receipt_id, sha256_hex(document), context.clock.now())
        return {
            **kept,
            **_figures(receipt),
            **release_effects.apply(context.connection, release, said, context.progress),
        }

    why = f"receipt {receipt.receipt_id}: {receipt.outcome}"
    return move(
        context,
        release,
        STATE_OF[receipt.outcome],
        why,
        effects,
        job_id=receipt.job_id,
        receipt_sha256=sha256_hex(document),
    )


def _figures(receipt: Receipt) -> dict[str, Any]:
    return {
        "receipt_id": receipt.receipt_id,
        "outcome": receipt.outcome,
        "accepted_count": receipt.accepted_count,
        "accepted_cents": str(receipt.accepted_cents),
        "rejected_count": receipt.rejected_count,
        "rejected_cents": str(receipt.rejected_cents),
        "key_id": receipt.key_id,
        "issued_at": receipt.issued_at,
    }


def _settle_claims(connection: Connection, release: Release, receipt: Receipt) -> None:
    connection.execute(
        "UPDATE apgms_release.claim SET outcome = 'accepted' WHERE manifest_sha256 = %s",
        [release.manifest_sha256],
    )
    reasons = [f"{entry.code}: {entry.reason}" for entry in receipt.rejections]
    connection.execute(
        "UPDATE apgms_release.claim c SET outcome = 'rejected', outcome_reason = r.reason"
        " FROM unnest(%s::bigint[], %s::text[]) AS r (rpt_id, reason)"
        " WHERE c.manifest_sha256 = %s AND c.rpt_id = r.rpt_id",
        [[int(entry.rpt_id) for entry in receipt.rejections], reasons, release.manifest_sha256],
    )
