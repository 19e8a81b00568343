# GNU General Public License v3.0+ (see COPYING)
"""Reading owa_ledger for the log: one consistent view, which ids there are, rows as COPY text."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...domain.ledger.extent import (
    LEAST_ID,
    MOST_ID,
    Extent,
    IdRange,
    Scan,
    compress,
    differences,
    extents,
    ranges_of,
    scans,
    shown,
    whole,
)
from ...domain.ledger.leaf import OUTPUT_SETTINGS
from ...libraries import psycopg, sql
from ...ports.clock import Clock
from .table import NEVER_NULL, TABLE, null_values, require_present

if TYPE_CHECKING:
    from ...ports.database import Connection

_NULLABLE = """
SELECT attname::text FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attname = ANY(%s) AND NOT attnotnull ORDER BY attnum
"""
PLANNER_SETTINGS = {"jit": "off", "work_mem": "16MB", "max_parallel_workers_per_gather": "0"}
"""Measured: compiling costs more than it saves, sorting is fastest within a processor's cache, and
whoever writes the ledger meanwhile needs the other processors."""
ROWS_AT_ONCE = 1 << 10
"""How many rows are worked on together: the processor's cache holds them."""
SIGHT_SETTINGS = {"row_security": "off"}
"""A policy that hides rows from this role is an error, not a smaller ledger."""
IDS_AT_ONCE = 50_000
"""How many ids one statement asks for."""
POLL_SECONDS = 0.05
"""How long to wait before looking again whether others have ended."""
WATCH_SECONDS = 0.02
"""How long to look whether somebody is writing."""


class Writer(NamedTuple):
    """A transaction that was writing owa_ledger when the frontier was set."""

    transaction: str
    pid: int | None


class PeriodTotal(NamedTuple):
    """Rows of one tax type and period; ``amount_cents`` is their sum, ``chains`` their chains."""

    tax_type: str
    period_id: str
    rows: int
    amount_cents: int
    chains: int


def is_idle(connection: Connection) -> bool:
    """Return whether no transaction is open: in check mode one always is."""
    return bool(connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE)


def in_transaction(connection: Connection) -> bool:
    """Return whether a transaction is open, has not failed, and waits for its next statement."""
    return bool(connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS)


def sees_one_state(connection: Connection) -> bool:
    """Return whether all statements of the open transaction see one state of the database.

    In check mode they do not: rows that others commit come between them.
    """
    row = connection.execute("SELECT current_setting('transaction_isolation')").fetchone()
    return row is not None and row[0] != "read committed"


@contextlib.contextmanager
def one_view(connection: Connection) -> Iterator[None]:
    """See one state of the database in all statements inside, with values printed as leaves need.

    Inside a caller's transaction that one's isolation holds, and it keeps the settings.
    """
    idle = is_idle(connection)
    with connection.transaction():
        if idle:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        _settle(connection)
        yield


@contextlib.contextmanager
def same_view_beside(connection: Connection) -> Iterator[Connection]:
    """Yield a second connection that sees the same state as ``connection`` in :func:`one_view`."""
    exported = connection.execute("SELECT pg_export_snapshot()").fetchall()[0][0]
    same = sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(exported))
    info = connection.info
    with (
        psycopg.connect(info.dsn, password=info.password or None, autocommit=True) as second,
        second.transaction(),
    ):
        second.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        second.execute(same)
        _settle(second)
        yield second


def require_values(connection: Connection, selected: Iterable[Scan]) -> None:
    """Require that rows have what namespaces and balances are counted by.

    Costs nothing where the columns are declared NOT NULL.

    :raises ApgmsError: ``log.null_value``
    """
    nullable = [row[0] for row in connection.execute(_NULLABLE, [TABLE, list(NEVER_NULL)])]
    if not nullable:
        return
    empty = sql.SQL(" OR ").join(
        sql.SQL("{} IS NULL").format(sql.Identifier(name)) for name in nullable
    )
    found = [
        row[0]
        for scan in selected
        for row in connection.execute(
            sql.SQL("SELECT id FROM {} WHERE {} AND ({}) ORDER BY id").format(
                sql.Identifier(TABLE), _within(scan), empty
            )
        )
    ]
    if found:
        raise null_values(f"rows {shown(compress(found))} lack one of {', '.join(NEVER_NULL)}")


