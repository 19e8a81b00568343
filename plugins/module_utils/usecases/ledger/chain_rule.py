# GNU General Public License v3.0+ (see COPYING)
"""The chain rule, balances and uniqueness of owa_ledger, checked by the database in sets.

The database finds the rows that are not valid beyond doubt; ``domain.ledger.chain`` says what
is wrong with each.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, LiteralString

from ...domain.ledger.chain import (
    DUPLICATE_RECEIPT,
    DUPLICATE_TRANSFER,
    KINDS,
    Chain,
    Link,
    deviations,
)
from ...domain.ledger.extent import NAMED_RANGES, IdRange, pairs
from ...libraries import sql
from .table import indexed_in_order, indexed_uniquely

if TYPE_CHECKING:
    from ...ports.database import Connection

CHAIN_KEY = ("abn", "tax_type", "period_id")
CHAIN_NUMBER: LiteralString = (
    "hashtextextended(abn, hashtextextended(tax_type, hashtextextended(period_id, {salt})))"
)
"""The number that stands for a chain while rows are sorted; it is salted anew each time."""
ORDER_BITS = 24
"""Low bits of a row's sort key, which keep the order of ids; the high ones stand for its chain."""
LARGEST_SUMMAND = 1 << 61
"""Amounts and balances up to here are added in 64 bits; rows with larger ones stand in doubt."""


@dataclass(frozen=True)
class Deviation:
    """The rows that deviate in one way: how many, and the ids of the first thousand ranges."""

    kind: str
    count: int
    ids: tuple[IdRange, ...]

    def document(self) -> dict[str, object]:
        """Return the deviation as JSON values; ids are strings."""
        return {"kind": self.kind, "count": self.count, "ids": pairs(self.ids)}


@dataclass(frozen=True)
class Scope:
    """Which rows to check: ids above ``after`` up to ``upto``; ``after`` None means all of them.

    ``late`` rows stand below ``after``; their whole chains are checked again.
    """

    after: int | None
    upto: int
    late: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Selection:
    """Rows to check, among them the row before each of them in its chain."""

    parts: tuple[sql.Composable, ...]
    """Conditions, no two of which hold for the same row."""
    wanted: sql.Composable = field(default_factory=lambda: sql.SQL("true"))
    """Which of the rows, as ``linked``, are to be checked."""
    salt: int = field(default_factory=lambda: secrets.randbits(63))


@dataclass
class _Tally:
    count: int
    ids: list[IdRange]

    def add(self, row_id: int) -> None:
        self.count += 1
        if self.ids and self.ids[-1].last == row_id - 1:
            self.ids[-1] = IdRange(self.ids[-1].first, row_id)
        elif len(self.ids) < NAMED_RANGES:
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
    yield from _deviating(connection, [_Selection((_of_chains(chains),))])


def _found(connection: Connection, names: Sequence[str], scope: Scope) -> Iterator[tuple[int, str]]:
    for _chain, row_id, kind in _deviating(connection, _selections(connection, scope)):
        yield row_id, kind
    if "transfer_uuid" in names:
        for row_id in _duplicates(connection, ("transfer_uuid",), scope):
            yield row_id, DUPLICATE_TRANSFER
    for row_id in _duplicates(connection, (*CHAIN_KEY, "bank_receipt_hash"), scope):
        yield row_id, DUPLICATE_RECEIPT


def _deviating(
    connection: Connection, selections: Iterable[_Selection]
) -> Iterator[tuple[Chain, int, str]]:
    for chain, row_id, link, previous in _doubtful(connection, selections):
        for kind in deviations(link, previous):
            yield chain, row_id, kind


def _doubtful(
    connection: Connection, selections: Iterable[_Selection]
) -> Iterator[tuple[Chain, int, Link, Link | None]]:
    for selection in selections:
        query = sql.SQL("COPY ({}) TO STDOUT").format(_not_valid(connection, selection))
        with connection.cursor().copy(query) as copy:
            copy.set_types(["text"] * 3 + ["int8"] * 3 + ["text"] * 4 + ["int8"])
            for *key, row_id, amount, balance, receipt, prev, after, old_hash, old in copy.rows():
                link = Link(amount, balance, receipt, prev, after)
                previous = None
                if old is not None:
                    previous = Link(0, old, None, None, old_hash)
                yield Chain(*key), row_id, link, previous


