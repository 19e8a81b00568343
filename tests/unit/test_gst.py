# GNU General Public License v3.0+ (see COPYING)
"""GST to the cent, half up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.tax.gst import gst_cents
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.rates import parse_catalog
from services.rates.__main__ import SHIPPED

CATALOG = parse_catalog((SHIPPED / "2024-25" / "catalog.json").read_bytes())


@pytest.mark.parametrize(
    ("price", "gst"),
    [(0, 0), (4, 0), (5, 1), (14, 1), (15, 2), (25, 3), (100, 10), (99_995, 10_000)],
)
def test_half_a_cent_goes_up(price: int, gst: int) -> None:
    assert gst_cents(CATALOG, "GST", price) == gst


@given(st.integers(0, 10**12))
def test_agrees_with_integer_arithmetic(price: int) -> None:
    assert gst_cents(CATALOG, "GST", price) == (price + 5) // 10


@pytest.mark.parametrize("code", ["GST_FREE", "EXEMPT", "ZERO_RATED"])
def test_other_codes_carry_none(code: str) -> None:
    assert gst_cents(CATALOG, code, 12_345) == 0


@pytest.mark.parametrize(("code", "price"), [("gst", 1), ("", 1), ("GST", -1)])
def test_what_has_no_answer_is_refused(code: str, price: int) -> None:
    with pytest.raises(ValueError):
        gst_cents(CATALOG, code, price)
