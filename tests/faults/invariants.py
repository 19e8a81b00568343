# GNU General Public License v3.0+ (see COPYING)
"""What must hold of a stack whatever happened to it."""

from __future__ import annotations

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.chain import (
    Link,
    deviations,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Manifest
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.journal import Journal
from tests.faults.stack import Connection, Stack


class Violation(AssertionError):
    """Something that must hold does not."""


def require(holds: bool, what: str) -> None:
    """Raise :class:`Violation` unless ``holds``."""
    if not holds:
        raise Violation(what)


def require_never_twice(stack: Stack) -> None:
    """At any time: the gateway accepted no RPT twice, and nothing is recorded twice."""
    taken = stack.taken()
    require(taken["rows_accepted_more_than_once"] == 0, f"an RPT was accepted twice: {taken}")
    require(taken["manifests_taken_more_than_once"] == 0, f"a manifest was taken twice: {taken}")
    with stack.connection() as connection:
        _require_payouts_once(connection)
        _require_chains(connection)


def require_accepted_once(stack: Stack, manifest: Manifest) -> None:
    """At the end: the gateway accepted the manifest once; it is recorded once, with a receipt."""
    require_never_twice(stack)
    taken = stack.taken()
    require(taken["rows_accepted"] == manifest.batch_total, f"accepted: {taken}")
    with stack.connection() as connection:
        Journal(connection, stack.store, "prod", stack.clock(connection)).verify()
        _require_recorded(connection, manifest)


def _require_recorded(connection: Connection, manifest: Manifest) -> None:
    counts = connection.execute(_RECORDED, {"manifest": manifest.checksum}).fetchone()
    total = manifest.batch_total
    require(counts == ("ACKNOWLEDGED", "verified", total, total, total, total, 1), str(counts))


_RECORDED = """
SELECT r.state, (SELECT verdict FROM apgms_release.receipt WHERE sha256 = r.receipt_sha256),
       count(c.rpt_id) FILTER (WHERE c.outcome = 'accepted'),
       count(p.id) FILTER (WHERE p.state = 'RELEASED'),
       count(t.id) FILTER (WHERE t.status = 'consumed'),
       (SELECT count(*) FROM owa_ledger WHERE amount_cents < 0),
       (SELECT count(*) FROM audit_log WHERE action = 'release.acknowledged')
FROM apgms_release.release r
JOIN apgms_release.claim c USING (manifest_sha256)
JOIN periods p USING (abn, tax_type, period_id)
JOIN rpt_tokens t ON t.id = c.rpt_id
WHERE r.manifest_sha256 = %(manifest)s GROUP BY r.manifest_sha256
"""


def _require_payouts_once(connection: Connection) -> None:
    row = connection.execute(
        "SELECT abn, tax_type, period_id FROM owa_ledger WHERE amount_cents < 0"
        " GROUP BY abn, tax_type, period_id HAVING count(*) > 1 LIMIT 1"
    ).fetchone()
    require(row is None, f"paid out twice: {row}")


def _require_chains(connection: Connection) -> None:
    rows = connection.execute(
        "SELECT abn, tax_type, period_id, amount_cents, balance_after_cents, bank_receipt_hash,"
        " prev_hash, hash_after FROM owa_ledger ORDER BY abn, tax_type, period_id, id"
    )
    before: dict[tuple[str, str, str], Link] = {}
    for abn, tax_type, period_id, *values in rows:
        key, link = (abn, tax_type, period_id), Link(*values)
        found = deviations(link, before.get(key))
        require(not found, f"the chain of {key} deviates: {found}")
        before[key] = link
