# GNU General Public License v3.0+ (see COPYING)
"""The intent: the one transaction after which a release may be sent, and before which nothing is.

It compares what the manifest says with the database as it is now, takes the claims, consumes the
approvals and fixes the idempotency key and the digests of what will be sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from ...domain.release.image import ImageRow, parse_image
from ...domain.release.manifest import Batch, Manifest, object_key
from ...domain.release.release_state import State
from ...errors import ApgmsError
from ...libraries import sql
from ...ports.database import columns
from ...ports.gateway import Body, submission_body
from ...ports.object_store import ObjectStore
from ..approvals.approvals import consume
from ..bundle.files import require_attested
from .effects import rehearse
from .gates import require_approved, require_ledger, require_may_send
from .records import Context, Release, guarded, insert, require_none_open
from .renewal import on_record

if TYPE_CHECKING:
    from ...ports.database import Connection

CLAIMS_AT_ONCE = 5000


@dataclass(frozen=True)
class Claim:
    """One RPT row of a release. The amount is in cents."""

    rpt_id: int
    abn: str
    tax_type: str
    period_id: str
    payload_sha256: str
    amount_cents: int


def idempotency_key(manifest_sha256: str) -> str:
    """Return the key of a manifest: the same from every database, also a restored one."""
    return f"apgms-{manifest_sha256}"


def bundle_body(store: ObjectStore, manifest: Manifest) -> Body:
    """Return what is sent for a manifest, read from the object store anew for each attempt."""
    openers = [
        partial(store.open, object_key(manifest.checksum, batch.rpt_name))
        for batch in manifest.batches
    ]
    return submission_body(manifest.to_bytes(), openers)


def intend(context: Context, manifest: Manifest, body: Body) -> Release:
    """Commit the intent of a release that has none.

    :raises ApgmsError: ``release.other_open``, ``release.claimed``, ``release.bundle_altered``,
        ``release.rows_changed``, ``release.unrecordable``, ``bundle.altered``, ``attestation.*``,
        ``log.*`` and those of the gates
    """

    def commit() -> Release:
        with guarded(context, manifest.checksum):
            require_none_open(context.connection)
            require_attested(
                context.store, object_key(manifest.checksum, ""), manifest, context.policy
            )
            window = require_may_send(context, manifest)
            statements = require_approved(context, manifest)
            consume(context.connection, statements, manifest.checksum)
            release = new_release(context, manifest, body)
            say = context.progress.say
            say(f"Intent: claiming {manifest.batch_total:,} RPTs and comparing them")
            write_intent(context.connection, context.store, manifest, release)
            require_unchanged(context.connection, context.store, manifest)
            say("Intent: verifying the ledger rows of their periods")
            require_ledger(context, manifest)
            say("Intent: rehearsing how the receipt will be recorded")
            rehearse(context.connection, context.clock.now(), release, context.progress)
            said = {
                **_said(manifest, release, body),
                "window": {"id": window.id, "name": window.name},
                "policy_sha256": context.policy.digest,
                "statements": [on_record(signed) for signed in statements],
            }
            context.journal.record("release.intent", said, manifest.checksum)
        return release

    return context.steps.run("release.intent", commit)


def write_intent(
    connection: Connection, store: ObjectStore, manifest: Manifest, release: Release
) -> None:
    """Add the release and its claims inside an open transaction.

    :raises ApgmsError: ``release.claimed``, ``release.bundle_altered``
    """
    insert(connection, release)
    claims = bundle_claims(store, manifest)
    while chunk := list(islice(claims, CLAIMS_AT_ONCE)):
        _claim(connection, manifest.checksum, chunk)


def bundle_claims(store: ObjectStore, manifest: Manifest) -> Iterator[Claim]:
    """Yield the RPT rows of a bundle, after each batch checking its digest, count and amount.

    :raises ApgmsError: ``release.bundle_altered``
    """
    for batch in manifest.batches:
        key = object_key(manifest.checksum, batch.rpt_name)
        digest = hashlib.sha256()
        count = cents = 0
        with store.open(key) as lines:
            for line in lines:
                digest.update(line)
                claim = _read_claim(line, batch, key)
                count += 1
                cents += claim.amount_cents
                yield claim
        found = (digest.hexdigest(), count, cents)
        if found != (batch.rpt_sha256, batch.count, batch.amount_cents):
            raise _altered(key, f"SHA-256 {found[0]} over {count} rows and {cents} cents")


def require_unchanged(connection: Connection, store: ObjectStore, manifest: Manifest) -> None:
    """Compare the released periods and tokens with the image that the manifest binds; lock them.

    :raises ApgmsError: ``release.rows_changed``, ``release.bundle_altered``
    """
    now = dict(_current_rows(connection, manifest.checksum))
    if len(now) != 2 * manifest.batch_total:
        raise _rows_changed(
            "periods and rpt_tokens",
            f"{len(now)} of the {manifest.batch_total} periods and as many RPTs are still there",
        )
    for row in _image(store, manifest):
        key = _key_of(row)
        if key in now:
            if now[key] != _digest(row):
                raise _rows_changed(key, "it differs from the image that the manifest binds")
            del now[key]
    for key in now:
        raise _rows_changed(key, "it is not in the image that the manifest binds")


def new_release(context: Context, manifest: Manifest, body: Body) -> Release:
    """Return the row of a release of which nothing was sent yet; nothing is written."""
    now = context.clock.now()
    return Release(
        manifest_sha256=manifest.checksum,
        submission_id=manifest.submission_id,
        idempotency_key=idempotency_key(manifest.checksum),
        state=State.INTENT,
        why="nothing was sent yet",
        endpoint=context.gateway.url,
        body_sha256=body.sha256,
        operator=context.operator,
        intent_at=now,
        attempts=0,
        first_sent_at=None,
        last_sent_at=None,
        job_id=None,
        receipt_sha256=None,
        changed_at=now,
        journal_seq=context.journal.next_seq(),
    )


def _said(manifest: Manifest, release: Release, body: Body) -> dict[str, Any]:
    return {
        "to": State.INTENT,
        "submission_id": release.submission_id,
        "idempotency_key": release.idempotency_key,
        "endpoint": release.endpoint,
        "body_sha256": body.sha256,
        "body_length": str(body.length),
        "operator": release.operator,
        "rows": manifest.batch_total,
        "amount_cents": str(manifest.amount_total_cents),
        "checkpoint_sha256": manifest.ledger.checkpoint_sha256,
    }


def _read_claim(line: bytes, batch: Batch, key: str) -> Claim:
    try:
        row = json.loads(line)
        claim = Claim(
            int(row["id"]),
            row["abn"],
            row["tax_type"],
            row["period_id"],
            row["payload_sha256"],
            int(row["amount_cents"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise _altered(key, f"a line is not an RPT row: {error!r}") from None
    if (claim.tax_type, claim.period_id) != (batch.tax_type, batch.period_id):
        raise _altered(key, f"row {claim.rpt_id} is of {claim.tax_type} {claim.period_id}")
    return claim


def _claim(connection: Connection, manifest_sha256: str, claims: list[Claim]) -> None:
    values = {
        name: [getattr(claim, name) for claim in claims] for name in Claim.__dataclass_fields__
    }
    taken = connection.execute(_CLAIM, {**values, "manifest": manifest_sha256})
    if taken.rowcount != len(claims):
        raise _claimed(connection, manifest_sha256, values)


_CLAIM = """
INSERT INTO apgms_release.claim
    (manifest_sha256, rpt_id, abn, tax_type, period_id, payload_sha256, amount_cents)
