# GNU General Public License v3.0+ (see COPYING)
"""Load the rows of a synthetic ledger with COPY, in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from ...domain.tax.synthetic import Plan
from ...libraries import psycopg, sql
from .seed_rows import LEDGER_COLUMNS, SOURCE_COLUMNS, Rows, RowWriter

if TYPE_CHECKING:
    from ...ports.database import Connection

SOURCE_TABLES = """
CREATE SCHEMA IF NOT EXISTS apgms_sandbox;
CREATE TABLE IF NOT EXISTS apgms_sandbox.payroll_line (
    abn text NOT NULL,
    period_id text NOT NULL,
    payee integer NOT NULL,
    scale text NOT NULL,
    frequency text NOT NULL,
    gross_cents bigint NOT NULL,
    withheld_cents bigint NOT NULL,
    payments integer NOT NULL
);
CREATE TABLE IF NOT EXISTS apgms_sandbox.trade_line (
    abn text NOT NULL,
    period_id text NOT NULL,
    item integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('sale', 'purchase')),
    gst_code text NOT NULL,
    price_cents bigint NOT NULL,
    gst_cents bigint NOT NULL,
    quantity integer NOT NULL
);
"""
ENTITIES_AT_ONCE = 500
Counts = dict[str, int]
"""Rows by table."""


def load_ledger(
    connection: Connection,
    plan: Plan,
    sign: Callable[[bytes], bytes],
    *,
    sources: bool,
    progress: Callable[[int], None] = lambda entities: None,
) -> Counts:
    """Add the rows of ``plan`` to the APGMS tables; return how many, by table.

    :param sources: also fill the sandbox's own tables of payroll and trade
    :param progress: told how many entities' rows have been made so far
    """
    with connection.transaction():
        if sources:
            connection.execute(SOURCE_TABLES)
        for table in LEDGER_COLUMNS:
            connection.execute(_query("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table))
        writer = RowWriter(plan, sign, _next_ids(connection), _terminal_hash(connection))
        columns = {**LEDGER_COLUMNS, **(SOURCE_COLUMNS if sources else {})}
        counts = copy_rows(connection, writer, {name: name for name in columns}, progress)
        for table in LEDGER_COLUMNS:
            _advance_sequence(connection, table)
    return counts


def copy_rows(
    connection: Connection,
    writer: RowWriter,
    targets: dict[str, str],
    progress: Callable[[int], None] = lambda entities: None,
) -> Counts:
    """Copy the rows of every entity into ``targets`` (table to the table that takes its rows).

    The ledger, by far the largest table, is streamed: the database takes in the rows of one entity
    while those of the next are made. The rows of the other tables follow for some entities at a
    time.
    """
    counts = dict.fromkeys(targets, 0)
    made = writer.rows()
    done = 0
    while some := _copy_ledger(connection, targets, islice(made, ENTITIES_AT_ONCE)):
        for table in targets.keys() - {"owa_ledger"}:
            lines = [line for rows in some for line in rows[table]]
            with _copy(connection, table, targets[table]) as copy:
                copy.write("".join(lines))
        for table in targets:
            counts[table] += sum(len(rows[table]) for rows in some)
        done += len(some)
        progress(done)
    return counts


def count_rows(
    plan: Plan, sign: Callable[[bytes], bytes], progress: Callable[[int], None]
) -> Counts:
    """Return how many rows ``plan`` makes, by table, without a database."""
    counts: Counter[str] = Counter()
    writer = RowWriter(plan, sign, dict.fromkeys(LEDGER_COLUMNS, 1), "")
    for done, rows in enumerate(writer.rows(), start=1):
        counts.update({table: len(lines) for table, lines in rows.items()})
        progress(done)
    return dict(counts)


def table_name(table: str) -> sql.Identifier:
    """Return a table's name, quoted, with its schema if it has one."""
    return sql.Identifier(*table.split("."))


def key_of(table: str) -> str:
    """Return the key column of an APGMS table."""
    return LEDGER_COLUMNS[table].partition(",")[0]


def _copy_ledger(
    connection: Connection, targets: dict[str, str], made: Iterable[Rows]
) -> list[Rows]:
    some = []
    with _copy(connection, "owa_ledger", targets["owa_ledger"]) as copy:
        for rows in made:
            copy.write("".join(rows["owa_ledger"]))
            some.append(rows)
    return some


@contextmanager
def _copy(connection: Connection, table: str, target: str) -> Iterator[psycopg.Copy]:
    columns = {**LEDGER_COLUMNS, **SOURCE_COLUMNS}
    statement = _query("COPY {} ({}) FROM STDIN", target, columns[table])
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        yield copy


def _next_ids(connection: Connection) -> dict[str, int]:
    return {table: _highest(connection, table) + 1 for table in LEDGER_COLUMNS}


def _highest(connection: Connection, table: str) -> int:
    query = _query("SELECT coalesce(max({1}), 0) FROM {0}", table, key_of(table))
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _advance_sequence(connection: Connection, table: str) -> None:
    highest = _highest(connection, table)
    if highest:
        connection.execute(
            "SELECT setval(pg_get_serial_sequence(%s, %s), %s)", [table, key_of(table), highest]
        )


def _terminal_hash(connection: Connection) -> str:
    row = connection.execute(
        "SELECT terminal_hash FROM audit_log ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return str(row[0]) if row else ""


def _query(template: str, table: str, columns: str = "") -> sql.Composed:
    names = (sql.Identifier(name.strip()) for name in columns.split(","))
    return sql.SQL(template).format(table_name(table), sql.SQL(", ").join(names))
