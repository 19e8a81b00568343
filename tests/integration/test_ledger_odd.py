"""Ledgers as odd operators keep them: they work, or one refusal says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.check import (
    Findings,
    check_ledger,
)
from tests.conftest import APGMS_SCHEMA
from tests.ledgers import INSERT, LedgerWriter, Stack, fill, make_stack, refusal


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> Stack:
    return make_stack(database_url, tmp_path)


@pytest.fixture
def writer() -> LedgerWriter:
    return LedgerWriter()


def check(stack: Stack) -> Findings:
    with stack.connection() as connection:
        return check_ledger(connection, stack.store, stack.policy)


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"])
def test_what_may_hide_rows_is_no_ledger(stack: Stack, writer: LedgerWriter, kind: str) -> None:
    fill(stack, writer, 20)
    stack.execute("ALTER TABLE owa_ledger RENAME TO hidden")
    if kind == "FOREIGN TABLE":
        stack.execute("CREATE FOREIGN DATA WRAPPER none")
        stack.execute("CREATE SERVER far FOREIGN DATA WRAPPER none")
        columns = stack.execute(
            "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ')"
            " FROM pg_attribute WHERE attrelid = 'hidden'::regclass AND attnum > 0"
        )[0][0]
        stack.execute(f"CREATE FOREIGN TABLE owa_ledger ({columns}) SERVER far")
    else:
        stack.execute(f"CREATE {kind} owa_ledger AS SELECT * FROM hidden WHERE tax_type = 'GST'")
    for verify in ("incremental", "full"):
        assert refusal(stack, verify=verify).reason == "log.not_a_table"
    assert list(stack.store.keys("log/")) == []


def partition(stack: Stack) -> None:
    """Make the ledger a partitioned table; ``part1`` takes ids below 20."""
    stack.execute("ALTER TABLE owa_ledger RENAME TO old")
    stack.execute("CREATE TABLE owa_ledger (LIKE old INCLUDING DEFAULTS) PARTITION BY RANGE (id)")
    stack.execute("CREATE TABLE part1 PARTITION OF owa_ledger FOR VALUES FROM (0) TO (20)")
    stack.execute("CREATE TABLE part2 PARTITION OF owa_ledger DEFAULT PARTITION BY RANGE (id)")
    stack.execute("CREATE TABLE part3 PARTITION OF part2 DEFAULT")


def inherit(stack: Stack) -> None:
    """Give the ledger a child, the way of tables before there were partitions."""
    stack.execute("CREATE TABLE part1 () INHERITS (owa_ledger)")


@pytest.mark.parametrize(
    ("divide", "part"), [(partition, "part1"), (partition, "part3"), (inherit, "part1")]
)
def test_who_writes_a_part_of_the_ledger_alone_is_waited_for(
    stack: Stack, writer: LedgerWriter, divide: Callable[[Stack], None], part: str
) -> None:
    divide(stack)
    if part == "part3":
        stack.execute("SELECT setval('owa_ledger_id_seq', 30)")
    fill(stack, writer, 1)
    with psycopg.connect(stack.url) as slow:
        slow.execute(INSERT.replace("owa_ledger", part), writer.row())
        assert len(stack.snapshot(wait_seconds=0.1).unfinished) == 1
        slow.commit()
    second = stack.snapshot()
    assert (second.tree_size, second.unfinished) == (2, [])


def test_a_partitioned_ledger_is_one(stack: Stack, writer: LedgerWriter) -> None:
    partition(stack)
    for size in (30, 60):
        fill(stack, writer, 30)
        assert stack.snapshot().tree_size == size
    assert stack.snapshot(verify="full").deviations == []
    assert check(stack).problems == []


def test_a_row_without_an_id_is_not_passed_over(stack: Stack, writer: LedgerWriter) -> None:
    fill(stack, writer, 20)
    stack.snapshot()
    fill(stack, writer, 2)
    stack.execute("ALTER TABLE owa_ledger DROP CONSTRAINT owa_ledger_pkey")
    stack.execute("ALTER TABLE owa_ledger ALTER id DROP NOT NULL")
    stack.execute("CREATE UNIQUE INDEX still_unique ON owa_ledger (id)")
    stack.execute("UPDATE owa_ledger SET id = NULL WHERE id = 21")
    for verify in ("incremental", "full"):
        error = refusal(stack, verify=verify)
        assert error.reason == "log.null_value"
        assert "1 rows have no id" in str(error)
    assert check(stack).problems == ["1 rows have no id, so no log can have admitted them"]


NEVER_NULL = ("abn", "tax_type", "period_id", "amount_cents", "balance_after_cents")


@pytest.mark.parametrize("column", NEVER_NULL)
def test_a_new_row_without_a_value_is_named_before_anything_is_stored(
    stack: Stack, writer: LedgerWriter, column: str
) -> None:
    fill(stack, writer, 20)
    stack.execute(f"ALTER TABLE owa_ledger ALTER {column} DROP NOT NULL")
    stack.execute(f"UPDATE owa_ledger SET {column} = NULL WHERE id IN (7, 8)")
    for verify in ("incremental", "full"):
        error = refusal(stack, verify=verify)
        assert error.reason == "log.null_value"
        assert f"rows 7-8 lack one of {', '.join(NEVER_NULL)}" in str(error)
    assert list(stack.store.keys("log/")) == []


@pytest.mark.parametrize("column", NEVER_NULL)
def test_a_value_that_was_taken_from_a_row_is_found(
    stack: Stack, writer: LedgerWriter, column: str
) -> None:
    fill(stack, writer, 20)
    stack.snapshot()
    stack.execute(f"ALTER TABLE owa_ledger ALTER {column} DROP NOT NULL")
    stack.execute(f"UPDATE owa_ledger SET {column} = NULL WHERE id = 7")
    assert refusal(stack, verify="full").details["changed_ids"] == [["7", "7"]]
    assert "changed row: rows 7" in check(stack).problems


ODD_NAMES = (
    'a"b', "it's", "UPPER", "naïve ✓", "sp ace", "tab\tname", "new\nline", "back\\slash",
    "back\\tslash", "select", "percent%s", "{brace}", "begin", "before_end",
)  # fmt: skip


def test_columns_and_values_of_any_name_are_read_by_every_check(
    stack: Stack, writer: LedgerWriter
) -> None:
    with psycopg.connect(stack.url, autocommit=True) as connection:
        for name in ODD_NAMES:
            column = psycopg.sql.Identifier(name)
            value = psycopg.sql.Literal(f"{name}\t\\N\\")
            add = psycopg.sql.SQL("ALTER TABLE owa_ledger ADD {} text DEFAULT {}")
            connection.execute(add.format(column, value))
    for size in (30, 60):
        fill(stack, writer, 30)
        assert stack.snapshot().tree_size == size
    assert stack.snapshot(verify="full").deviations == []
    found = check(stack)
    assert (found.problems, found.admitted) == ([], 60)


def test_a_column_that_is_gone_is_named_by_the_check(stack: Stack, writer: LedgerWriter) -> None:
    stack.execute("ALTER TABLE owa_ledger ADD note text")
    fill(stack, writer, 20)
    stack.snapshot()
    stack.execute("ALTER TABLE owa_ledger DROP note")
    with pytest.raises(ApgmsError, match="no column note any more") as caught:
        check(stack)
    assert caught.value.reason == "ledger_check.column_gone"


@pytest.fixture(params=["LATIN1", "SQL_ASCII", "WIN1252"])
def encoded_url(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[str]:
    """A database of another encoding."""
    name = f"apgms_{request.param.lower()}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{request.param}'"
            " LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    url = make_conninfo(postgres_url, dbname=name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(APGMS_SCHEMA.read_bytes())
        connection.execute(f"ALTER DATABASE {name} SET client_encoding = '{request.param}'")
    yield url
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_database_of_another_encoding_works(
    encoded_url: str, tmp_path: Path, writer: LedgerWriter
) -> None:
    stack = make_stack(encoded_url, tmp_path)
    with psycopg.connect(encoded_url, autocommit=True, client_encoding="UTF8") as connection:
        connection.execute("ALTER TABLE owa_ledger ADD \"café\" text DEFAULT 'naïve'")
    for size in (30, 60):
        with psycopg.connect(encoded_url, autocommit=True, client_encoding="UTF8") as connection:
            writer.load(connection, 30)
        assert stack.snapshot().tree_size == size
    full = stack.snapshot(verify="full")
    assert (full.deviations, full.logged.columns[-1]) == ([], "café")
    assert check(stack).problems == []