def newest_id(connection: Connection) -> int | None:
    """Return the highest id that can be seen; None where the ledger is empty."""
    row = connection.execute(f"SELECT max(id) FROM {TABLE}").fetchone()  # noqa: S608
    return None if row is None else row[0]


def wait_for_writers(connection: Connection, clock: Clock, seconds: float) -> list[Writer]:
    """Wait, at most ``seconds``, for the transactions that are writing owa_ledger now.

    A writer takes its lock on the table before its id, and keeps it until it ends. So once those
    that hold it now have ended, no row is outstanding below an id seen before this call, unless its
    id was taken from the sequence ahead of its statement. Nobody is blocked.

    :returns: those that have not ended in time
    """
    unfinished = set(_writers(connection))
    waited = 0.0
    while unfinished and waited < seconds:
        clock.sleep(POLL_SECONDS)
        waited += POLL_SECONDS
        unfinished &= set(_writers(connection))
    return sorted(unfinished, key=lambda writer: writer.transaction)


def being_written(connection: Connection, clock: Clock) -> bool:
    """Return whether somebody is writing owa_ledger now, or does within a moment.

    A snapshot then keeps to one connection, and so to one processor of the server.
    """
    newest = newest_id(connection)
    busy = any(_writers(connection))
    clock.sleep(WATCH_SECONDS)
    return busy or newest_id(connection) != newest


def extents_between(connection: Connection, after: int | None, upto: int) -> list[Extent]:
    """Return the ids above ``after`` and up to ``upto``."""
    first = LEAST_ID if after is None else after + 1
    counted = connection.execute(
        f"SELECT count(*), min(id), max(id) FROM {TABLE} WHERE id BETWEEN %s AND %s",  # noqa: S608
        [first, upto],
    ).fetchone()
    count, lowest, highest = counted or (0, None, None)
    if not count:
        return []
    if highest - lowest + 1 == count:
        return [whole(lowest, highest)]
    return extents(_ids_between(connection, first, upto))


def _ids_between(connection: Connection, first: int, last: int) -> Iterator[list[int]]:
    """Yield the ids from ``first`` to ``last``, ascending, in portions."""
    while first <= last:
        row = connection.execute(
            f"SELECT array_to_string(ARRAY(SELECT id FROM {TABLE} WHERE id BETWEEN %s AND %s"  # noqa: S608
            " ORDER BY id LIMIT %s), ' ')",
            [first, last, IDS_AT_ONCE],
        ).fetchone()
        if not (ids := list(map(int, row[0].split())) if row else []):
            return
        yield ids
        first = ids[-1] + 1


def missing_and_between(
    connection: Connection, planned: Sequence[Extent]
) -> tuple[list[IdRange], list[IdRange]]:
    """Return which ids of ascending extents the ledger does not have, and which it has between."""
    if not planned:
        return [], []
    portions = _ids_between(connection, planned[0].first, planned[-1].last)
    found = (each for ids in portions for each in compress(ids))
    missing: list[IdRange] = []
    between: list[IdRange] = []
    for each, is_planned in differences(ranges_of(planned), found):
        (missing if is_planned else between).append(each)
    return missing, between


def missing_ids(connection: Connection, ranges: Iterable[IdRange]) -> list[IdRange]:
    """Return which ids of ``ranges``, which ascend, the ledger does not have."""
    wanted = list(ranges)
    # OFFSET 0: each range is looked up in the index of the table, not each row among the ranges
    found = connection.execute(
        "SELECT row.id FROM unnest(%s::bigint[], %s::bigint[]) AS wanted (first, last)"  # noqa: S608
        f" CROSS JOIN LATERAL (SELECT id FROM {TABLE} AS inside"
        "  WHERE inside.id BETWEEN wanted.first AND wanted.last ORDER BY inside.id OFFSET 0) AS row",
        [[one.first for one in wanted], [one.last for one in wanted]],
    )
    there = compress(sorted(row[0] for row in found))
    return [each for each, is_wanted in differences(wanted, there) if is_wanted]


def rows(
    connection: Connection, names: Sequence[str], ranges: Iterable[IdRange]
) -> Generator[bytes, None, None]:
    """Yield ledger rows as lines of COPY text, in the order of ``ranges`` and ids.

    :raises ApgmsError: ``log.column_gone`` where the ledger has lost one of the columns ``names``
    """
    yield from scanned(connection, names, scans(ranges))


