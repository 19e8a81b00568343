# GNU General Public License v3.0+ (see COPYING)
"""The chain rule, balances and uniqueness of owa_ledger, checked by the database in sets.

The database finds the rows that are not valid beyond doubt; ``domain.chain`` says what is wrong
with each.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from ...domain.ledger.chain import (
    DUPLICATE_RECEIPT,
    DUPLICATE_TRANSFER,
    KINDS,
    Chain,
    Link,
    deviations,
)
from ...domain.ledger.extent import IdRange
from ...libraries import sql
from .rows import indexed_in_order, indexed_uniquely

if TYPE_CHECKING:
    from ...ports.database import Connection

MAX_NAMED = 1000
CHAIN_KEY = ("abn", "tax_type", "period_id")
CHAIN_NUMBER: LiteralString = (
    "hashtextextended(abn, hashtextextended(tax_type, hashtextextended(period_id, {})))"
)
"""The number that stands for a chain while rows are sorted; its argument is drawn anew each time."""


@dataclass(frozen=True)
class Deviation:
    """The rows that deviate in one way: how many, and the ids of the first thousand ranges."""

    kind: str
    count: int
    ids: tuple[IdRange, ...]

    def document(self) -> dict[str, object]:
        """Return the deviation as JSON values; ids are strings."""
        ids = [[str(one.first), str(one.last)] for one in self.ids]
        return {"kind": self.kind, "count": self.count, "ids": ids}


@dataclass(frozen=True)
class Scope:
    """Which rows to check: ids above ``after`` up to ``upto``; ``after`` None means all of them.

    ``late`` rows stand below ``after``; their whole chains are checked again.
    """

    after: int | None
    upto: int
    late: tuple[int, ...] = ()


@dataclass
class _Tally:
    count: int
    ids: list[IdRange]

    def add(self, row_id: int) -> None:
        self.count += 1
        if self.ids and self.ids[-1].last == row_id - 1:
            self.ids[-1] = IdRange(self.ids[-1].first, row_id)
        elif len(self.ids) < MAX_NAMED:
            self.ids.append(IdRange(row_id, row_id))


def check_chains(connection: Connection, names: Sequence[str], scope: Scope) -> list[Deviation]:
    """Return the deviations of the rows in ``scope``: none where all of them are valid.

    :param names: the columns of owa_ledger
    """
    tallies: dict[str, _Tally] = {}
    for row_id, kind in _found(connection, names, scope):
        tallies.setdefault(kind, _Tally(0, [])).add(row_id)
    order = sorted(tallies, key=KINDS.index)
    return [Deviation(kind, tallies[kind].count, tuple(tallies[kind].ids)) for kind in order]


def deviating_rows(
    connection: Connection, chains: sql.Composable
) -> Iterator[tuple[Chain, int, str]]:
    """Yield the rows of some chains that are not valid: chain, id, and the kind of the deviation.

    :param chains: a query for their (abn, tax_type, period_id)
    """
    yield from _deviating(connection, [_rows("true", _of_chains(chains), _salt())])


def _found(connection: Connection, names: Sequence[str], scope: Scope) -> Iterator[tuple[int, str]]:
    for _chain, row_id, kind in _deviating(connection, _checked(connection, scope)):
        yield row_id, kind
    if "transfer_uuid" in names:
        for row_id in _duplicates(connection, ("transfer_uuid",), scope):
            yield row_id, DUPLICATE_TRANSFER
    for row_id in _duplicates(connection, (*CHAIN_KEY, "bank_receipt_hash"), scope):
        yield row_id, DUPLICATE_RECEIPT


def _deviating(
    connection: Connection, selections: Iterable[sql.Composable]
) -> Iterator[tuple[Chain, int, str]]:
    for chain, row_id, link, previous in _doubtful(connection, selections):
        for kind in deviations(link, previous):
            yield chain, row_id, kind


def _doubtful(
    connection: Connection, selections: Iterable[sql.Composable]
) -> Iterator[tuple[Chain, int, Link, Link | None]]:
    for checked in selections:
        query = sql.SQL("COPY ({}) TO STDOUT").format(_not_valid(checked))
        with connection.cursor().copy(query) as copy:
            copy.set_types(["text"] * 3 + ["int8"] * 3 + ["text"] * 4 + ["int8"])
            for *key, row_id, amount, balance, receipt, prev, after, old_hash, old in copy.rows():
                link = Link(amount, balance, receipt, prev, after)
                previous = None
                if old is not None:
                    previous = Link(0, old, None, None, old_hash)
                yield Chain(*key), row_id, link, previous


def _not_valid(checked: sql.Composable) -> sql.Composable:
    """Select the rows that are not valid beyond doubt, with what the rule reads of the row before.

    Rows are brought into the order of their chains by a number that stands for the chain: sorting
    by 64 bits takes the same time however the chains lie in the table, which reading along an index
    does not. The number is salted anew each time, so which chains share one is chance, 2**-64 for
    two of them; their rows then stand in doubt, and the row before is looked up by its chain. Sums
    that could leave 64 bits are taken in numeric.
    """
    return sql.SQL("""
        SELECT now.abn, now.tax_type, now.period_id, now.id, now.amount_cents::bigint,
               now.balance_after_cents::bigint, now.bank_receipt_hash, now.prev_hash,
               now.hash_after, before.hash_after, before.balance_after_cents::bigint
        FROM (SELECT id, prev_hash, amount_cents, balance_after_cents, good, wanted,
                     lag(id) OVER chain AS before_id, lag(hash_after) OVER chain AS before_hash,
                     lag(balance_after_cents) OVER chain AS before_balance
              FROM ({checked}) AS checked
              WINDOW chain AS (PARTITION BY chain ORDER BY id)) AS linked
        JOIN owa_ledger AS now ON now.id = linked.id
        LEFT JOIN LATERAL (
            SELECT abn, tax_type, period_id, hash_after, balance_after_cents FROM owa_ledger
            WHERE owa_ledger.id = linked.before_id) AS neighbour ON true
        LEFT JOIN LATERAL (
            SELECT neighbour.hash_after, neighbour.balance_after_cents WHERE {same}
            UNION ALL
            (SELECT hash_after, balance_after_cents FROM owa_ledger AS earlier
             WHERE NOT ({same}) AND (earlier.abn, earlier.tax_type, earlier.period_id)
                                   = (now.abn, now.tax_type, now.period_id) AND earlier.id < now.id
             ORDER BY earlier.id DESC LIMIT 1)) AS before ON true
        WHERE linked.wanted AND (
              linked.good
              AND coalesce(linked.prev_hash, '') = coalesce(linked.before_hash, '')
              AND CASE WHEN linked.amount_cents BETWEEN -1::bigint << 61 AND 1::bigint << 61
                        AND coalesce(linked.before_balance, 0)
                            BETWEEN -1::bigint << 61 AND 1::bigint << 61
                  THEN linked.balance_after_cents
                       = coalesce(linked.before_balance, 0) + linked.amount_cents
                  ELSE linked.balance_after_cents
                       = coalesce(linked.before_balance, 0)::numeric + linked.amount_cents END
        ) IS NOT TRUE
        ORDER BY now.id""").format(
        checked=checked,
        same=sql.SQL(
            "(neighbour.abn, neighbour.tax_type, neighbour.period_id)"
            " = (now.abn, now.tax_type, now.period_id)"
        ),
    )


def _checked(connection: Connection, scope: Scope) -> Iterator[sql.Composable]:
    """Yield selections of the rows to check, each with the rows before them in their chains."""
    salt = _salt()
    upto = sql.SQL("id <= {}").format(sql.Literal(scope.upto))
    if scope.after is None:
        yield _rows("true", upto, salt)
        return
    fresh = sql.SQL("id > {} AND {}").format(sql.Literal(scope.after), upto)
    if scope.late:
        late = sql.SQL("id = ANY({})").format(sql.Literal(list(scope.late)))
        below = sql.SQL("id <= {}").format(sql.Literal(scope.after))
        yield _rows("true", sql.SQL("{} AND {}").format(below, _same_chains(late)), salt)
    yield sql.SQL("{} UNION ALL {}").format(
        _rows("true", fresh, salt),
        _rows("false", _heads(connection, fresh, scope.after), salt),
    )


def _rows(wanted: LiteralString, where: sql.Composable, salt: int) -> sql.Composable:
    return sql.SQL(
        "SELECT id, amount_cents::bigint, balance_after_cents::bigint, prev_hash, hash_after,"
        " {} AS wanted, hash_after = encode(sha256(convert_to("
        "  concat(prev_hash, bank_receipt_hash, balance_after_cents), 'UTF8')), 'hex') AS good,"
        " {} AS chain FROM owa_ledger WHERE {}"
    ).format(sql.SQL(wanted), sql.SQL(CHAIN_NUMBER).format(sql.Literal(salt)), where)


def _salt() -> int:
    return secrets.randbits(63)


def _same_chains(where: sql.Composable) -> sql.Composable:
    return _of_chains(
        sql.SQL("SELECT abn, tax_type, period_id FROM owa_ledger WHERE {}").format(where)
    )


def _of_chains(chains: sql.Composable) -> sql.Composable:
    return sql.SQL("(abn, tax_type, period_id) IN ({})").format(chains)


def _heads(connection: Connection, fresh: sql.Composable, after: int) -> sql.Composable:
    """Select, by id, the last row up to ``after`` of each chain that has fresh rows."""
    if indexed_in_order(connection, (*CHAIN_KEY, "id")):
        return sql.SQL(
            "id IN (SELECT (SELECT max(id) FROM owa_ledger AS before"
            "  WHERE before.abn = chain.abn AND before.tax_type = chain.tax_type"
            "  AND before.period_id = chain.period_id AND before.id <= {})"
            " FROM (SELECT DISTINCT abn, tax_type, period_id FROM owa_ledger WHERE {}) AS chain)"
        ).format(sql.Literal(after), fresh)
    return sql.SQL(
        "id IN (SELECT max(id) FROM owa_ledger WHERE id <= {} AND {}"
        " GROUP BY abn, tax_type, period_id)"
    ).format(sql.Literal(after), _same_chains(fresh))


def _duplicates(connection: Connection, key: Sequence[str], scope: Scope) -> Iterable[int]:
    """Return the ids of rows that share a key which must be unique; a unique index is believed."""
    if indexed_uniquely(connection, key):
        return ()
    names = sql.SQL(", ").join(map(sql.Identifier, key))
    query = sql.SQL(
        "SELECT unnest(ids) FROM (SELECT array_agg(id) AS ids FROM owa_ledger"
        " WHERE id <= {} AND {} IS NOT NULL AND {} GROUP BY {} HAVING count(*) > 1) AS shared"
        " ORDER BY 1"
    ).format(sql.Literal(scope.upto), sql.Identifier(key[-1]), _sharing(names, scope), names)
    return (row[0] for row in connection.execute(query))


def _sharing(names: sql.Composable, scope: Scope) -> sql.Composable:
    if scope.after is None:
        return sql.SQL("true")
    return sql.SQL(
        "({}) IN (SELECT {} FROM owa_ledger WHERE id > {} OR id = ANY({}::bigint[]))"
    ).format(names, names, sql.Literal(scope.after), sql.Literal(list(scope.late)))
