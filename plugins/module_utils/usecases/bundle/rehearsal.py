# GNU General Public License v3.0+ (see COPYING)
"""A rehearsal: production data and flags DRY_RUN=1, only with a signed permit.

What a rehearsal writes is its own evidence: the bundle, the snapshot that its manifest carries, and
the use of the permit. It makes no claims, no intent and no socket to the gateway.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ...domain.approval.policy import Policy
from ...domain.approval.statement import Signed
from ...version import VERSION
from ..approvals.approvals import require_statement

if TYPE_CHECKING:
    from ...ports.database import Connection


def require_permit(
    connection: Connection,
    policy: Policy,
    statements_dir: str,
    *,
    submission_id: str,
    source_revision: str,
    operator: str | None,
    now: datetime,
) -> list[Signed]:
    """Return the signed permit for one rehearsal.

    The caller uses it up (:func:`.approvals.consume`) in the transaction that freezes the manifest.

    :param operator: the principal who rehearses; his own signature does not count
    :param now: the database's time
    :raises ApgmsError: ``approval.waiting`` with ``refusals``
    """
    subject = {
        "submission_id": submission_id,
        "source_revision": source_revision,
        "collection_version": VERSION,
    }
    return require_statement(
        connection, policy, statements_dir, "rehearsal", subject, now, operator
    )
