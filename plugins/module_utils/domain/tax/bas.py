# GNU General Public License v3.0+ (see COPYING)
"""Labels of a business activity statement (BAS), from the lines of payroll and trade.

All amounts are cents. G1 counts total sales, GST included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class PayrollLine:
    """Equal payments of wages to one payee."""

    gross_cents: int
    withheld_cents: int
    payments: int


@dataclass(frozen=True)
class TradeLine:
    """Equal sales or purchases of one item; the price is without GST."""

    is_sale: bool
    price_cents: int
    gst_cents: int
    quantity: int


@dataclass(frozen=True)
class BasLabels:
    """W1 wages, W2 withheld, G1 sales, 1A GST on sales, 1B GST on purchases."""

    w1: int
    w2: int
    g1: int
    a1: int
    b1: int

    @property
    def net_gst(self) -> int:
        """1A - 1B: payable where positive."""
        return self.a1 - self.b1

    def plus(self, other: BasLabels) -> BasLabels:
        """Return the labels of both together."""
        return BasLabels(
            self.w1 + other.w1,
            self.w2 + other.w2,
            self.g1 + other.g1,
            self.a1 + other.a1,
            self.b1 + other.b1,
        )

    def to_json(self) -> dict[str, str]:
        """Return the labels as a BAS names them, with amounts as decimal strings."""
        labels = {"W1": self.w1, "W2": self.w2, "G1": self.g1, "1A": self.a1, "1B": self.b1}
        return {label: str(cents) for label, cents in labels.items()}


def bas_labels(payroll: Iterable[PayrollLine], trade: Iterable[TradeLine]) -> BasLabels:
    """Return the labels of the lines of one entity and period."""
    wages, lines = list(payroll), list(trade)
    sales = [line for line in lines if line.is_sale]
    purchases = [line for line in lines if not line.is_sale]
    return BasLabels(
        w1=sum(line.gross_cents * line.payments for line in wages),
        w2=sum(line.withheld_cents * line.payments for line in wages),
        g1=sum((line.price_cents + line.gst_cents) * line.quantity for line in sales),
        a1=sum(line.gst_cents * line.quantity for line in sales),
        b1=sum(line.gst_cents * line.quantity for line in purchases),
    )
