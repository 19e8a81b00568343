# GNU General Public License v3.0+ (see COPYING)
"""What the authority has acknowledged and a rollback took off the books.

A submission cannot be taken back: the authority holds it. So an undone release leaves, for each of
its submissions that was not verifiably rejected, the obligation to amend it.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Claim(NamedTuple):
    """One submitted RPT. ``outcome`` is ``accepted``, ``rejected`` or None while it is not known."""

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
    def chain(self) -> tuple[str, str, str]:
        """Its entity, tax type and period."""
        return self.abn, self.tax_type, self.period_id

    def obligation(self) -> dict[str, Any]:
        """Return the obligation that undoing its release leaves, as JSON values.

        ``standing`` is ``amend``, or ``ask`` while the gateway has not said whether it accepted.
        """
        return {
            "kind": "obligation",
            "manifest_sha256": self.manifest_sha256,
            "rpt_id": str(self.rpt_id),
            "abn": self.abn,
            "tax_type": self.tax_type,
            "period_id": self.period_id,
            "amount_cents": str(self.amount_cents),
            "standing": "amend" if self.outcome == "accepted" else "ask",
        }