SELECT %(manifest)s, * FROM unnest(%(rpt_id)s::bigint[], %(abn)s::text[], %(tax_type)s::text[],
    %(period_id)s::text[], %(payload_sha256)s::text[], %(amount_cents)s::bigint[])
ON CONFLICT DO NOTHING
"""
_HOLDER = """
SELECT c.tax_type, c.period_id, c.abn, c.manifest_sha256, r.state
FROM unnest(%(rpt_id)s::bigint[], %(abn)s::text[], %(tax_type)s::text[], %(period_id)s::text[],
    %(payload_sha256)s::text[]) AS wanted (rpt_id, abn, tax_type, period_id, payload_sha256)
JOIN apgms_release.claim c
    ON (c.abn, c.tax_type, c.period_id) = (wanted.abn, wanted.tax_type, wanted.period_id)
    OR c.payload_sha256 = wanted.payload_sha256
JOIN apgms_release.release r USING (manifest_sha256)
WHERE c.outcome IS DISTINCT FROM 'rejected'
  AND (c.manifest_sha256, c.rpt_id) IS DISTINCT FROM (%(manifest)s, wanted.rpt_id)
ORDER BY c.manifest_sha256 = %(manifest)s LIMIT 1
"""


def _claimed(
    connection: Connection, manifest_sha256: str, values: dict[str, list[Any]]
) -> ApgmsError:
    found = connection.execute(_HOLDER, {**values, "manifest": manifest_sha256}).fetchone()
    tax_type, period, abn, holder, state = found or ("an RPT", "twice", "?", manifest_sha256, "?")
    return ApgmsError(
        "release.claimed",
        "A period or an RPT of this manifest belongs to another release",
        where=f"{tax_type} {period} of ABN {abn}",
        why=f"release {holder} claimed it and is {state}; only a verified rejection frees it",
        mend="finish that release, then build a new bundle: make verify-rpt STACK=prod",
        manifest_sha256=holder,
    )


def _current_rows(connection: Connection, manifest_sha256: str) -> Iterator[tuple[str, bytes]]:
    for table, join in _OF_CLAIMS.items():
        names = list(columns(connection, table))
        query = sql.SQL(
            "SELECT {} FROM {} t JOIN apgms_release.claim c ON {} WHERE c.manifest_sha256 = %s"
            " FOR UPDATE OF t"
        ).format(
            sql.SQL(", ").join(sql.SQL("t.{}::text").format(sql.Identifier(n)) for n in names),
            sql.Identifier(table),
            sql.SQL(join),
        )
        for values in connection.cursor().stream(query, [manifest_sha256], size=2000):
            row = ImageRow(table, dict(zip(names, values, strict=True)))
            yield _key_of(row), _digest(row)


_OF_CLAIMS = {
    "periods": "(c.abn, c.tax_type, c.period_id) = (t.abn, t.tax_type, t.period_id)",
    "rpt_tokens": "c.rpt_id = t.id",
}


def _image(store: ObjectStore, manifest: Manifest) -> Iterator[ImageRow]:
    key = object_key(manifest.checksum, "image.jsonl")
    digest = hashlib.sha256()

    def lines() -> Iterator[bytes]:
        with store.open(key) as stream:
            for line in stream:
                digest.update(line)
                yield line

    try:
        yield from parse_image(lines())
    except ValueError as error:
        raise _altered(key, str(error)) from None
    if digest.hexdigest() != manifest.image_sha256:
        raise _altered(key, f"SHA-256 {digest.hexdigest()}")


def _key_of(row: ImageRow) -> str:
    if row.table == "rpt_tokens":
        return f"rpt_tokens {row.columns['id']}"
    return " ".join(["periods", *(str(row.columns[n]) for n in ("abn", "tax_type", "period_id"))])


def _digest(row: ImageRow) -> bytes:
    return hashlib.sha256(row.to_line()).digest()


def _altered(key: str, found: str) -> ApgmsError:
    return ApgmsError(
        "release.bundle_altered",
        "A file of the bundle is not the one that the manifest binds",
        where=key,
        why=f"found {found}",
        mend="build a new bundle: make verify-rpt STACK=prod; find out who changed the store",
    )


def _rows_changed(key: str, why: str) -> ApgmsError:
    return ApgmsError(
        "release.rows_changed",
        "The database no longer says what the manifest says",
        where=key,
        why=why,
        mend="build a new bundle: make verify-rpt STACK=prod, and have it approved",
    )
