# GNU General Public License v3.0+ (see COPYING)
"""What the authority has acknowledged and a rollback takes off the books.

A submission cannot be taken back: the authority holds it. So each accepted submission of an undone
release leaves the obligation to amend it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..ledger.chain import Chain


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

    def obligation(self) -> dict[str, Any]:
        """Return the obligation to amend it, as JSON values."""
        return {
            "kind": "obligation",
            "manifest_sha256": self.manifest_sha256,
            "rpt_id": str(self.rpt_id),
            **self.chain._asdict(),
            "amount_cents": str(self.amount_cents),
        }
