# GNU General Public License v3.0+ (see COPYING)
"""Withholding: known answers, and the rule computed another way, in integers."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.tax.rates import (
    Catalog,
    parse_catalog,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.withholding import (
    SCALES,
    Frequency,
    withholding_cents,
)
from services.rates.__main__ import SHIPPED

CATALOGS = {
    version: parse_catalog((SHIPPED / version / "catalog.json").read_bytes())
    for version in ("2020-21", "2024-25")
}
versions = st.sampled_from(sorted(CATALOGS)).map(CATALOGS.__getitem__)
bracket_scales = st.sampled_from([scale for scale in SCALES if not scale.startswith("4")])
cents = st.integers(0, 2_000_000)


@pytest.mark.parametrize(
    ("version", "scale", "frequency", "earnings_cents", "dollars"),
    [
        ("2024-25", "2", "weekly", 100_000, 143),
        ("2020-21", "2", "weekly", 125_000, 249),  # 0.3477 * 1250.99 - 186.2119 = 248.757...
        ("2024-25", "2", "weekly", 36_000, 0),  # x = 360.99, the last that withholds nothing
        ("2024-25", "2", "weekly", 36_100, 0),  # 0.16 * 361.99 - 57.8462 = 0.07...
        ("2024-25", "2", "weekly", 36_499, 1),  # 0.16 * 364.99 - 57.8462 = 0.55...
        ("2024-25", "1", "weekly", 99, 0),
        ("2024-25", "2", "fortnightly", 200_000, 286),
        ("2024-25", "2", "quarterly", 1_300_000, 1859),
        ("2024-25", "2", "monthly", 433_333, 620),  # 4333.34 * 3 / 13 = 1000.00..; 143 * 13 / 3
        ("2024-25", "2", "monthly", 400_833, 516),  # as 4008.34: weekly 925, not 924.99
        ("2024-25", "2", "monthly", 400_832, 511),
        ("2024-25", "4-resident", "weekly", 100_099, 470),
        ("2024-25", "4-foreign", "weekly", 100_299, 450),  # 1002 * 0.45 = 450.90, cents ignored
        ("2024-25", "4-resident", "monthly", 433_333, 2036),  # 4333 * 0.47 = 2036.51
    ],
)
def test_known_answers(
    version: str, scale: str, frequency: str, earnings_cents: int, dollars: int
) -> None:
    found = withholding_cents(CATALOGS[version], scale, Frequency(frequency), earnings_cents)
    assert found == dollars * 100


@given(versions, bracket_scales, st.sampled_from(Frequency), cents)
def test_agrees_with_exact_fractions(
    catalog: Catalog, scale: str, frequency: Frequency, earnings_cents: int
) -> None:
    assert withholding_cents(catalog, scale, frequency, earnings_cents) == _by_fractions(
        catalog, scale, frequency, earnings_cents
    )


def _by_fractions(catalog: Catalog, scale: str, frequency: Frequency, earnings_cents: int) -> int:
    if frequency == "monthly" and earnings_cents % 100 == 33:
        earnings_cents += 1
    weeks = {
        "weekly": Fraction(1),
        "fortnightly": Fraction(2),
        "monthly": Fraction(13, 3),
        "quarterly": Fraction(13),
    }[frequency]
    x = floor(Fraction(earnings_cents, 100) / weeks) + Fraction(99, 100)
    for row in catalog.scales[f"scale{scale}"]:
        if row.bound is None or x < Fraction(row.bound):
            y = (
                Fraction(row.a) * x - Fraction(row.b)
                if row.a is not None and row.b is not None
                else 0
            )
            weekly = max(floor(y + Fraction(1, 2)), 0)
            return floor(weekly * weeks + Fraction(1, 2)) * 100
    raise AssertionError("no bracket")


@given(versions, st.sampled_from(SCALES), st.sampled_from(Frequency), cents)
def test_whole_dollars_and_never_more_than_earned(
    catalog: Catalog, scale: str, frequency: Frequency, earnings_cents: int
) -> None:
    found = withholding_cents(catalog, scale, frequency, earnings_cents)
    assert found % 100 == 0
    assert 0 <= found <= max(earnings_cents, 100)


@given(versions, bracket_scales, cents, st.integers(0, 99))
def test_cents_of_weekly_earnings_do_not_count(
    catalog: Catalog, scale: str, earnings_cents: int, more: int
) -> None:
    whole = earnings_cents // 100 * 100
    assert withholding_cents(catalog, scale, Frequency.WEEKLY, whole) == withholding_cents(
        catalog, scale, Frequency.WEEKLY, whole + more
    )


@pytest.mark.parametrize(("scale", "earnings"), [("4", 1), ("7", 1), ("", 1), ("2", -1)])
def test_what_has_no_answer_is_refused(scale: str, earnings: int) -> None:
    with pytest.raises(ValueError):
        withholding_cents(CATALOGS["2024-25"], scale, Frequency.WEEKLY, earnings)
