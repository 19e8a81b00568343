"""The rules of a rollback against a model that knows none of its code."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.chain import Chain
from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.mirror import (
    Original,
    mirror_uuid,
    mirrors,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.image import ImageRow
from ansible_collections.apgms.release.plugins.module_utils.domain.release.obligation import Claim
from ansible_collections.apgms.release.plugins.module_utils.domain.release.restoration import (
    FINAL_PERIOD_STATES,
    FINAL_TOKEN_STATUSES,
    StateChange,
    state_changes,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.rollback_plan import (
    ChainChange,
    Plan,
    balances_digest,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.rollback_target import (
    PastRelease,
    find_target,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError

KEY = Chain("53004085616", "GST", "2025-09")
AMOUNTS = st.integers(-(10**12), 10**12)


def originals(chains: dict[Chain, tuple[list[int], list[int]]]) -> list[Original]:
    """The rows after the target of each chain (amounts kept, amounts to undo), newest first."""
    rows = []
    ids = iter(range(1, 10_000))
    for chain, (kept, undo) in chains.items():
        balance = sum(kept) + sum(undo)
        numbered = [(next(ids), amount) for amount in undo]
        for number, amount in reversed(numbered):
            rows.append(
                Original(*chain, number, str(uuid.UUID(int=number)), amount, balance, f"h{chain}")
            )
    return rows


CHAINS = st.dictionaries(
    st.builds(Chain, st.sampled_from("ABC"), st.sampled_from(["GST", "PAYGW"]), st.just("2025Q1")),
    st.tuples(st.lists(AMOUNTS, max_size=4), st.lists(AMOUNTS, min_size=1, max_size=6)),
)


@given(CHAINS, st.booleans())
def test_every_chain_ends_at_its_target_balance(
    chains: dict[Chain, tuple[list[int], list[int]]], net: bool
) -> None:
    appended = defaultdict(list)
    mirrored: list[int] = []
    for mirror in mirrors(originals(chains), net=net):
        appended[mirror.row[:3]].append(mirror.row)
        mirrored += mirror.original_ids
    for chain, (kept, undo) in chains.items():
        balance, link = sum(kept) + sum(undo), f"h{chain}"
        for row in appended[chain]:
            assert row.balance_after_cents == balance + row.amount_cents
            assert row.prev_hash == link
            text = f"{link}{row.bank_receipt_hash}{row.balance_after_cents}"
            assert row.hash_after == hashlib.sha256(text.encode()).hexdigest()
            balance, link = row.balance_after_cents, row.hash_after
        assert balance == sum(kept)
        assert len(appended[chain]) == ((sum(undo) != 0) if net else len(undo))
    assert len(mirrored) == len(set(mirrored))


@given(CHAINS, st.booleans())
def test_a_mirror_is_named_by_its_originals(
    chains: dict[Chain, tuple[list[int], list[int]]], net: bool
) -> None:
    rows = [mirror.row for mirror in mirrors(originals(chains), net=net)]
    again = [mirror.row for mirror in mirrors(originals(chains), net=net)]
    assert rows == again
    assert len({row.transfer_uuid for row in rows}) == len(rows)
    assert len({row.bank_receipt_hash for row in rows}) == len(rows)


@given(st.binary(min_size=32, max_size=32))
def test_a_mirrors_uuid_is_one_of_rfc_9562(digest: bytes) -> None:
    made = uuid.UUID(mirror_uuid(digest))
    assert made.version == 8
    assert made.variant == uuid.RFC_4122
    assert made.hex[:12] == digest.hex()[:12]


def test_a_chain_whose_last_row_has_no_hash_is_continued_without_one() -> None:
    row = Original(*KEY, 7, str(uuid.UUID(int=7)), 500, 900, None)
    (mirror,) = mirrors([row], net=False)
    assert mirror.row.prev_hash is None
    expected = hashlib.sha256(f"{mirror.row.bank_receipt_hash}400".encode()).hexdigest()
    assert mirror.row.hash_after == expected


STATES = ["OPEN", "CLOSING", "READY_RPT", "BLOCKED_ANOMALY", "RELEASED", "FINALIZED"]
STATUSES = ["ISSUED", "pending", "active", "consumed", "REVOKED"]
PERIODS = ["2025Q1", "2025Q2", "2025Q3"]


def images() -> st.SearchStrategy[list[ImageRow]]:
    periods = st.dictionaries(
        st.sampled_from(PERIODS), st.tuples(st.sampled_from(STATES), st.sampled_from("012"))
    )
    tokens = st.dictionaries(
        st.integers(1, 12), st.tuples(st.sampled_from(PERIODS), st.sampled_from(STATUSES))
    )
    return st.builds(image, periods, tokens)


def image(
    periods: dict[str, tuple[str, str]], tokens: dict[int, tuple[str, str]]
) -> list[ImageRow]:
    rows = [
        ImageRow("periods", {"id": f"{PERIODS.index(period) + 1}", "abn": "1", "tax_type": "GST",
                             "period_id": period, "state": state, "accrued_cents": cents})
        for period, (state, cents) in sorted(periods.items())
    ]  # fmt: skip
    return rows + [
        ImageRow("rpt_tokens", {"id": str(number), "abn": "1", "tax_type": "GST",
                                "period_id": period, "status": status})
        for number, (period, status) in sorted(tokens.items())
    ]  # fmt: skip


FRESH = {"state": "OPEN", "accrued_cents": "0"}
Table = dict[tuple[str, str], dict[str, str | None]]


def changes(
    target: list[ImageRow], today: list[ImageRow], held: set[Chain]
) -> Iterator[StateChange]:
    return state_changes([row.to_line() for row in target], today, held, FRESH)


def table(rows: list[ImageRow]) -> Table:
    return {(row.table, str(row.columns["id"])): dict(row.columns) for row in rows}


def applied(today: list[ImageRow], changes: list[StateChange]) -> Table:
    rows = table(today)
    for change in changes:
        rows.setdefault((change.table, change.id), {}).update(change.after)
    return rows


@given(images(), images(), st.sets(st.sampled_from(PERIODS)))
def test_states_become_the_targets_except_what_the_authority_holds(
    target: list[ImageRow], today: list[ImageRow], held: set[str]
) -> None:
    chains = {Chain("1", "GST", period) for period in held}
    after = applied(today, list(changes(target, today, chains)))
    before, wanted = table(today), table(target)
    for key in after.keys() | wanted.keys():
        row = after.get(key)
        image_row, today_row = wanted.get(key), before.get(key)
        is_held = any(found["period_id"] in held for found in (image_row, today_row) if found)
        if image_row and (not is_held or is_final(key[0], image_row)):
            assert row == image_row
        elif is_held:
            assert row == today_row
        else:
            assert row is not None
            assert row == {**(today_row or {}), **harmless(key[0], row)}


def is_final(name: str, row: dict[str, str | None]) -> bool:
    if name == "periods":
        return row["state"] in {"RELEASED", "FINALIZED"}
    return row["status"] in {"consumed", "REVOKED"}


def harmless(name: str, row: dict[str, str | None]) -> dict[str, str | None]:
    if name == "periods":
        return {"state": "OPEN", "accrued_cents": "0"}
    return {"status": "consumed" if row["status"] == "consumed" else "REVOKED"}


@given(images(), images(), st.sets(st.sampled_from(PERIODS)))
def test_what_the_authority_holds_never_becomes_releasable(
    target: list[ImageRow], today: list[ImageRow], held: set[str]
) -> None:
    chains = {Chain("1", "GST", period) for period in held}
    for change in changes(target, today, chains):
        if change.chain in chains:
            state = change.after.get("state") or change.after.get("status")
            assert state is None or state in FINAL_PERIOD_STATES | FINAL_TOKEN_STATUSES


@given(images(), images(), st.sets(st.sampled_from(PERIODS)))
def test_restoring_twice_changes_nothing_more(
    target: list[ImageRow], today: list[ImageRow], held: set[str]
) -> None:
    chains = {Chain("1", "GST", period) for period in held}
    rows = applied(today, list(changes(target, today, chains)))
    ordered = sorted(
        (ImageRow(name, columns) for (name, _), columns in rows.items()),
        key=lambda row: (row.table, int(str(row.columns["id"]))),
    )
    assert list(changes(target, ordered, chains)) == []


def test_an_image_that_is_out_of_order_is_not_used() -> None:
    rows = image({}, {2: ("2025Q1", "ISSUED"), 10: ("2025Q1", "ISSUED")})
    with pytest.raises(ValueError, match="out of order at rpt_tokens 2"):
        list(changes(rows[::-1], rows, set()))


def plan(**changes: object) -> Plan:
    made = Plan(
        stack="prod",
        target_sha256="a" * 64,
        target_tree_size=3,
        tree_size=5,
        root="b" * 64,
        net=False,
        chains=(ChainChange(*KEY, 700, 500, 2, 300, -100, 2),),
        states=(StateChange("periods", "1", KEY, "restore", {"state": "CLOSING"}, FRESH),),
        obligations=(Claim("c" * 64, 9, *KEY, 500, "accepted"),),
        standing_payouts=(1, -200),
        undone=("c" * 64,),
        balances_sha256="d" * 64,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"target_sha256": "e" * 64},
        {"tree_size": 6},
        {"root": "e" * 64},
        {"net": True},
        {"chains": ()},
        {"states": ()},
        {"obligations": ()},
        {"undone": ()},
        {"balances_sha256": "e" * 64},
        {"standing_payouts": (2, -300)},
        {"obligations": (Claim("c" * 64, 9, *KEY, 501, "accepted"),)},
    ],
)
def test_the_plan_digest_covers_every_part(change: dict[str, object]) -> None:
    assert plan(**change).digest != plan().digest


def test_the_plan_digest_is_that_of_its_lines() -> None:
    assert plan().digest == hashlib.sha256(b"".join(plan().lines())).hexdigest()


def test_totals_add_up() -> None:
    assert plan().totals() == {
        "chains": 1,
        "originals": 2,
        "entries": 2,
        "credits_cents": "300",
        "debits_cents": "-100",
        "periods": 1,
        "tokens": 0,
        "obligations": 1,
        "obligations_cents": "500",
        "standing_payouts": 1,
        "standing_payouts_cents": "-200",
        "undone_releases": 1,
    }


@given(st.dictionaries(st.text("ab", max_size=3), st.integers(-5, 5)))
def test_a_chain_at_zero_counts_as_one_that_is_not(balances: dict[str, int]) -> None:
    every = sorted((abn, "GST", "2025Q1", cents) for abn, cents in balances.items())
    assert balances_digest(every) == balances_digest(row for row in every if row[3])


def test_balances_are_told_apart() -> None:
    assert balances_digest([(*KEY, 1)]) != balances_digest([(*KEY, 2)])


def release(manifest_sha256: str, **changes: object) -> PastRelease:
    members: dict[str, object] = {
        "state": "ACKNOWLEDGED",
        "intent_at": "2025-10-01T00:00:00.000Z",
        "submission_id": "s",
        "receipt_sha256": "f" * 64,
        "approved_by": ("auditor@example.org",),
        "undone_by": None,
        "manifest": object(),
    }
    return PastRelease(manifest_sha256, **{**members, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "UNKNOWN"}, "has not acknowledged it: it is UNKNOWN"),
        ({"state": "REJECTED"}, "has not acknowledged it: it is REJECTED"),
        ({"state": "PARTIAL"}, "accepted only part of it"),
        ({"undone_by": "rollback-1"}, "rolled back itself, incident rollback-1"),
        ({"approved_by": ()}, "no approval of the auditor"),
        ({"manifest": None}, "not in the object store"),
    ],
)
def test_a_bad_target_says_why(change: dict[str, object], why: str) -> None:
    with pytest.raises(ApgmsError, match=why) as error:
        find_target([release("a" * 64, **change)], "a" * 64)
    assert error.value.reason == "rollback.bad_target"


@pytest.mark.parametrize(
    ("checksum", "reason"),
    [
        ("a" * 11, "rollback.malformed_target"),
        ("A" * 64, "rollback.malformed_target"),
        ("a" * 65, "rollback.malformed_target"),
        ("e" * 64, "rollback.unknown_target"),
        ("a" * 12, "rollback.ambiguous_target"),
    ],
)
def test_a_checksum_that_names_no_one_release(checksum: str, reason: str) -> None:
    releases = [release("a" * 64), release("a" * 63 + "b"), release("c" * 64)]
    with pytest.raises(ApgmsError) as error:
        find_target(releases, checksum)
    assert error.value.reason == reason


def test_an_unambiguous_beginning_names_a_target() -> None:
    releases = [release("a" * 64), release("a" * 63 + "b"), release("c" * 64)]
    assert find_target(releases, "c" * 12) is releases[2]
    assert find_target(releases, "a" * 64) is releases[0]
