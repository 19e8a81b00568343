from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.journal_chain import (
    BrokenChain,
    Row,
    next_row,
    object_key,
    parse,
    require_link,
)

bodies = st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(0, 9), max_size=3)


def chain(*events: str, stack: str = "prod") -> list[Row]:
    rows: list[Row] = []
    for event in events:
        last = rows[-1] if rows else None
        rows.append(
            next_row(
                last,
                stack=stack,
                at="2026-03-02T10:00:00.000Z",
                event=event,
                body={"n": len(rows)},
                manifest_sha256="ab" * 32,
            )
        )
    return rows


@given(bodies)
def test_a_row_is_what_its_document_says(body: dict[str, Any]) -> None:
    row = next_row(None, stack="prod", at="t", event="e", body=body, manifest_sha256=None)
    assert parse(row.document) == row
    assert row.body == body


def test_rows_link_in_their_order_only() -> None:
    first, second, third = chain("a", "b", "c")
    require_link(None, first)
    require_link(first, second)
    require_link(second, third)
    for last, row in ((first, third), (None, second), (second, first), (third, third)):
        with pytest.raises(BrokenChain):
            require_link(last, row)


def test_a_row_of_another_stack_or_history_does_not_link() -> None:
    first, _ = chain("a", "b")
    _, foreign = chain("a", "b", stack="proto")
    _, other = chain("x", "b")
    for row in (foreign, other):
        with pytest.raises(BrokenChain):
            require_link(first, row)


@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    first, second = chain("a", "b")
    place = data.draw(st.integers(0, len(first.document) - 1))
    changed = bytearray(first.document)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BrokenChain):
        require_link(parse(bytes(changed)), second)


@pytest.mark.parametrize(
    "change",
    [{"seq": "1"}, {"seq": True}, {"stack": None}, {"body": []}, {"schema": "other"}, {"more": 1}],
)
def test_what_is_no_row_is_refused(change: dict[str, Any]) -> None:
    (row,) = chain("a")
    members = {
        "schema": "apgms.release/journal/1",
        **{name: value for name, value in vars(row).items() if name != "document"},
        **change,
    }
    with pytest.raises(BrokenChain):
        parse(canonical(members))
    with pytest.raises(BrokenChain, match="not a journal row"):
        parse(b"[1, 2]")


def test_object_keys_sort_as_their_numbers() -> None:
    assert object_key(7) == "journal/0000000000000007"
    assert sorted(map(object_key, (10, 9, 100))) == list(map(object_key, (9, 10, 100)))
