# GNU General Public License v3.0+ (see COPYING)
"""PAYG withholding from one payment of salary or wages.

Source: Australian Taxation Office, Schedule 1 (NAT 1004), statement of formulas. Every step is
exact decimal arithmetic; money goes in and comes out as integers of cents.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from enum import StrEnum

from .rates import Bracket, Catalog

SCALES = ("1", "2", "3", "4-resident", "4-foreign", "5", "6")
"""Tax scales of Schedule 1. Scale 4, no tax file number, has a rate for each residency."""


class Frequency(StrEnum):
    """How often a payee is paid."""

    WEEKLY = "weekly"
    FORTNIGHTLY = "fortnightly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"


_ONE = Decimal(1)
_PAYS: dict[Frequency, tuple[Decimal, Decimal]] = {
    Frequency.WEEKLY: (_ONE, _ONE),
    Frequency.FORTNIGHTLY: (_ONE, Decimal(2)),
    Frequency.MONTHLY: (Decimal(3), Decimal(13)),
    Frequency.QUARTERLY: (_ONE, Decimal(13)),
}
"""Weekly earnings are earnings * first / second; what is withheld is weekly * second / first."""


def withholding_cents(
    catalog: Catalog, scale: str, frequency: Frequency, earnings_cents: int
) -> int:
    """Return the cents to withhold from one payment, always whole dollars.

    :param scale: one of :data:`SCALES`
    :param earnings_cents: gross earnings of the pay period, in cents, not negative
    :raises ValueError: for an unknown scale or negative earnings
    """
    if scale not in SCALES:
        raise ValueError(f"{scale!r} is no scale of Schedule 1")
    if earnings_cents < 0:
        raise ValueError("earnings are negative")
    earnings = Decimal(earnings_cents) / 100
    if scale.startswith("4-"):
        dollars = _without_cents(_without_cents(earnings) * catalog.no_tfn[scale[2:]])
    else:
        dollars = _by_formula(catalog.scales[f"scale{scale}"], frequency, earnings)
    return int(dollars) * 100


def _by_formula(brackets: tuple[Bracket, ...], frequency: Frequency, earnings: Decimal) -> Decimal:
    if frequency is Frequency.MONTHLY and earnings % 1 == Decimal("0.33"):
        earnings += Decimal("0.01")
    numerator, denominator = _PAYS[frequency]
    weekly = _weekly(brackets, earnings * numerator / denominator)
    return _to_dollar(weekly * denominator / numerator)


def _weekly(brackets: tuple[Bracket, ...], earnings: Decimal) -> Decimal:
    x = _without_cents(earnings) + Decimal("0.99")
    row = next(row for row in brackets if row.bound is None or x < row.bound)
    if row.a is None or row.b is None:
        return Decimal(0)
    return max(_to_dollar(row.a * x - row.b), Decimal(0))


def _without_cents(amount: Decimal) -> Decimal:
    return amount.to_integral_value(ROUND_FLOOR)


def _to_dollar(amount: Decimal) -> Decimal:
    return amount.quantize(_ONE, ROUND_HALF_UP)