def scanned(
    connection: Connection, names: Sequence[str], selected: Iterable[Scan]
) -> Generator[bytes, None, None]:
    """Yield the ledger rows of scans as lines of COPY text.

    :raises ApgmsError: ``log.column_gone`` where the ledger has lost one of the columns ``names``
    """
    require_present(connection, names)
    for scan in selected:
        yield from copied(connection, names, _within(scan))


def copied(connection: Connection, names: Sequence[str], where: sql.Composable) -> Iterator[bytes]:
    """Yield the ledger rows for which ``where`` holds as lines of COPY text, by ascending id."""
    query = sql.SQL("COPY (SELECT {} FROM {} WHERE {} ORDER BY id) TO STDOUT").format(
        sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(TABLE), where
    )
    with connection.cursor().copy(query) as copy:
        yield from _lines(connection, copy)


def _lines(connection: Connection, copy: Any) -> Iterator[bytes]:
    """Yield the lines of a COPY; those that have arrived are taken from libpq without a wait.

    psycopg's own loop waits, and costs twice as much a line.
    """
    link = connection.pgconn
    size, line = link.get_copy_data(1)
    while size >= 0:
        if not size and not (line := copy.read()):
            return
        yield bytes(line)
        size, line = link.get_copy_data(1)
    for result in list(iter(link.get_result, None)):
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)


def period_totals(connection: Connection, selected: Sequence[Scan]) -> list[PeriodTotal]:
    """Return the totals of the rows that scans read, by tax type and period, sorted."""
    if not selected:
        return []
    query = sql.SQL(
        "SELECT tax_type, period_id, sum(rows), sum(amount), count(*) FROM ("
        "  SELECT abn, tax_type, period_id, count(*) AS rows, sum(amount_cents) AS amount"
        "  FROM {} WHERE {} GROUP BY abn, tax_type, period_id) AS chains"
        " GROUP BY tax_type, period_id"
    ).format(sql.Identifier(TABLE), sql.SQL(" OR ").join(map(_within, selected)))
    return sorted(
        PeriodTotal(tax_type, period_id, int(count), int(amount), chains)
        for tax_type, period_id, count, amount, chains in connection.execute(query)
    )


def _within(scan: Scan) -> sql.Composable:
    """Return the condition for the rows of a scan."""
    conditions = [sql.SQL("id BETWEEN {} AND {}").format(*map(sql.Literal, scan.span))]
    if scan.only is not None:
        conditions.append(sql.SQL("id::bigint <@ {}").format(_multirange(scan.only)))
    if scan.without:
        conditions.append(sql.SQL("NOT id::bigint <@ {}").format(_multirange(scan.without)))
    return sql.SQL("({})").format(sql.SQL(" AND ").join(conditions))


def _multirange(ranges: Iterable[IdRange]) -> sql.Composable:
    members = ",".join(f"[{one.first},{_open_end(one.last)}]" for one in ranges)
    return sql.SQL("{}::int8multirange").format(sql.Literal(f"{{{members}}}"))


def _open_end(last: int) -> str:
    return "" if last == MOST_ID else str(last)


def _settle(connection: Connection) -> None:
    settings = sql.SQL(", ").join(
        sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
        for name, value in {**OUTPUT_SETTINGS, **PLANNER_SETTINGS, **SIGHT_SETTINGS}.items()
    )
    connection.execute(sql.SQL("SELECT {}").format(settings))


def _writers(connection: Connection) -> Iterator[Writer]:
    """Yield who is writing the table or a part of it; who writes a partition locks that alone."""
    found: Iterable[Any] = connection.execute(
        "WITH RECURSIVE part (relid) AS (SELECT to_regclass(%s)::oid"
        "  UNION SELECT inhrelid FROM pg_inherits JOIN part ON inhparent = relid)"
        " SELECT DISTINCT virtualtransaction, pid FROM pg_locks"
        " WHERE locktype = 'relation' AND relation IN (SELECT relid FROM part) AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',"
        "              'AccessExclusiveLock')"
        " AND pid IS DISTINCT FROM pg_backend_pid()",
        [TABLE],
    )
    return (Writer(*row) for row in found)
