# GNU General Public License v3.0+ (see COPYING)
"""The releases of a stack, and which of them may be rolled back to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...domain.release.manifest import Manifest
from ...domain.release.rollback_target import PastRelease
from ...errors import ApgmsError
from ...ports.clock import iso_utc
from ...ports.object_store import ObjectStore
from ..bundle.manifests import load_manifest

if TYPE_CHECKING:
    from ...ports.database import Connection


def past_releases(connection: Connection, store: ObjectStore, stack: str) -> list[PastRelease]:
    """Return every release that was ever to be sent, in order of intent.

    :raises ApgmsError: ``object_store.unreachable``
    """
    return [
        PastRelease(
            manifest_sha256,
            state,
            iso_utc(intent_at),
            submission_id,
            receipt_sha256,
            tuple(approved_by),
            undone_by,
            _manifest(store, manifest_sha256, stack),
        )
        for (
            manifest_sha256,
            state,
            intent_at,
            submission_id,
            receipt_sha256,
            approved_by,
            undone_by,
        ) in connection.execute(_RELEASES).fetchall()
    ]


def describe(release: PastRelease) -> dict[str, Any]:
    """Return what the operator sees of a release."""
    manifest = release.manifest
    return {
        "manifest_sha256": release.manifest_sha256,
        "state": release.state,
        "intent_at": release.intent_at,
        "submission_id": release.submission_id,
        "receipt_sha256": release.receipt_sha256,
        "approved_by": list(release.approved_by),
        "release_window": manifest.release_window if manifest else None,
        "rates_version": manifest.rates_version if manifest else None,
        "source_revision": manifest.source_revision if manifest else None,
        "batch_total": manifest.batch_total if manifest else None,
        "amount_total_cents": str(manifest.amount_total_cents) if manifest else None,
        "tree_size": manifest.ledger.tree_size if manifest else None,
        "good_target": release.why_not is None,
        "why_not": release.why_not,
    }


def obligations(connection: Connection) -> list[dict[str, Any]]:
    """Return what is to be amended at the authority, with the incident that each comes from."""
    names = (
        "incident_id", "manifest_sha256", "rpt_id", "abn", "tax_type", "period_id", "amount_cents",
    )  # fmt: skip
    return [
        dict(zip(names, row, strict=True)) for row in connection.execute(_OBLIGATIONS).fetchall()
    ]


def require_not_undone(connection: Connection, manifest_sha256: str) -> None:
    """Refuse to send a release that a rollback went behind.

    :raises ApgmsError: ``release.undone``
    """
    found = connection.execute(
        "SELECT incident_id FROM apgms_release.undone JOIN apgms_release.rollback USING"
        " (plan_sha256) WHERE manifest_sha256 = %s",
        [manifest_sha256],
    ).fetchone()
    if found:
        raise ApgmsError(
            "release.undone",
            "This release was rolled back and is not sent again",
            where=f"manifest {manifest_sha256}, incident {found[0]}",
            why="its ledger and its periods are not what its manifest says any more",
            mend="build the corrective release under a submission id of its own",
        )


def _manifest(store: ObjectStore, manifest_sha256: str, stack: str) -> Manifest | None:
    try:
        return load_manifest(store, manifest_sha256, stack)
    except ApgmsError as error:
        if error.reason.startswith("manifest."):
            return None
        raise


_RELEASES = """
SELECT r.manifest_sha256, r.state, r.intent_at, r.submission_id, r.receipt_sha256,
       ARRAY(SELECT DISTINCT s.signer FROM apgms_release.used_statement s
             WHERE s.manifest_sha256 = r.manifest_sha256 AND s.kind = 'release' ORDER BY s.signer),
       (SELECT b.incident_id FROM apgms_release.undone u
        JOIN apgms_release.rollback b USING (plan_sha256)
        WHERE u.manifest_sha256 = r.manifest_sha256)
FROM apgms_release.release r
ORDER BY r.intent_at, r.manifest_sha256
"""
_OBLIGATIONS = """
SELECT b.incident_id, o.manifest_sha256, o.rpt_id::text, c.abn, c.tax_type, c.period_id,
       c.amount_cents::text
FROM apgms_release.obligation o
JOIN apgms_release.rollback b USING (plan_sha256)
JOIN apgms_release.claim c USING (manifest_sha256, rpt_id)
ORDER BY b.applied_at, o.manifest_sha256, o.rpt_id
"""
