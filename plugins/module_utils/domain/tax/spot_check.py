# GNU General Public License v3.0+ (see COPYING)
"""Spot checks of an auditor: one bracket or one rate, recomputed by other arithmetic.

The formulas are those that the rates catalog publishes; exact fractions stand in for the decimals
of :mod:`.withholding` and :mod:`.gst`, so that a fault in either shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from .gst import gst_cents
from .rates import Catalog
from .withholding import Frequency, withholding_cents

TOP_BRACKET_SPAN = 2000
"""Dollars above the last bound among which a sample of the top bracket is taken."""


@dataclass(frozen=True)
class SpotCheck:
    """What was recomputed, in words, and whether both ways agree."""

    found: str
    holds: bool


def check_paygw_bracket(catalog: Catalog, sample: int) -> SpotCheck:
    """Recompute the withholding from one weekly payment on scale 2.

    :param sample: any number; it picks the bracket and the earnings
    """
    brackets = catalog.scales["scale2"]
    position = sample % len(brackets)
    bracket = brackets[position]
    low = int(brackets[position - 1].bound or 0) if position else 0
    high = int(bracket.bound) if bracket.bound is not None else low + TOP_BRACKET_SPAN
    dollars = low + sample % (high - low)
    cents = dollars * 100 + sample % 100
    by_hand, formula = 0, "nothing"
    if bracket.a is not None and bracket.b is not None:
        x = dollars + Fraction(99, 100)
        by_hand = max(_half_up(Fraction(bracket.a) * x - Fraction(bracket.b)), 0) * 100
        formula = f"{bracket.a} x {dollars}.99 - {bracket.b}"
    computed = withholding_cents(catalog, "2", Frequency.WEEKLY, cents)
    return SpotCheck(
        f"scale 2, {_dollars(cents)} a week: {formula} gives {_dollars(by_hand)},"
        f" this collection computes {_dollars(computed)}",
        by_hand == computed,
    )


def check_gst_rate(catalog: Catalog, sample: int) -> SpotCheck:
    """Recompute the GST on one price.

    :param sample: any number; it picks the price
    """
    price = sample % 1_000_000
    by_hand = _half_up(Fraction(catalog.gst["GST"]) * price)
    computed = gst_cents(catalog, "GST", price)
    return SpotCheck(
        f"{catalog.gst['GST']} of {_dollars(price)} is {_dollars(by_hand)},"
        f" this collection computes {_dollars(computed)}",
        by_hand == computed,
    )


def _half_up(number: Fraction) -> int:
    return int((2 * number + 1) // 2)


def _dollars(cents: int) -> str:
    return f"${cents // 100:,}.{cents % 100:02}"
