# GNU General Public License v3.0+ (see COPYING)
"""When a stack may send: in the policy's windows, unless a rollback has shut them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ...domain.approval.policy import Policy
from ...domain.approval.window import Calendar, Window, parse_calendar
from ...errors import ApgmsError
from ...ports.clock import iso_utc
from ..acts.journal import Journal
from ..approvals.approvals import require_statement

if TYPE_CHECKING:
    from ...ports.database import Connection


@dataclass(frozen=True)
class Closure:
    """A rollback's closure of the window; the time in UTC."""

    incident_id: str
    reason: str
    source_revision: str
    """The revision that was rolled back."""
    closed_at: datetime


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
        if waiting.reason != "approval.waiting":
            raise
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