def _not_valid(connection: Connection, selection: _Selection) -> sql.Composable:
    """Select the rows that are not valid beyond doubt, with what the rule reads of the row before.

    Each row is reduced to four numbers, which take the same time to sort however the chains lie in
    the table: its key, its id, and what stands for hash and balance before and after it. A row is
    valid where the number before it is the number after its predecessor. Numbers are salted anew
    each time, so which ones coincide is chance: 2**-64 for hashes, and rows of chains that share
    the high bits of a key stand in doubt. The row before one in doubt is looked up by its chain.
    """
    return sql.SQL("""
        SELECT now.abn, now.tax_type, now.period_id, now.id, now.amount_cents::bigint,
               now.balance_after_cents::bigint, now.bank_receipt_hash, now.prev_hash,
               now.hash_after, before.hash_after, before.balance_after_cents::bigint
        FROM (SELECT id, key, begin, lag(id) OVER chains AS before_id,
                     lag(key) OVER chains AS before_key, lag("end") OVER chains AS before_end
              FROM ({numbers}) AS numbers WINDOW chains AS (ORDER BY key, id)) AS linked
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
        WHERE {wanted} AND CASE WHEN linked.key >> {bits} = linked.before_key >> {bits}
                                THEN linked.begin = linked.before_end
                                ELSE linked.begin = hashtextextended('', {salt}) END IS NOT TRUE
        ORDER BY now.id""").format(
        numbers=_numbers(connection, selection),
        wanted=selection.wanted,
        bits=sql.Literal(ORDER_BITS),
        salt=sql.Literal(selection.salt),
        same=sql.SQL(
            "(neighbour.abn, neighbour.tax_type, neighbour.period_id)"
            " = (now.abn, now.tax_type, now.period_id)"
        ),
    )


def _numbers(connection: Connection, selection: _Selection) -> sql.Composable:
    """Select the numbers of each row; OFFSET 0 keeps its texts from being sorted with them."""
    low, high = connection.execute("SELECT min(id), max(id) FROM owa_ledger").fetchall()[0]
    shift = 0
    while ((high or 0) >> shift) - ((low or 0) >> shift) >= 1 << ORDER_BITS:
        shift += 1
    numbers = sql.SQL("""
        SELECT id::bigint,
               {chain} >> {bits} << {bits} | (id::bigint >> {shift}) - {low} AS key,
               CASE WHEN amount_cents BETWEEN -{most}::bigint AND {most}
                     AND balance_after_cents BETWEEN -{most}::bigint AND {most}
                     AND hash_after = encode(sha256(convert_to(
                         concat(prev_hash, bank_receipt_hash, balance_after_cents), 'UTF8')), 'hex')
                    THEN hashtextextended(coalesce(prev_hash, ''),
                        (balance_after_cents - amount_cents)::bigint # {salt}) END AS begin,
               hashtextextended(coalesce(hash_after, ''), balance_after_cents::bigint # {salt})
                   AS "end"
        FROM owa_ledger WHERE """).format(
        chain=sql.SQL(CHAIN_NUMBER).format(salt=sql.Literal(selection.salt)),
        bits=sql.Literal(ORDER_BITS),
        shift=sql.Literal(shift),
        low=sql.Literal((low or 0) >> shift),
        most=sql.Literal(LARGEST_SUMMAND),
        salt=sql.Literal(selection.salt),
    )
    parts = [numbers + part for part in selection.parts]
    return sql.SQL("{} OFFSET 0").format(sql.SQL(" UNION ALL ").join(parts))


def _selections(connection: Connection, scope: Scope) -> Iterator[_Selection]:
    upto = sql.SQL("id <= {}").format(sql.Literal(scope.upto))
    if scope.after is None:
        yield _Selection((upto,))
        return
    fresh = sql.SQL("id > {} AND {}").format(sql.Literal(scope.after), upto)
    if scope.late:
        late = sql.SQL("id = ANY({})").format(sql.Literal(list(scope.late)))
        below = sql.SQL("id <= {}").format(sql.Literal(scope.after))
        yield _Selection((sql.SQL("{} AND {}").format(below, _same_chains(late)),))
    yield _Selection(
        (fresh, _heads(connection, fresh, scope.after)),
        sql.SQL("linked.id > {}").format(sql.Literal(scope.after)),
    )


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
