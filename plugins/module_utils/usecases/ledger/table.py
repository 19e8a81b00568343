# GNU General Public License v3.0+ (see COPYING)
"""What owa_ledger must be for its log: a table that is seen whole, with columns of certain types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...domain.ledger.extent import compress, shown
from ...errors import ApgmsError
from ...ports.database import columns

if TYPE_CHECKING:
    from ...ports.database import Connection

TABLE = "owa_ledger"
INTEGERS = ("bigint", "integer", "smallint")
EXACT_DIGITS = 18
AMOUNTS = (*INTEGERS, f"numeric({EXACT_DIGITS},0) or less")
TEXTS = ("text", "character varying", "character")
CORE_COLUMNS = {
    "id": INTEGERS,
    "abn": TEXTS,
    "tax_type": TEXTS,
    "period_id": TEXTS,
    "amount_cents": AMOUNTS,
    "balance_after_cents": AMOUNTS,
    "bank_receipt_hash": TEXTS,
    "prev_hash": TEXTS,
    "hash_after": TEXTS,
}
"""The columns that the chain rule needs, and of which types, with or without a length."""
NEVER_NULL = ("abn", "tax_type", "period_id", "amount_cents", "balance_after_cents")
_TABLE_KINDS = ("r", "p")
_ALIKE = """
SELECT attname::text, collname::text FROM pg_attribute JOIN pg_collation AS c ON c.oid = attcollation
WHERE attrelid = to_regclass(%s) AND attname = ANY(%s) AND NOT collisdeterministic ORDER BY attnum
"""
"""Columns in which the database takes unlike texts for the same: of chains it would see fewer."""
_TYPE = re.compile(r"([a-z ]+)(?:\(([0-9]+)(?:,([0-9]+))?\))?")


def ledger_columns(connection: Connection) -> list[str]:
    """Return the columns of owa_ledger, in table order; those that the chain rule reads are there.

    :raises ApgmsError: ``log.missing_column`` where one is not there, ``log.column_type`` where it
        has a type whose values the rule cannot be checked on
    """
    found = columns(connection, TABLE)
    missing = [name for name in CORE_COLUMNS if name not in found]
    if missing:
        raise ApgmsError(
            "log.missing_column",
            "The ledger lacks columns without which no chain can be checked",
            where=f"table {TABLE}",
            why=f"there is no column {', '.join(missing)}",
            mend="run the migrations of APGMS, or point apgms_database_url at its database",
        )
    wrong = {name: found[name] for name in CORE_COLUMNS if not _fits(found[name], name)}
    if wrong:
        raise _wrong_types(wrong)
    return list(found)


def require_ledger(connection: Connection) -> None:
    """Require of owa_ledger what a log of it takes for granted.

    :raises ApgmsError: those of :func:`ledger_columns` and :func:`require_unique_ids`, and
        ``log.not_a_table`` where it is a view or a foreign table: these may hide rows, and who
        writes the rows behind them cannot be seen
    """
    ledger_columns(connection)
    kind = connection.execute(
        "SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%s)", [TABLE]
    ).fetchone()
    if kind is None or kind[0] not in _TABLE_KINDS:
        raise _not_a_table()
    alike = connection.execute(_ALIKE, [TABLE, list(CORE_COLUMNS)]).fetchall()
    if alike:
        raise _wrong_types(
            {name: f"text of the nondeterministic collation {c}" for name, c in alike}
        )
    require_unique_ids(connection)


def require_unique_ids(connection: Connection) -> None:
    """Require that all ledger rows have ids of their own; a unique index is believed.

    :raises ApgmsError: ``log.null_value``, ``log.duplicate_id``
    """
    without = connection.execute(f"SELECT count(*) FROM {TABLE} WHERE id IS NULL").fetchone()  # noqa: S608
    if without and without[0]:
        raise null_values(f"{without[0]} rows have no id")
    if indexed_uniquely(connection, ("id",)):
        return
    shared = connection.execute(
        f"SELECT id FROM {TABLE} GROUP BY id HAVING count(*) > 1 ORDER BY id"  # noqa: S608
    ).fetchall()
    if shared:
        ids = shown(compress(row[0] for row in shared))
        raise ApgmsError(
            "log.duplicate_id",
            "Ledger rows share an id",
            where=f"table {TABLE}",
            why=f"there is more than one row of each of the ids {ids}",
            mend="find out who dropped the primary key and inserted rows; the log says which rows "
            "it admitted (docs/ledger-log.md)",
        )


def indexed_uniquely(connection: Connection, key: Sequence[str]) -> bool:
    """Return whether an index makes ``key`` unique; it may leave out a NULL in its last column.

    An index does not see the rows of tables that inherit from the ledger.
    """
    partial = f"({key[-1]} IS NOT NULL)"
    return not _is_inherited(connection) and any(
        unique and set(names) <= set(key) and predicate in (None, partial)
        for unique, predicate, names in _indexes(connection)
    )


def _is_inherited(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT relkind = 'r' AND relhassubclass FROM pg_class WHERE oid = to_regclass(%s)", [TABLE]
    ).fetchone()
    return row == (True,)


def indexed_in_order(connection: Connection, key: Sequence[str]) -> bool:
    """Return whether an index over all rows has exactly the columns of ``key``."""
    return any(
        predicate is None and list(names) == list(key)
        for _unique, predicate, names in _indexes(connection)
    )


def _indexes(connection: Connection) -> list[tuple[bool, str | None, list[str]]]:
    return connection.execute(
        """
        SELECT indisunique, pg_get_expr(indpred, indrelid),
               ARRAY(SELECT attname::text FROM unnest(indkey[0:indnkeyatts - 1])
                     WITH ORDINALITY AS part (number, place)
                     JOIN pg_attribute ON attrelid = indrelid AND attnum = number ORDER BY place)
        FROM pg_index WHERE indrelid = to_regclass(%s) AND indisvalid AND indexprs IS NULL
        """,
        [TABLE],
    ).fetchall()


def require_present(connection: Connection, names: Sequence[str]) -> None:
    """Require that the ledger has the columns ``names``.

    :raises ApgmsError: ``log.column_gone``
    """
    present = ledger_columns(connection)
    if gone := [name for name in names if name not in present]:
        raise _column_gone(gone)


def _fits(kind: str, column: str) -> bool:
    """Return whether the chain rule can be checked on a column of this type."""
    match = _TYPE.fullmatch(kind.replace('"', ""))  # quote_all_identifiers quotes types too
    if match is None:
        return False
    name, digits, decimals = match.groups()
    if name == "numeric":
        whole = digits is not None and int(digits) <= EXACT_DIGITS and not int(decimals or 0)
        return whole and CORE_COLUMNS[column] is AMOUNTS
    return name in CORE_COLUMNS[column]


def _not_a_table() -> ApgmsError:
    return ApgmsError(
        "log.not_a_table",
        "The ledger is not a table of this database",
        where=TABLE,
        why="a view or a foreign table may hide rows, and hides who writes them",
        mend="point apgms_database_url, or the search_path of its role, at the table itself",
    )


def _wrong_types(found: dict[str, str]) -> ApgmsError:
    return ApgmsError(
        "log.column_type",
        "The ledger has a column of a type that the chain rule cannot be checked on",
        where=f"table {TABLE}",
        why="; ".join(
            f"{name} is {kind}; what works is {', '.join(CORE_COLUMNS[name])}"
            for name, kind in found.items()
        ),
        mend="have the owner of the table change its type (ALTER TABLE ... ALTER COLUMN ... TYPE), "
        "or point apgms_database_url at the database of APGMS",
    )


def _column_gone(gone: list[str]) -> ApgmsError:
    return ApgmsError(
        "log.column_gone",
        "The ledger lacks a column that its log covers",
        where=f"table {TABLE}",
        why=f"there is no column {', '.join(gone)} any more, so no row can be compared",
        mend="put the column back with its values, or open a new origin under a signed restore "
        "statement (docs/ledger-log.md, Restore)",
    )


def null_values(why: str) -> ApgmsError:
    """Return the refusal of rows that lack a value without which they cannot be counted."""
    return ApgmsError(
        "log.null_value",
        "Ledger rows lack a value without which they stand in no chain",
        where=f"table {TABLE}",
        why=why,
        mend="have the owner of the table correct these rows and declare the columns NOT NULL, "
        "then run the same command again",
    )
