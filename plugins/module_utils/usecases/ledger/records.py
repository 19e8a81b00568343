# GNU General Public License v3.0+ (see COPYING)
"""What this database has seen of the ledger log: heads, and where each ledger id stands."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import count, groupby, pairwise
from typing import TYPE_CHECKING, LiteralString, NamedTuple

from ...domain.approval.policy import Policy
from ...domain.ledger.extent import (
    LEAST_ID,
    Extent,
    IdRange,
    Scan,
    compress,
    expand,
    extents,
    ranges_of,
    scans,
    whole,
)
from ...errors import ApgmsError
from ...ports.object_store import ObjectStore
from .log import LedgerLog, LogHead, LogSnapshot, Plan, object_damaged
from .origin import log_in_force

if TYPE_CHECKING:
    from ...ports.database import Connection

EXTENTS_AT_ONCE = 100
"""How many extents are fetched together; one may hold a thousand ids."""


def open_log(connection: Connection, store: ObjectStore, policy: Policy) -> LedgerLog:
    """Return the log in force, its documents held against what this database has recorded."""

    def digests(origin: str) -> dict[int, str]:
        return dict(
            connection.execute(
                "SELECT tree_size, document_sha256 FROM apgms_release.ledger_checkpoint"
                " WHERE origin = %s AND document_sha256 IS NOT NULL",
                [origin],
            ).fetchall()
        )

    return log_in_force(store, policy, digests)


def recorded_head(connection: Connection, origin: str) -> LogHead | None:
    """Return the newest head of ``origin`` that this database has recorded."""
    row = connection.execute(
        "SELECT tree_size, root, note FROM apgms_release.ledger_checkpoint"
        " WHERE origin = %s ORDER BY tree_size DESC LIMIT 1",
        [origin],
    ).fetchone()
    return None if row is None else LogHead(origin, row[0], bytes(row[1]), bytes(row[2]))


def recorded_heads(connection: Connection, origin: str) -> list[LogHead]:
    """Return the heads that this database has recorded, ascending."""
    found = connection.execute(
        "SELECT tree_size, root, note FROM apgms_release.ledger_checkpoint"
        " WHERE origin = %s ORDER BY tree_size",
        [origin],
    )
    return [LogHead(origin, size, bytes(root), bytes(note)) for size, root, note in found]


def recorded_generation(connection: Connection, base: str) -> int:
    """Return the newest generation of ``base`` that this database knows, 1 where it knows none."""
    rows = connection.execute(
        "SELECT DISTINCT origin FROM apgms_release.ledger_checkpoint WHERE starts_with(origin, %s)",
        [f"{base}/"],
    )
    numbers = (str(row[0]).removeprefix(f"{base}/") for row in rows)
    return max((int(number) for number in numbers if number.isdigit()), default=1)


def frontier(connection: Connection, origin: str) -> int | None:
    """Return the highest ledger id that the log has admitted; None where it has none."""
    row = connection.execute(
        "SELECT max(last_id) FROM apgms_release.ledger_extent WHERE origin = %s", [origin]
    ).fetchone()
    return None if row is None else row[0]


def require_ascending(log: LedgerLog, size: int, plan: Plan, after: int | None) -> None:
    """Require of the ids of a stored plan that they ascend, and that fresh ones are above the others.

    :param after: the :func:`frontier`
    :raises ApgmsError: ``log.object_damaged``
    """
    spans = [(one.first, one.last) for one in plan.late]
    spans += [(after, after)] if after is not None else []
    spans += [(one.first, one.last) for one in plan.fresh]
    twice = next((b[0] for a, b in pairwise(spans) if b[0] <= a[1]), None)
    if twice is not None:
        raise _twice(log, size, twice)


def require_never_admitted(connection: Connection, log: LedgerLog, size: int, plan: Plan) -> None:
    """Require of the late ids of a stored plan that none of them was admitted before.

    :raises ApgmsError: ``log.object_damaged``
    """
    if not plan.late:
        return
    found = positions(connection, log.origin, expand(ranges_of(plan.late)))
    for row_id, position in zip(expand(ranges_of(plan.late)), found, strict=True):
        if position is not None:
            raise _twice(log, size, row_id)


def _twice(log: LedgerLog, size: int, row_id: int) -> ApgmsError:
    return object_damaged(log.at(log.plan_key(size)), f"it would admit row {row_id} a second time")


def record(
    connection: Connection,
    head: LogHead,
    snapshot: LogSnapshot,
    extents: Iterable[Extent],
) -> None:
    """Record a head, the digest of its snapshot and the ids it admitted, in one transaction.

    :param extents: the ids, in order of position
    """
    with connection.transaction():
        connection.execute(
            "INSERT INTO apgms_release.ledger_checkpoint (origin, tree_size, root, note, columns,"
            "  document_sha256) VALUES (%s, %s, %s, %s, %s, %s)",
            [
                head.origin,
                head.tree_size,
                head.root,
                head.note,
                list(snapshot.columns),
                snapshot.sha256,
            ],
        )
        with connection.cursor().copy(
            "COPY apgms_release.ledger_extent (origin, first_position, first_id, last_id, ids)"
            " FROM STDIN"
        ) as copy:
            position = snapshot.previous_size
            for one in extents:
                ids = None if one.gapless else f"{{{','.join(map(str, one.ids()))}}}"
                copy.write_row((head.origin, position, one.first, one.last, ids))
                position += one.size


def is_whole(connection: Connection, origin: str, size: int) -> bool:
    """Return whether each position of the tree of ``size`` leaves has one id, and its columns."""
    row = connection.execute(_WHOLE, {"origin": origin, "size": size}).fetchone()
    return row == (True,)


_WHOLE = """
WITH sized AS (
    SELECT first_position, CASE WHEN ids IS NULL THEN last_id::numeric - first_id + 1
        WHEN ids[1] = first_id AND ids[cardinality(ids)] = last_id
         AND array_position(ids, NULL) IS NULL THEN cardinality(ids) END AS size
    FROM apgms_release.ledger_extent WHERE origin = %(origin)s),
