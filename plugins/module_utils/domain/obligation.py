# GNU General Public License v3.0+ (see COPYING)
"""What the authority has acknowledged and a rollback takes off the books.

A submission cannot be taken back: the authority holds it. So each accepted submission of an undone
release leaves the obligation to amend it. The releases up to the target stand; where a payout of
theirs was booked after the target's snapshot, it leaves the books too and is to be booked again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .chain import Chain

AMEND = "obligation"
REBOOK = "payout_to_rebook"


class Claim(NamedTuple):
    """One submitted RPT. ``outcome``: ``accepted``, ``rejected``, or None while it is unknown."""

    manifest_sha256: str
    rpt_id: int
    abn: str
    tax_type: str
    period_id: str
    amount_cents: int
    outcome: str | None

    @property
    def held(self) -> bool:
        """Whether the authority holds it, or may hold it: then it is never releasable again."""
        return self.outcome != "rejected"

    @property
    def chain(self) -> Chain:
        """Its entity, tax type and period."""
        return Chain(self.abn, self.tax_type, self.period_id)

    def document(self, kind: str) -> dict[str, Any]:
        """Return what it leaves behind, :data:`AMEND` or :data:`REBOOK`, as JSON values."""
        return {
            "kind": kind,
            "manifest_sha256": self.manifest_sha256,
            "rpt_id": str(self.rpt_id),
            **self.chain._asdict(),
            "amount_cents": str(self.amount_cents),
        }
