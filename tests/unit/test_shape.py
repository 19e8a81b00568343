# GNU General Public License v3.0+ (see COPYING)
"""A document has exactly its shape, and a deviation is named by its place."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.shape import (
    CENTS,
    MapOf,
    require_shape,
)

SHAPE = {
    "name": str,
    "count": int,
    "cents": CENTS,
    "parent": (int, None),
    "tags": [str],
    "people": MapOf(re.compile("[a-z]+"), {"age": int}),
}
SOUND: dict[str, Any] = {
    "name": "x",
    "count": 1,
    "cents": "0",
    "parent": None,
    "tags": ["a"],
    "people": {"ann": {"age": 7}},
}


def test_sound_document_has_its_shape() -> None:
    require_shape(SOUND, SHAPE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 1}, "name is 1, not of type str"),
        ({"count": True}, "count is True, not of type int"),
        ({"cents": "01"}, "cents is '01'"),
        ({"cents": 1}, "cents is 1"),
        ({"parent": "x"}, "not of type int; .* not null"),
        ({"tags": "a"}, "tags is 'a', not a list"),
        ({"tags": ["a", 1]}, "tags: element 2 is 1"),
        ({"people": {"Ann": {"age": 7}}}, "people: a key is 'Ann'"),
        ({"people": {"ann": {"age": "7"}}}, "people: ann: age is '7'"),
        ({"people": []}, "people is .*, not an object"),
        ({"extra": 1}, r"unknown members \['extra'\]"),
    ],
)
def test_deviation_is_named_by_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_shape({**SOUND, **changes}, SHAPE)


def test_missing_member_is_named() -> None:
    with pytest.raises(ValueError, match=r"lacks members \['count'\]"):
        require_shape({k: v for k, v in SOUND.items() if k != "count"}, SHAPE)


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(ValueError, match=r"\.\.\.") as error:
        require_shape({**SOUND, "count": "x" * 10_000}, SHAPE)
    assert len(str(error.value)) < 200
