# GNU General Public License v3.0+ (see COPYING)
"""When a stack may send: the policy's windows, shut by a rollback, reopened by a dry run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ..domain.policy import Policy
from ..domain.window import Calendar, Window, parse_calendar
from ..errors import ApgmsError
from ..ports.clock import iso_utc
from .journal import Journal

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
    """A dry run that was verified: the proof that a later corrective release works."""

    manifest_sha256: str
    purpose: str
    """``prototype`` or ``rehearsal``."""
    source_revision: str
    verified_at: datetime


def require_open(
    connection: Connection,
    policy: Policy,
    stack: str,
    now: datetime,
    release_window: str | None,
    statements_dir: str,
) -> Window:
    """Return the window that is open at ``now``; nothing is sent after its ``closes_at``.

    :param now: the database's time, from :class:`..ports.clock.DatabaseClock`
    :param release_window: the window's id, RELEASE_WINDOW
    :raises ApgmsError: ``window.closed``, ``window.unstated``, ``window.malformed``,
        ``window.not_in_calendar``, ``window.blackout``, ``window.no_such_time``,
        ``window.not_open_yet``, ``window.over``
    """
    closure = closed_by(connection, stack)
    if closure:
        raise _closed(stack, closure)
    calendar = parse_calendar(policy.document["windows"])
    if not release_window:
        raise _unstated(now, calendar)
    window = calendar.window(release_window)
    if not window.opens_at <= now < window.closes_at:
        raise _not_now(window, now, calendar)
    return window


def closed_by(connection: Connection, stack: str) -> Closure | None:
    """Return the earliest closure of a stack's window that no dry run has ended."""
    row = connection.execute(
        "SELECT incident_id, reason, source_revision, closed_at FROM apgms_release.window_closure"
        " WHERE stack = %s AND incident_id NOT IN"
        " (SELECT incident_id FROM apgms_release.window_reopening)"
        " ORDER BY closed_at, incident_id LIMIT 1",
        [stack],
    ).fetchone()
    return Closure(*row) if row else None


def close(
    connection: Connection,
    journal: Journal,
    stack: str,
    reason: str,
    incident_id: str,
    source_revision: str,
) -> None:
    """Shut the window, inside the caller's open transaction; once per incident.

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


def reopen(connection: Connection, journal: Journal, stack: str, dry_run: DryRun) -> None:
    """End the closures of a stack that ``dry_run`` is later than, inside the caller's transaction.

    :param dry_run: as :func:`verify_dry_run` returned it
    :raises ApgmsError: ``window.not_closed``, ``window.not_corrective``
    """


def _closed(stack: str, closure: Closure) -> ApgmsError:
    return ApgmsError(
        "window.closed",
        f"The release window of {stack} is shut by a rollback",
        where=f"incident {closure.incident_id}, since {iso_utc(closure.closed_at)}",
        why=f"{closure.reason}; it opens again only with a verified dry run of a later release"
        f" than source revision {closure.source_revision}",
        mend="take the corrective release through playbooks/proto_release.yml and its approval, or"
        " through playbooks/prod_rehearsal.yml; then run playbooks/reopen_window.yml",
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
