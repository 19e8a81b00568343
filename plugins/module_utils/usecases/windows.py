# GNU General Public License v3.0+ (see COPYING)
"""When a stack may send: the policy's windows, shut by a rollback, reopened by a dry run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ..domain.manifest import object_key
from ..domain.policy import Policy
from ..domain.window import Calendar, Window, parse_calendar
from ..errors import ApgmsError
from ..ports.clock import iso_utc, parse_utc
from ..ports.object_store import ObjectStore
from .approvals import require_statement, used_for
from .bundle_files import require_unaltered
from .journal import Journal
from .manifests import load_manifest

if TYPE_CHECKING:
    from ..ports.database import Connection


@dataclass(frozen=True)
class Closure:
    """A rollback's closure of the window; the time in UTC."""

    incident_id: str
    reason: str
    source_revision: str
    """The revision that was rolled back."""
    closed_at: datetime


@dataclass(frozen=True)
class DryRun:
    """A verified dry run, made to show that a later release is good; the time in UTC."""

    purpose: str
    """``prototype`` or ``rehearsal``."""
    manifest_sha256: str
    source_revision: str
    made_at: datetime
    """When a prototype was approved, or a rehearsal built."""


def require_open(
    connection: Connection,
    policy: Policy,
    stack: str,
    now: datetime,
    release_window: str | None,
    statements_dir: str,
    operator: str | None = None,
) -> Window:
    """Return the window that is open at ``now``; nothing is sent after its ``closes_at``.

    :param now: the database's time, from :class:`..ports.clock.DatabaseClock`
    :param release_window: the window's id, RELEASE_WINDOW
    :param operator: the principal who sends; his own signature makes no override
    :raises ApgmsError: ``window.closed``, ``window.unstated``, ``window.malformed``,
        ``window.not_in_calendar``, ``window.blackout``, ``window.no_such_time``,
        ``window.not_open_yet``, ``window.over``, ``window.override_refused``
    """
    closures = open_closures(connection, stack)
    if closures:
        raise _closed(stack, closures[0])
    calendar = parse_calendar(policy.document["windows"])
    if not release_window:
        raise _unstated(now, calendar)
    try:
        return _in_calendar(calendar, release_window, now)
    except ApgmsError as refusal:
        if refusal.reason == "window.malformed":
            raise
        return _overriding(
            connection, policy, statements_dir, release_window, now, operator, refusal
        )


def open_closures(connection: Connection, stack: str) -> list[Closure]:
    """Return the closures of a stack's window that no dry run has ended, oldest first."""
    rows = connection.execute(
        "SELECT incident_id, reason, source_revision, closed_at FROM apgms_release.window_closure"
        " WHERE stack = %s AND incident_id NOT IN"
        " (SELECT incident_id FROM apgms_release.window_reopening)"
        " ORDER BY closed_at, incident_id",
        [stack],
    ).fetchall()
    return [Closure(*row) for row in rows]


def close(
    connection: Connection,
    journal: Journal,
    stack: str,
    reason: str,
    incident_id: str,
    source_revision: str,
) -> bool:
    """Shut the window, inside the caller's open transaction; return False where it was done before.

    :param source_revision: the revision of the release that is rolled back
    """
    closed = connection.execute(
        "INSERT INTO apgms_release.window_closure (incident_id, stack, reason, source_revision)"
        " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING incident_id",
        [incident_id, stack, reason, source_revision],
    ).fetchone()
    if closed:
        body = {"incident_id": incident_id, "reason": reason, "source_revision": source_revision}
        journal.record("window.closed", body)
    return closed is not None


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
            "dry_run": {**asdict(dry_run), "made_at": iso_utc(dry_run.made_at)},
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
            why=f"its purpose is {manifest.purpose}; permits used for it: {sorted(kinds) or 'none'}",
            mend=f"ansible-playbook -i inventories/{policy.stack} playbooks/prod_rehearsal.yml",
        )
    return DryRun("rehearsal", checksum, manifest.source_revision, parse_utc(manifest.built_at))


def _in_calendar(calendar: Calendar, release_window: str, now: datetime) -> Window:
    window = calendar.window(release_window)
    if not window.opens_at <= now < window.closes_at:
        raise _not_now(window, now, calendar)
    return window


def _overriding(
    connection: Connection,
    policy: Policy,
    statements_dir: str,
    release_window: str,
    now: datetime,
    operator: str | None,
    refusal: ApgmsError,
) -> Window:
    """Return the window that a signed override opens in place of the calendar's."""
    subject = {"release_window": release_window}
    try:
        approvals = require_statement(
            connection, policy, statements_dir, "override", subject, now, operator
        )
    except ApgmsError as waiting:
        _require_no_vain_override(waiting, refusal, release_window)
        raise refusal from None
    statements = [signed.statement for signed in approvals]
    return Window(
        id=release_window,
        name=f"override by {', '.join(s.signer for s in statements)}: {statements[0].reason}",
        opens_at=max(statement.not_before for statement in statements),
        closes_at=min(statement.expires_at for statement in statements),
    )


def _require_no_vain_override(
    waiting: ApgmsError, refusal: ApgmsError, release_window: str
) -> None:
    """Say why overrides of this window do not count; overrides of others are left unmentioned."""
    refusals = [
        other
        for other in waiting.details["refusals"]
        if other["reason"] not in ("statement.other_subject", "statement.other_stack")
    ]
    if refusals:
        raise ApgmsError(
            "window.override_refused",
            f"An override of release window {release_window} does not count",
            where=", ".join(other["where"] for other in refusals),
            why="; ".join(other["why"] for other in refusals),
            mend="have a new override signed, or wait for a window of the calendar",
            refusals=refusals,
        ) from refusal


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


def _closed(stack: str, closure: Closure) -> ApgmsError:
    return ApgmsError(
        "window.closed",
        f"The release window of {stack} is shut by a rollback",
        where=f"incident {closure.incident_id}, since {iso_utc(closure.closed_at)}",
        why=f"{closure.reason}; the release of source revision {closure.source_revision} was"
        " rolled back, and no dry run of a later corrective release has been verified",
        mend="have a prototype run of the corrected release approved, or rehearse it; then"
        f" ansible-playbook -i inventories/{stack} playbooks/reopen_window.yml",
        incident_id=closure.incident_id,
    )


def _unstated(now: datetime, calendar: Calendar) -> ApgmsError:
    return ApgmsError(
        "window.unstated",
        "RELEASE_WINDOW is not set",
        where="the process environment, or apgms_release_window in the inventory",
        why="a release is sent in one named window of the policy",
        mend=_choose(now, calendar),
    )


def _not_now(window: Window, now: datetime, calendar: Calendar) -> ApgmsError:
    early = now < window.opens_at
    return ApgmsError(
        "window.not_open_yet" if early else "window.over",
        f"The release window {window.id} is not open {'yet' if early else 'any more'}",
        where=f"calendar entry {window.name}",
        why=f"it is open from {calendar.local(window.opens_at)} to"
        f" {calendar.local(window.closes_at)}; the database's clock says {calendar.local(now)}",
        mend="run the same command again when it is open" if early else _choose(now, calendar),
    )


def _choose(now: datetime, calendar: Calendar) -> str:
    following = next(calendar.upcoming(now), None)
    if following is None:
        return "have a window added to the policy; its calendar has none ahead"
    return (
        f"export RELEASE_WINDOW={following.id}  # {following.name}, from"
        f" {calendar.local(following.opens_at)} to {calendar.local(following.closes_at)}"
    )