placed AS (
    SELECT size, first_position = coalesce(sum(size) OVER (ORDER BY first_position
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS follows FROM sized)
SELECT coalesce(sum(size), 0) = %(size)s AND coalesce(bool_and((follows AND size > 0) IS TRUE), true)
   AND (SELECT coalesce(max(tree_size), 0) = %(size)s
           AND coalesce(bool_and(array_position(columns, NULL) IS NULL), true)
        FROM apgms_release.ledger_checkpoint WHERE origin = %(origin)s)
FROM placed
"""


def column_epochs(connection: Connection, origin: str) -> list[tuple[int, int, tuple[str, ...]]]:
    """Return (first position, end, columns): which columns the leaves at which positions cover."""
    epochs: list[tuple[int, int, tuple[str, ...]]] = []
    for size, columns in connection.execute(
        "SELECT tree_size, columns FROM apgms_release.ledger_checkpoint"
        " WHERE origin = %s ORDER BY tree_size",
        [origin],
    ):
        begin = epochs[-1][1] if epochs else 0
        if epochs and epochs[-1][2] == tuple(columns):
            begin = epochs.pop()[0]
        epochs.append((begin, size, tuple(columns)))
    return epochs


# what was admitted late has ids below those at the positions before
_EXTENTS: LiteralString = """
(SELECT first_position, first_id, last_id, ids,
        coalesce(first_id < max(last_id) OVER (ORDER BY first_position
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), false) AS admitted_late
 FROM apgms_release.ledger_extent WHERE origin = %(origin)s) AS extent
"""
# one stretch for each extent that was not admitted late: the ids between it and the one before and,
# where it has gaps, its own span; a row there that is not one of ``ids`` is late
_LATE_IDS: LiteralString = f"""
WITH stretch AS (
    SELECT coalesce(lag(last_id) OVER (ORDER BY first_id) + 1, %(least)s) AS first,
           CASE WHEN ids IS NOT NULL THEN last_id
                WHEN first_id > %(least)s THEN first_id - 1 END AS last,
           coalesce(ids, '{{}}') AS ids
    FROM {_EXTENTS} WHERE NOT admitted_late)
SELECT found.id FROM stretch CROSS JOIN LATERAL (
    SELECT l.id FROM owa_ledger AS l WHERE l.id BETWEEN stretch.first AND stretch.last
    EXCEPT SELECT unnest(stretch.ids)) AS found
WHERE stretch.ids <> ARRAY(
    SELECT l.id::bigint FROM owa_ledger AS l
    WHERE l.id BETWEEN stretch.first AND stretch.last ORDER BY l.id)
EXCEPT SELECT unnest(coalesce(ids, ARRAY(SELECT generate_series(first_id, last_id))))
FROM {_EXTENTS} WHERE admitted_late
ORDER BY id
"""  # noqa: S608


def late_ids(connection: Connection, origin: str) -> list[int]:
    """Return the ids of rows that showed up below the frontier after it was set."""
    parameters = {"origin": origin, "least": LEAST_ID}
    return [row[0] for row in connection.execute(_LATE_IDS, parameters)]


class PlacedExtent(NamedTuple):
    """An extent as this database has recorded it; ``ids`` is None where none is missing."""

    first_position: int
    first_id: int
    last_id: int
    ids: list[int] | None

    def ranges(self) -> list[IdRange]:
        """Return the ids as ranges with none missing."""
        return [IdRange(self.first_id, self.last_id)] if self.ids is None else compress(self.ids)

    def position(self, row_id: int) -> int | None:
        """Return the position of an id; None where it is not one of them."""
        if not self.first_id <= row_id <= self.last_id:
            return None
        if self.ids is None:
            return self.first_position + row_id - self.first_id
        place = bisect_left(self.ids, row_id)
        there = place < len(self.ids) and self.ids[place] == row_id
        return self.first_position + place if there else None


def admitted(connection: Connection, origin: str, first: int, end: int) -> list[IdRange]:
    """Return the ids at the positions ``first`` to ``end`` - 1, in order of position."""
    found = connection.execute(
        "SELECT first_position, first_id, last_id, ids FROM apgms_release.ledger_extent"
        " WHERE origin = %(origin)s AND first_position < %(end)s AND first_position >= ("
        "   SELECT max(first_position) FROM apgms_release.ledger_extent"
        "   WHERE origin = %(origin)s AND first_position <= %(first)s)"
        " ORDER BY first_position",
        {"origin": origin, "first": first, "end": end},
    )
    return [each for row in found for each in _cut(PlacedExtent(*row), first, end)]


def recorded_extents(connection: Connection, origin: str, first: int, end: int) -> Iterator[Extent]:
    """Yield the extents recorded at the positions ``first`` to ``end`` - 1, ends of snapshots."""
    with connection.cursor(name="recorded") as found:
        found.itersize = EXTENTS_AT_ONCE
        found.execute(
            "SELECT first_id, last_id, ids FROM apgms_release.ledger_extent"
            " WHERE origin = %s AND first_position >= %s AND first_position < %s"
            " ORDER BY first_position",
            [origin, first, end],
        )
        for first_id, last_id, ids in found:
            yield from [whole(first_id, last_id)] if ids is None else extents([ids])


def _cut(one: PlacedExtent, first: int, end: int) -> list[IdRange]:
    begin, stop = max(first - one.first_position, 0), end - one.first_position
    if one.ids is not None:
        return compress(one.ids[begin:stop])
    return [IdRange(one.first_id + begin, min(one.last_id, one.first_id + stop - 1))]


def admitted_scans(
    connection: Connection, origin: str, first: int, end: int, late: Iterable[int]
) -> list[Scan]:
    """Return the scans that read the rows at the positions ``first`` to ``end`` - 1.

    Both are ends of snapshots. Late rows are read by their ids; the others are all that lie between
    their first and their last, without the late ones.

    :param late: the :func:`late_ids`, which have no position yet
    """
    found = connection.execute(
        "SELECT admitted_late, first_position, first_id, last_id, CASE WHEN admitted_late THEN ids END"  # noqa: S608
        f" FROM {_EXTENTS} ORDER BY first_position",
        {"origin": origin},
    ).fetchall()
    extents = [(is_late, PlacedExtent(*columns)) for is_late, *columns in found]
    without = [each for is_late, one in extents if is_late for each in one.ranges()]
    without = sorted([*without, *compress(late)])
    there = [pair for pair in extents if first <= pair[1].first_position < end]
    selected: list[Scan] = []
    for is_late, group in groupby(there, lambda pair: pair[0]):
        ones = [one for _is_late, one in group]
        if is_late:
            selected += scans(each for one in ones for each in one.ranges())
        else:
            span = IdRange(ones[0].first_id, ones[-1].last_id)
            inside = (each for each in without if span.first <= each.first <= span.last)
            selected.append(Scan(span, None, tuple(inside)))
    return selected


def positions(connection: Connection, origin: str, ids: Iterable[int]) -> Iterator[int | None]:
    """Yield the positions of ascending ids; None for those that the log has not admitted."""
    query = f"SELECT first_position, first_id, last_id, ids FROM {_EXTENTS}"  # noqa: S608
    late: dict[int, int] = {}
    for row in connection.execute(f"{query} WHERE admitted_late", {"origin": origin}):
        one = PlacedExtent(*row)
        late.update(zip(expand(one.ranges()), count(one.first_position), strict=False))
    with connection.cursor(name="extents") as extents:
        extents.itersize = EXTENTS_AT_ONCE
        extents.execute(f"{query} WHERE NOT admitted_late ORDER BY first_id", {"origin": origin})
        ascending = (PlacedExtent(*row) for row in extents)
        current = next(ascending, None)
        for row_id in ids:
            while current is not None and current.last_id < row_id:
                current = next(ascending, None)
            known = late.get(row_id)
            yield current.position(row_id) if known is None and current else known
