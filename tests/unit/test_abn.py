# GNU General Public License v3.0+ (see COPYING)
"""ABNs and their checksum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.tax.abn import (
    abn_of,
    has_valid_checksum,
)

identifiers = st.integers(0, 999_999_999)


@pytest.mark.parametrize(
    ("abn", "valid"),
    [
        ("53004085616", True),
        ("12345678901", False),
        ("5300408561", False),
        ("530040856160", False),
        ("5300408561x", False),
        ("५३००४०८५६१६", False),
        ("", False),
    ],
)
def test_known_numbers(abn: str, valid: bool) -> None:
    assert has_valid_checksum(abn) is valid


@given(identifiers)
def test_made_numbers_pass_or_fail_as_asked(identifier: int) -> None:
    valid, failing = abn_of(identifier), abn_of(identifier, valid=False)
    assert has_valid_checksum(valid) and not has_valid_checksum(failing)
    assert len(valid) == len(failing) == 11
    assert valid[2:] == failing[2:] == f"{identifier:09d}"


@given(identifiers, st.integers(0, 10), st.integers(1, 9))
def test_one_wrong_digit_is_noticed(identifier: int, position: int, shift: int) -> None:
    abn = abn_of(identifier)
    digit = (int(abn[position]) + shift) % 10
    assert not has_valid_checksum(f"{abn[:position]}{digit}{abn[position + 1 :]}")
