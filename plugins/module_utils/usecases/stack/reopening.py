# GNU General Public License v3.0+ (see COPYING)
"""Reopen the release window that a rollback shut, with a dry run of a later corrective release."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.release.manifest import object_key
from ...errors import ApgmsError
from ...ports.clock import DatabaseClock, iso_utc, parse_utc
from ...ports.database import rehearsal
from ...ports.object_store import ObjectStore
from ...ports.overlay_store import OverlayStore
from ..acts.journal import Journal
from ..approvals.approvals import require_statement, used_for
from ..approvals.policy import load_policy
from ..bundle.files import require_unaltered
from ..bundle.manifests import load_manifest
from . import kill_switch
from .windows import Closure, open_closures

if TYPE_CHECKING:
    from ...ports.database import Connection


@dataclass(frozen=True)
class Order:
    """Which dry run reopens the window: a rehearsal, or else a prototype run of a revision."""

    stack: str
    policy_path: str
    statements_dir: str
    operator: str | None
    source_revision: str
    rehearsal: str | None = None
    """The manifest checksum of a rehearsal."""


@dataclass(frozen=True)
class DryRun:
    """A verified dry run, made to show that a later release is good; the time in UTC."""

    purpose: str
    """``prototype`` or ``rehearsal``."""
    manifest_sha256: str
    source_revision: str
    made_at: datetime
    """When a prototype was approved, or a rehearsal built."""

    def as_result(self) -> dict[str, str]:
        """Return it as JSON values."""
        return {**asdict(self), "made_at": iso_utc(self.made_at)}


@dataclass(frozen=True)
class Reopening:
    """The closures that were ended, and by which dry run; none where the window was not shut."""

    ended: list[Closure]
    dry_run: DryRun | None

    def result(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "reopened": [closure.incident_id for closure in self.ended],
            "dry_run": self.dry_run.as_result() if self.dry_run else None,
        }


def carry_out(connection: Connection, store: ObjectStore, order: Order) -> Reopening:
    """Reopen the window, in one transaction with its row in the journal.

    :raises ApgmsError: ``kill_switch.on`` where the window is shut, ``window.not_corrective``,
        ``window.no_rehearsal``, ``approval.waiting``, ``policy.*``, ``manifest.*``,
        ``bundle.altered``, ``attestation.*``, ``journal.*``
    """
    policy = load_policy(connection, order.policy_path, order.stack)
    if not open_closures(connection, order.stack):
        return Reopening([], None)
    kill_switch.require_off(connection, order.stack)
    clock = DatabaseClock(connection)
    if order.rehearsal:
        dry_run = verified_rehearsal(connection, store, policy, order.rehearsal)
    else:
        dry_run = verified_prototype(
            connection, policy, order.statements_dir, order.source_revision, clock.now(),
            order.operator,
        )  # fmt: skip
    with connection.transaction():
        journal = Journal(connection, store, order.stack, clock)
        return Reopening(reopen(connection, journal, order.stack, dry_run), dry_run)


def predict(connection: Connection, store: ObjectStore, order: Order) -> Reopening:
    """Return what :func:`carry_out` would do; nothing is written.

    :raises ApgmsError: as :func:`carry_out`
    """
    with rehearsal(connection):
        return carry_out(connection, OverlayStore(store), order)


def reopen(connection: Connection, journal: Journal, stack: str, dry_run: DryRun) -> list[Closure]:
    """End every closure of a stack, inside the caller's open transaction; return those ended.

    :param dry_run: from :func:`verified_prototype` or :func:`verified_rehearsal`
    :raises ApgmsError: ``window.not_corrective``
    """
    closures = open_closures(connection, stack)
    for closure in closures:
        _require_corrective(closure, dry_run)
        connection.execute(
            "INSERT INTO apgms_release.window_reopening"
            " (incident_id, purpose, manifest_sha256, source_revision) VALUES (%s, %s, %s, %s)",
            [closure.incident_id, dry_run.purpose, dry_run.manifest_sha256,
             dry_run.source_revision],
        )  # fmt: skip
    if closures:
        body = {
            "incident_ids": [closure.incident_id for closure in closures],
            "dry_run": dry_run.as_result(),
        }
        journal.record("window.reopened", body)
    return closures


def verified_prototype(
    connection: Connection,
    policy: Policy,
    statements_dir: str,
    source_revision: str,
    now: datetime,
    operator: str | None,
) -> DryRun:
    """Return the prototype run of a source revision that audit has approved.

    The approval is the signed verdict that carries the prototype's dry run over to prod.

    :raises ApgmsError: ``approval.waiting``
    """
    subject = {"source_revision": source_revision}
    approvals = require_statement(
        connection, policy, statements_dir, "prototype", subject, now, operator
    )
    latest = max(approvals, key=lambda signed: signed.statement.not_before).statement
    return DryRun(
        "prototype",
        str(latest.subject["manifest_sha256"]),
        source_revision,
        latest.not_before,
    )


def verified_rehearsal(
    connection: Connection, store: ObjectStore, policy: Policy, checksum: str
) -> DryRun:
    """Return the sanctioned rehearsal with this manifest checksum, its whole bundle checked.

    :raises ApgmsError: ``window.no_rehearsal``, ``bundle.altered``, ``manifest.*``,
        ``attestation.*``
    """
    manifest = load_manifest(store, checksum, policy.stack)
    require_unaltered(store, object_key(checksum, ""), manifest, policy)
    kinds = {used["kind"] for used in used_for(connection, checksum)}
    if manifest.purpose != "rehearsal" or "rehearsal" not in kinds:
        raise ApgmsError(
            "window.no_rehearsal",
            "This manifest is not of a sanctioned rehearsal",
            where=f"manifest {checksum}",
            why=f"its purpose is {manifest.purpose}; statements used for it are"
            f" {', '.join(sorted(kinds)) or 'none'}",
            mend=f"ansible-playbook -i inventories/{policy.stack} playbooks/prod_rehearsal.yml",
        )
    return DryRun("rehearsal", checksum, manifest.source_revision, parse_utc(manifest.built_at))


def _require_corrective(closure: Closure, dry_run: DryRun) -> None:
    if dry_run.made_at <= closure.closed_at:
        why = (
            f"the {dry_run.purpose} is of {iso_utc(dry_run.made_at)}, the window was shut at"
            f" {iso_utc(closure.closed_at)}"
        )
    elif dry_run.purpose == "prototype" and dry_run.source_revision == closure.source_revision:
        why = f"the prototype is of {closure.source_revision}, the revision that was rolled back"
    else:
        return
    raise ApgmsError(
        "window.not_corrective",
        "This dry run is none of a later corrective release",
        where=f"incident {closure.incident_id}, manifest {dry_run.manifest_sha256}",
        why=why,
        mend="make a dry run of the corrected release and have it approved",
    )
