# GNU General Public License v3.0+ (see COPYING)
"""The auditors' spot checks agree with the collection's own arithmetic, and notice when not."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.tax import spot_check
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.rates import (
    Catalog,
    parse_catalog,
)
from tests.conftest import ROOT

CATALOGS = [
    parse_catalog(path.read_bytes())
    for path in sorted(Path(ROOT / "roles" / "rates" / "files" / "rates").glob("*/catalog.json"))
]
samples = st.integers(0, 2**32 - 1)


@given(catalog=st.sampled_from(CATALOGS), sample=samples)
def test_both_ways_agree_on_every_published_bracket(catalog: Catalog, sample: int) -> None:
    check = spot_check.check_paygw_bracket(catalog, sample)
    assert check.holds, check.found


@given(catalog=st.sampled_from(CATALOGS), sample=samples)
def test_both_ways_agree_on_gst(catalog: Catalog, sample: int) -> None:
    check = spot_check.check_gst_rate(catalog, sample)
    assert check.holds, check.found


def test_fault_in_the_collections_arithmetic_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot_check, "withholding_cents", lambda *_: 1)
    monkeypatch.setattr(spot_check, "gst_cents", lambda *_: -1)
    assert not spot_check.check_paygw_bracket(CATALOGS[0], 7).holds
    assert not spot_check.check_gst_rate(CATALOGS[0], 7).holds


def test_rate_of_the_catalog_is_used() -> None:
    changed = dataclasses.replace(CATALOGS[0], gst={"GST": Decimal("0.5")})
    assert "0.5 of $0.11 is $0.06" in spot_check.check_gst_rate(changed, 11).found
