"""Canonical JSON against an implementation that is not ours."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    MAX_SAFE_INTEGER,
    canonical,
    parse_canonical,
)

text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
)


@given(values)
def test_agrees_with_another_implementation(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(values)
def test_parse_is_the_inverse(value: object) -> None:
    assert parse_canonical(canonical(value)) == value


@pytest.mark.parametrize(
    "data", [b'{"b":1,"a":2}', b'{"a":1,"a":1}', b"[1, 2]", b"1.0", b"", b"\xff", b'"\\u0041"']
)
def test_other_forms_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_canonical(data)


@pytest.mark.parametrize("value", [1.5, 2**53, {1: 2}, object(), "\ud800"])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        canonical(value)
