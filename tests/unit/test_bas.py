# GNU General Public License v3.0+ (see COPYING)
"""BAS labels from lines of payroll and trade."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.tax.bas import (
    BasLabels,
    PayrollLine,
    TradeLine,
    bas_labels,
)

amounts = st.integers(0, 10**9)
payroll_lines = st.builds(PayrollLine, amounts, amounts, st.integers(0, 13))
trade_lines = st.builds(TradeLine, st.booleans(), amounts, amounts, st.integers(0, 99))


def test_labels_of_a_small_business() -> None:
    labels = bas_labels(
        [PayrollLine(100_000, 14_300, 4), PayrollLine(50_000, 0, 1)],
        [
            TradeLine(True, 10_000, 1_000, 3),
            TradeLine(True, 5_000, 0, 2),
            TradeLine(False, 8_000, 800, 2),
        ],
    )
    assert labels.to_json() == {
        "W1": "450000", "W2": "57200", "G1": "43000", "1A": "3000", "1B": "1600"
    }  # fmt: skip
    assert labels.net_gst == 1_400


def test_no_lines_no_amounts() -> None:
    assert bas_labels([], []) == BasLabels(0, 0, 0, 0, 0)


@given(
    st.lists(payroll_lines), st.lists(trade_lines), st.lists(payroll_lines), st.lists(trade_lines)
)
def test_labels_add_up_over_parts(
    pay: list[PayrollLine], trade: list[TradeLine], pay2: list[PayrollLine], trade2: list[TradeLine]
) -> None:
    one, two = bas_labels(pay, trade), bas_labels(pay2, trade2)
    whole = bas_labels(pay + pay2, trade + trade2)
    assert whole == one.plus(two)
    assert whole.net_gst == one.net_gst + two.net_gst
