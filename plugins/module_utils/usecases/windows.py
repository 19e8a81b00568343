# GNU General Public License v3.0+ (see COPYING)
"""When a stack may send: the policy's windows, shut by a rollback, reopened by a verified dry run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ..domain.policy import Policy
from ..domain.window import Window, parse_calendar
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
        raise _unstated(calendar.upcoming(now), calendar)
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
