# GNU General Public License v3.0+ (see COPYING)
"""What an operator sees of a release: its result, its difference, and the residual."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .acknowledgement import rejections
from .records import Release
from .release import Released

if TYPE_CHECKING:
    from ...ports.database import Connection


def result(done: Released, connection: Connection, shown: int) -> dict[str, Any]:
    """Return the result of a run, or of its prediction inside a rehearsal.

    :param shown: how many rejected rows are listed
    """
    after = done.after
    names = (
        "state", "why", "manifest_sha256", "submission_id", "idempotency_key", "attempts",
        "job_id", "receipt_sha256",
    )  # fmt: skip
    return {
        **{name: getattr(after, name) for name in names},
        "rows": _rows(connection, after.manifest_sha256),
        "rejected": rejections(connection, after.manifest_sha256, shown),
        "replayed": [row.event for row in done.replayed],
    }


def difference(release: Release | None) -> dict[str, Any]:
    """Return what a diff shows of a release."""
    names = ("state", "attempts", "job_id", "receipt_sha256")
    return {name: getattr(release, name, None) for name in names}


def _rows(connection: Connection, manifest_sha256: str) -> dict[str, dict[str, Any]]:
    found = connection.execute(
        "SELECT outcome, count(*), sum(amount_cents) FROM apgms_release.claim"
        " WHERE manifest_sha256 = %s GROUP BY outcome",
        [manifest_sha256],
    ).fetchall()
    by_outcome = {outcome: (int(count), int(cents)) for outcome, count, cents in found}
    parts = {
        "sent": (
            sum(n for n, _cents in by_outcome.values()),
            sum(c for _count, c in by_outcome.values()),
        ),
        "accepted": by_outcome.get("accepted", (0, 0)),
        "rejected": by_outcome.get("rejected", (0, 0)),
    }
    return {
        name: {"count": count, "amount_cents": str(cents)} for name, (count, cents) in parts.items()
    }
