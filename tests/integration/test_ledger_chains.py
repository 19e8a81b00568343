"""The chain check in sets against a walk over every chain, on ledgers of several shapes."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.chain import hash_after
from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.extent import expand
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger import (
    chain_rule,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.chain_rule import (
    Scope,
    check_chains,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.table import (
    ledger_columns,
)
from tests.ledgers import LedgerWriter, make_stack

Found = dict[str, list[int]]
BIG = 2**62
DEVIATIONS_WITHIN_A_CHAIN = (
    "hash_after = NULL",
    "hash_after = NULL, prev_hash = NULL",
    "hash_after = encode(sha256((coalesce(prev_hash, '') || 'rcpt'"
    " || balance_after_cents)::bytea), 'hex')",
    "hash_after = md5(coalesce(prev_hash, '') || ':' || balance_after_cents)",
    "hash_after = repeat('0', 64)",
    "prev_hash = repeat('1', 64)",
    "amount_cents = amount_cents + 1",
    f"amount_cents = {2**63 - 1}",
    f"amount_cents = {-(2**63)}, balance_after_cents = {-(2**63)}",
    "balance_after_cents = balance_after_cents - 1",
    "bank_receipt_hash = 'x' || bank_receipt_hash",
)
DEVIATIONS = (*DEVIATIONS_WITHIN_A_CHAIN, "period_id = '2030-01'")


def walk(connection: psycopg.Connection[Any]) -> Found:
    """What deviates, row by row: the rule as the facts of APGMS state it."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    last: dict[Any, tuple[str, int]] = {}
    rows = connection.execute(
        "SELECT id, abn, tax_type, period_id, amount_cents, balance_after_cents,"
        " bank_receipt_hash, prev_hash, hash_after FROM owa_ledger ORDER BY id"
    )
    for row_id, abn, tax_type, period, amount, balance, receipt, prev, after in rows:
        before_hash, before_balance = last.get((abn, tax_type, period), ("", 0))
        text = f"{prev or ''}{receipt or ''}{balance}"
        if after is None:
            found["null_hash"].append(row_id)
        elif after != hashlib.sha256(text.encode()).hexdigest():
            if after == hashlib.sha256(f"{prev or ''}rcpt{balance}".encode()).hexdigest():
                found["literal_receipt"].append(row_id)
            elif after == hashlib.md5(f"{prev or ''}:{balance}".encode()).hexdigest():
                found["md5"].append(row_id)
            else:
                found["hash_mismatch"].append(row_id)
        if (prev or "") != before_hash:
            found["broken_link"].append(row_id)
        if balance != before_balance + amount:
            found["balance_mismatch"].append(row_id)
        last[abn, tax_type, period] = (after or "", balance)
    return dict(found)


def checked(connection: Any, scope: Scope) -> Found:
    found = check_chains(connection, ledger_columns(connection), scope)
    for one in found:
        assert one.count == len(list(expand(one.ids)))
    return {one.kind: list(expand(one.ids)) for one in found}


@pytest.mark.parametrize("chains", [1, 3, 200])
@pytest.mark.parametrize("indexed", [True, False])
def test_the_check_in_sets_finds_what_a_walk_finds(
    database_url: str, tmp_path: Path, chains: int, indexed: bool
) -> None:
    stack = make_stack(database_url, tmp_path)
    chance = random.Random(chains)
    with stack.connection() as connection:
        if not indexed:
            connection.execute("DROP INDEX owa_ledger_chain")
        LedgerWriter(chains).load(connection, 600)
        assert checked(connection, Scope(None, 600)) == walk(connection) == {}
        for _ in range(3):
            for deviation in DEVIATIONS:
                connection.execute(
                    f"UPDATE owa_ledger SET {deviation} WHERE id = %s", [chance.randint(1, 600)]
                )
            wanted = walk(connection)
            assert checked(connection, Scope(None, 600)) == wanted
            after = chance.randint(1, 599)
            fresh = {kind: [each for each in ids if each > after] for kind, ids in wanted.items()}
            assert checked(connection, Scope(after, 600)) == {k: v for k, v in fresh.items() if v}


