"""Ledgers whose columns have other types: they work as a whole, or one refusal names the column."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.check import (
    check_ledger,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.origin import (
    log_in_force,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.restore import (
    find_damage,
    put_back,
)
from tests.ledgers import LedgerWriter, Stack, fill, make_stack, verify_all_chains

TEXTS = ("abn", "tax_type", "period_id")
HASHES = ("bank_receipt_hash", "prev_hash", "hash_after")
AMOUNTS = ("amount_cents", "balance_after_cents")


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> Stack:
    return make_stack(database_url, tmp_path)


def retype(stack: Stack, kind: str, *columns: str) -> None:
    for column in columns:
        stack.execute(
            f"ALTER TABLE owa_ledger ALTER COLUMN {column} TYPE {kind} USING {column}::{kind}"
        )


def require_sound(stack: Stack, rows: int) -> None:
    verify_all_chains(stack)
    with stack.connection() as connection:
        found = check_ledger(connection, stack.store, stack.policy)
    assert (found.rows, found.admitted, found.problems) == (rows, rows, [])
    full = stack.snapshot(verify="full")
    assert (full.tree_size, full.checked_rows, full.deviations) == (rows, rows, [])


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("varchar", TEXTS),
        ("varchar(20)", TEXTS),
        ("char(11)", ("abn",)),
        ("char(7)", ("period_id",)),
        ("char(10)", ("tax_type",)),
        ("char(64)", HASHES),
        ("varchar(64)", HASHES),
        ("integer", ("id",)),
        ("smallint", ("id",)),
        ("integer", AMOUNTS),
        ("numeric(18,0)", AMOUNTS),
        ("numeric(12)", AMOUNTS),
        ("cents", AMOUNTS),
        ("digest", HASHES),
        ("small_cents", AMOUNTS),
        ("receipt", HASHES),
    ],
)
def test_these_work_as_a_whole(stack: Stack, kind: str, columns: tuple[str, ...]) -> None:
    stack.execute("CREATE DOMAIN cents AS bigint CHECK (VALUE < 1::bigint << 50)")
    stack.execute("CREATE DOMAIN digest AS varchar(64)")
    stack.execute("CREATE DOMAIN small_cents AS cents CHECK (VALUE > -(1::bigint << 50))")
    stack.execute("CREATE DOMAIN receipt AS digest")
    retype(stack, kind, *columns)
    writer = LedgerWriter()
    fill(stack, writer, 300)
    first = stack.snapshot()
    assert (first.tree_size, first.deviations) == (300, [])
    fill(stack, writer, 40)
    second = stack.snapshot()
    assert (second.new_rows, second.deviations) == (40, [])
    require_sound(stack, 340)

    stack.execute("UPDATE owa_ledger SET amount_cents = amount_cents + 1 WHERE id = 7")
    with pytest.raises(ApgmsError) as caught:
        stack.snapshot(verify="full")
    assert caught.value.details["changed_ids"] == [["7", "7"]]
    stack.execute("DELETE FROM owa_ledger WHERE id IN (7, 9)")
    with stack.connection() as connection, connection.transaction():
        log = log_in_force(stack.store, stack.policy)
        damage = find_damage(connection, log)
        assert damage.words == "missing: 7, 9"
        put_back(connection, log, damage)
    require_sound(stack, 340)

    stack.execute("UPDATE owa_ledger SET hash_after = upper(hash_after) WHERE id = 340")
    fill(stack, writer, 1)
    with pytest.raises(ApgmsError) as caught:
        stack.snapshot()
    assert caught.value.details["changed_ids"] == [["340", "340"]]


def test_types_that_the_server_quotes_are_the_same(stack: Stack) -> None:
    [(name,)] = stack.execute("SELECT current_database()")
    stack.execute(f"ALTER DATABASE {name} SET quote_all_identifiers = on")
    retype(stack, "varchar(20)", *TEXTS)
    fill(stack, LedgerWriter(), 20)
    assert stack.snapshot().deviations == []
    require_sound(stack, 20)


@pytest.mark.parametrize(
    ("column", "kind", "using"),
    [
        ("abn", "bigint", "abn::bigint"),
        ("abn", "numeric(11,0)", "abn::numeric"),
        ("tax_type", "tax", "tax_type::tax"),
        ("period_id", "date", "(period_id || '-01')::date"),
        ("amount_cents", "numeric", "amount_cents"),
        ("amount_cents", "numeric(12,2)", "amount_cents"),
        ("balance_after_cents", "numeric(30,0)", "balance_after_cents"),
        ("balance_after_cents", "double precision", "balance_after_cents"),
        ("amount_cents", "text", "amount_cents::text"),
        ("hash_after", "bytea", "decode(hash_after, 'hex')"),
        ("bank_receipt_hash", "text[]", "ARRAY[bank_receipt_hash]"),
        ("id", "numeric", "id"),
        ("id", "uuid", "gen_random_uuid()"),
        ("amount_cents", "long_cents", "amount_cents"),
    ],
)
def test_any_other_is_refused_by_name_before_anything_is_stored(
    stack: Stack, column: str, kind: str, using: str
) -> None:
    fill(stack, LedgerWriter(), 3)
    stack.execute("CREATE TYPE tax AS ENUM ('GST', 'PAYGW')")
    stack.execute("CREATE DOMAIN any_cents AS numeric(30,0)")
    stack.execute("CREATE DOMAIN long_cents AS any_cents")
    stack.execute("ALTER TABLE owa_ledger ALTER COLUMN id DROP DEFAULT")
    stack.execute(f"ALTER TABLE owa_ledger ALTER COLUMN {column} TYPE {kind} USING {using}")
    for verify in ("incremental", "full"):
        with pytest.raises(ApgmsError) as caught:
            stack.snapshot(verify=verify)
        assert caught.value.reason == "log.column_type"
        told = "numeric(30,0)" if kind == "long_cents" else kind
        assert f"Why: {column} is {told}; what works is " in str(caught.value)
    assert list(stack.store.keys("log/")) == []


def test_a_collation_that_takes_unlike_texts_for_the_same_is_refused(stack: Stack) -> None:
    fill(stack, LedgerWriter(), 3)
    stack.execute('CREATE COLLATION alike FROM "C"')
    stack.execute("ALTER TABLE owa_ledger ALTER COLUMN period_id TYPE text COLLATE alike")
    stack.execute(
        "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'alike'"
    )  # what ICU makes, which not every PostgreSQL has
    with pytest.raises(ApgmsError, match=r"period_id is text of the .* collation alike") as caught:
        stack.snapshot()
    assert caught.value.reason == "log.column_type"
