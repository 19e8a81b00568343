# GNU General Public License v3.0+ (see COPYING)
"""Make the plan of a rollback from what the database and the target's bundle say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...domain.approval.policy import Policy
from ...domain.ledger.chain import Chain
from ...domain.release.manifest import Manifest
from ...domain.release.obligation import Claim
from ...domain.release.rollback_plan import Plan
from ...domain.release.rollback_target import PastRelease, find_target, undone_by_target
from ...errors import ApgmsError
from ...ports.object_store import ObjectStore
from ..ledger.log import LogHead
from ..ledger.origin import log_in_force
from ..release.info import past_releases
from .ledger import (
    allows_one_row_per_period,
    keep_payouts,
    planned_chains,
    prepare,
    target_balances_digest,
)
from .states import planned_states

if TYPE_CHECKING:
    from ...ports.database import Connection


class Planned(NamedTuple):
    """A plan, its target's manifest, the source revision that it takes out of service, and the
    chains that the authority holds or may hold."""

    plan: Plan
    target: Manifest
    undone_revision: str
    held: frozenset[Chain]


def make_plan(
    connection: Connection, store: ObjectStore, policy: Policy, checksum: str, head: LogHead
) -> Planned:
    """Return the plan, inside the caller's open transaction.

    :param checksum: of the target's manifest, or a beginning of it
    :param head: the log's head; every row of the ledger is in it
    :raises ApgmsError: ``rollback.*_target``, ``rollback.other_origin``, ``log.forked``,
        ``rollback.unusable_image``, ``rollback.does_not_add_up``
    """
    releases = past_releases(connection, store, policy.stack)
    target = find_target(releases, checksum)
    manifest = target.manifest
    if manifest is None:
        raise AssertionError("a good target has a manifest")
    _require_prefix(store, policy, manifest, head)
    undone = undone_by_target(releases, target)
    checksums = [release.manifest_sha256 for release in undone]
    prepare(connection, manifest.ledger.origin, manifest.ledger.tree_size)
    standing_payouts = keep_payouts(connection, _standing(releases, checksums))
    net = allows_one_row_per_period(connection)
    chains = planned_chains(connection, net=net)
    claims = _claims(connection)
    held = frozenset(claim.chain for claim in claims if claim.held)
    plan = Plan(
        stack=policy.stack,
        target_sha256=target.manifest_sha256,
        target_tree_size=manifest.ledger.tree_size,
        tree_size=head.tree_size,
        root=head.root.hex(),
        net=net,
        chains=chains,
        states=planned_states(connection, store, manifest, held),
        obligations=tuple(_accepted(claims, checksums)),
        standing_payouts=standing_payouts,
        undone=tuple(checksums),
        balances_sha256=target_balances_digest(connection),
    )
    revisions = [release.manifest.source_revision for release in undone if release.manifest]
    revision = revisions[-1] if revisions else manifest.source_revision
    return Planned(plan, manifest, revision, held)


def _require_prefix(store: ObjectStore, policy: Policy, target: Manifest, head: LogHead) -> None:
    """The target's ledger must be the beginning of today's."""
    log = log_in_force(store, policy)
    ledger = target.ledger
    if ledger.origin != log.origin:
        raise ApgmsError(
            "rollback.other_origin",
            "The target's ledger log was ended by a restore statement",
            where=f"manifest {target.checksum}",
            why=f"its log is {ledger.origin}, the ledger's is now {log.origin}",
            mend="choose a release that was made after the restore",
        )
    then = LogHead(ledger.origin, ledger.tree_size, bytes.fromhex(ledger.root), b"")
    log.require_prefix(then, head)


def _standing(releases: Sequence[PastRelease], undone: Collection[str]) -> list[str]:
    return [
        release.manifest_sha256
        for release in releases
        if release.undone_by is None and release.manifest_sha256 not in undone
    ]


def _accepted(claims: list[Claim], manifests: Collection[str]) -> list[Claim]:
    return [
        claim
        for claim in claims
        if claim.outcome == "accepted" and claim.manifest_sha256 in manifests
    ]


def _claims(connection: Connection) -> list[Claim]:
    return [
        Claim(*row)
        for row in connection.execute(
            "SELECT manifest_sha256, rpt_id, abn, tax_type, period_id, amount_cents, outcome"
            " FROM apgms_release.claim ORDER BY manifest_sha256, rpt_id"
        )
    ]