@pytest.mark.parametrize(
    "number", ["({salt} * 0)", "((length(tax_type)::bigint << 30) + {salt} * 0)"]
)
def test_chains_that_share_a_number_are_told_apart(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setattr(chain_rule, "CHAIN_NUMBER", number)
    stack = make_stack(database_url, tmp_path)
    chance = random.Random(number)
    with stack.connection() as connection:
        LedgerWriter(7).load(connection, 300)
        assert checked(connection, Scope(None, 300)) == {}
        for deviation in DEVIATIONS_WITHIN_A_CHAIN:
            connection.execute(
                f"UPDATE owa_ledger SET {deviation} WHERE id = %s", [chance.randint(1, 300)]
            )
        wanted = walk(connection)
        assert checked(connection, Scope(None, 300)) == wanted


@pytest.mark.parametrize("factor", [1, 10**6, 2**53])
def test_rows_are_checked_in_the_order_of_their_ids_however_far_apart(
    database_url: str, tmp_path: Path, factor: int
) -> None:
    stack = make_stack(database_url, tmp_path)
    chance = random.Random(factor)
    with stack.connection() as connection:
        LedgerWriter(7).load(connection, 300)
        connection.execute("UPDATE owa_ledger SET id = (id - 150) * %s", [factor])
        whole = Scope(None, 150 * factor)
        assert checked(connection, whole) == {} == walk(connection)
        for _ in range(3):
            one, other = chance.sample(range(-149, 151), 2)
            swap = "UPDATE owa_ledger SET id = %s WHERE id = %s"
            for new, old in ((-(2**62), one), (one, other), (other, -(2**62))):
                connection.execute(swap, [max(new * factor, -(2**62)), max(old * factor, -(2**62))])
            assert checked(connection, whole) == walk(connection) != {}


def test_the_whole_chain_of_a_late_row_is_checked_again(database_url: str, tmp_path: Path) -> None:
    stack = make_stack(database_url, tmp_path)
    with stack.connection() as connection:
        LedgerWriter(1).load(connection, 20)
        connection.execute("DELETE FROM owa_ledger WHERE id = 5")
        connection.execute("UPDATE owa_ledger SET hash_after = NULL WHERE id = 3")
        found = checked(connection, Scope(15, 20, late=(4,)))
        assert found == {"null_hash": [3], "broken_link": [4, 6], "balance_mismatch": [6]}


def test_keys_that_must_be_unique_are_looked_at_where_no_index_enforces_them(
    database_url: str, tmp_path: Path
) -> None:
    stack = make_stack(database_url, tmp_path)
    with stack.connection() as connection:
        LedgerWriter(2).load(connection, 30)
        connection.execute("DROP INDEX owa_ledger_receipt")
        connection.execute("ALTER TABLE owa_ledger DROP CONSTRAINT owa_ledger_transfer_uuid_key")
        connection.execute(
            "UPDATE owa_ledger SET transfer_uuid = (SELECT transfer_uuid FROM owa_ledger"
            " WHERE id = 2) WHERE id = 29"
        )
        connection.execute(
            "UPDATE owa_ledger l SET bank_receipt_hash = (SELECT bank_receipt_hash FROM owa_ledger"
            " WHERE id < l.id AND (abn, tax_type, period_id) = (l.abn, l.tax_type, l.period_id)"
            " ORDER BY id LIMIT 1) WHERE id = 30"
        )
        full = checked(connection, Scope(None, 30))
        assert full["duplicate_transfer"] == [2, 29]
        assert len(full["duplicate_receipt"]) == 2
        assert full["duplicate_receipt"][1] == 30
        fresh = checked(connection, Scope(28, 30))
        assert fresh["duplicate_transfer"] == [2, 29]
        assert fresh["duplicate_receipt"] == full["duplicate_receipt"]


def test_many_rows_that_deviate_are_counted_and_named_as_ranges(
    database_url: str, tmp_path: Path
) -> None:
    stack = make_stack(database_url, tmp_path)
    with stack.connection() as connection:
        LedgerWriter(5).load(connection, 3000)
        connection.execute("UPDATE owa_ledger SET hash_after = NULL, prev_hash = NULL")
        [found] = check_chains(connection, ledger_columns(connection), Scope(None, 3000))
        assert (found.kind, found.count, found.ids) == ("null_hash", 3000, ((1, 3000),))
        connection.execute("DELETE FROM owa_ledger WHERE id % 2 = 0")
        [found] = [
            one
            for one in check_chains(connection, ledger_columns(connection), Scope(None, 3000))
            if one.kind == "null_hash"
        ]
        assert (found.count, len(found.ids)) == (1500, 1000)


def test_amounts_at_the_end_of_64_bits_are_added_exactly(database_url: str, tmp_path: Path) -> None:
    stack = make_stack(database_url, tmp_path)
    with stack.connection() as connection:
        balance, prev = 0, None
        for number, amount in enumerate([BIG, BIG - 1, -BIG, 2**62 - 1, -(2**63 - 1)]):
            balance += amount
            after = hash_after(prev, f"r{number}", balance)
            connection.execute(
                "INSERT INTO owa_ledger (abn, tax_type, period_id, transfer_uuid, amount_cents,"
                " balance_after_cents, bank_receipt_hash, prev_hash, hash_after)"
                " VALUES ('1', 'GST', '2025-09', gen_random_uuid(), %s, %s, %s, %s, %s)",
                [amount, balance, f"r{number}", prev, after],
            )
            prev = after
        assert checked(connection, Scope(None, 5)) == {} == walk(connection)
        connection.execute("UPDATE owa_ledger SET amount_cents = amount_cents - 1 WHERE id = 2")
        assert checked(connection, Scope(None, 5)) == {"balance_mismatch": [2]}
