# GNU General Public License v3.0+ (see COPYING)
"""Period ids and the days they cover."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.tax.periods import (
    PeriodDays,
    parse_period_id,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError

years = st.integers(1000, 9999)


@pytest.mark.parametrize(
    ("period_id", "first", "last"),
    [
        ("2025-09", date(2025, 9, 1), date(2025, 9, 30)),
        ("2024-02", date(2024, 2, 1), date(2024, 2, 29)),
        ("2025Q1", date(2025, 1, 1), date(2025, 3, 31)),
        ("2025-Q4", date(2025, 10, 1), date(2025, 12, 31)),
        ("2024Q4", date(2024, 10, 1), date(2024, 12, 31)),
    ],
)
def test_known_periods(period_id: str, first: date, last: date) -> None:
    assert parse_period_id(period_id) == PeriodDays(period_id, first, last)


@given(years, st.integers(1, 4))
def test_a_quarter_is_its_three_months(year: int, quarter: int) -> None:
    months = [parse_period_id(f"{year}-{quarter * 3 - 2 + number:02d}") for number in range(3)]
    for form in (f"{year}Q{quarter}", f"{year}-Q{quarter}"):
        period = parse_period_id(form)
        assert period.days() == [day for month in months for day in month.days()]


@pytest.mark.parametrize(
    "period_id",
    ["", "2025", "2025-9", "2025-00", "2025-13", "2025Q0", "2025Q5", "25Q1", "2025-09 ", "2025_09",
     "2025-09\n", "0025-09", "2025q1", "FY25Q1"],
)  # fmt: skip
def test_other_forms_are_refused(period_id: str) -> None:
    with pytest.raises(ApgmsError) as error:
        parse_period_id(period_id)
    assert error.value.reason == "period.malformed"
    assert repr(period_id) in str(error.value)
