from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.chain import (
    BALANCE_MISMATCH,
    BROKEN_LINK,
    HASH_MISMATCH,
    LITERAL_RECEIPT,
    MD5,
    NULL_HASH,
    Link,
    deviations,
    hash_after,
    next_link,
)

AMOUNTS = st.lists(
    st.tuples(st.integers(-(2**40), 2**40), st.none() | st.text(max_size=8)), min_size=1, max_size=9
)


def chain(amounts: list[tuple[int, str | None]]) -> list[Link]:
    links: list[Link] = []
    for amount, receipt in amounts:
        links.append(next_link(links[-1] if links else None, amount, receipt))
    return links


def test_the_rule_has_nothing_between_its_parts_and_null_is_empty() -> None:
    assert hash_after("ab", "cd", -5) == hashlib.sha256(b"abcd-5").hexdigest()
    assert hash_after(None, None, 0) == hashlib.sha256(b"0").hexdigest()


@given(AMOUNTS)
def test_a_continued_chain_is_valid(amounts: list[tuple[int, str | None]]) -> None:
    links = chain(amounts)
    for previous, link in zip([None, *links], links, strict=False):
        assert deviations(link, previous) == ()
    assert links[-1].balance_after_cents == sum(amount for amount, _receipt in amounts)


@given(AMOUNTS, st.data())
def test_any_change_of_the_amount_is_found(
    amounts: list[tuple[int, str | None]], data: st.DataObject
) -> None:
    links = chain(amounts)
    place = data.draw(st.integers(0, len(links) - 1))
    difference = data.draw(st.integers().filter(bool))
    changed = replace(links[place], amount_cents=links[place].amount_cents + difference)
    assert deviations(changed, links[place - 1] if place else None) == (BALANCE_MISMATCH,)


def test_the_first_row_may_name_its_lack_of_a_predecessor_either_way() -> None:
    link = next_link(None, 10, "r")
    assert deviations(replace(link, prev_hash=""), None) == ()


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"hash_after": None}, (NULL_HASH,)),
        ({"hash_after": hash_after("p", "rcpt", 30)}, (LITERAL_RECEIPT,)),
        ({"hash_after": hashlib.md5(b"p:30").hexdigest()}, (MD5,)),
        ({"hash_after": "0" * 64}, (HASH_MISMATCH,)),
        ({"hash_after": hash_after("p", "r", 30).upper()}, (HASH_MISMATCH,)),
        ({"prev_hash": "q", "hash_after": hash_after("q", "r", 30)}, (BROKEN_LINK,)),
        ({"prev_hash": None, "hash_after": hash_after(None, "r", 30)}, (BROKEN_LINK,)),
        ({"amount_cents": 11}, (BALANCE_MISMATCH,)),
        ({"prev_hash": "q", "amount_cents": 9}, (HASH_MISMATCH, BROKEN_LINK, BALANCE_MISMATCH)),
    ],
)
def test_every_kind_of_deviation_is_told_from_the_others(
    change: dict[str, object], kinds: tuple[str, ...]
) -> None:
    previous = Link(20, 20, "r0", None, "p")
    link = replace(next_link(previous, 10, "r"), **change)  # type: ignore[arg-type]
    assert deviations(link, previous) == kinds
