# GNU General Public License v3.0+ (see COPYING)
"""Whole chains against the log: each of their ledger rows against its leaf, none gone.

A release may have millions of ledger rows: only their ids are held, the rows pass in portions.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING

from ...domain.approval.policy import Policy
from ...domain.ledger.chain import Chain
from ...domain.ledger.extent import compress, expand, shown
from ...domain.ledger.leaf import leaf_hashes, line
from ...domain.ledger.tree import HASH_BYTES
from ...errors import ApgmsError
from ...ports.object_store import ObjectStore
from ..acts.progress import Progress
from .archive import Damage, all_segments, compare, differ, record_differs
from .log import LedgerLog, LogHead
from .origin import log_in_force
from .records import column_epochs, frontier, is_whole, late_ids, positions, recorded_head
from .rows import one_view, rows
from .table import require_unique_ids

if TYPE_CHECKING:
    from ...ports.database import Connection

PORTION_ROWS = 50_000
"""How many ids are fetched, and rows compared, together."""
Place = tuple[int, int]
"""The id of a ledger row and its position in the tree."""


def verify_chains_against_leaves(
    connection: Connection,
    store: ObjectStore,
    policy: Policy,
    chains: Iterable[Chain],
    *,
    growing: bool = False,
    progress: Progress | None = None,
) -> None:
    """Verify every ledger row of the chains against its leaf, and that no admitted row is gone.

    :param growing: rows after the log's newest are no fault; no leaf speaks of them yet
    :raises ApgmsError: ``log.rows_differ``, ``log.rows_missing``, ``log.not_admitted``,
        ``log.tile_damaged``, ``log.segment_damaged``
    """
    log = log_in_force(store, policy)
    with one_view(connection):
        require_unique_ids(connection)
        head = recorded_head(connection, log.origin) or log.newest()
        if not is_whole(connection, log.origin, head.tree_size):
            raise record_differs(log)
        _require_count(connection, log, head, policy.stack)
        ids = _ids(connection, list(chains))
        strange: list[int] = []
        places = _places(connection, log, ids, strange)
        if differing := set(_differing(connection, log, head, places, len(ids), progress)):
            raise _differ(connection, log, head, differing)
    if strange and not growing:
        raise _not_admitted(log, strange, policy.stack)


def _require_count(connection: Connection, log: LedgerLog, head: LogHead, stack: str) -> None:
    highest = frontier(connection, log.origin)
    row = connection.execute("SELECT count(*) FROM owa_ledger WHERE id <= %s", [highest]).fetchone()
    count = (row[0] if row else 0) - len(late_ids(connection, log.origin))
    if count < head.tree_size:
        raise ApgmsError(
            "log.rows_missing",
            "Rows that the log admitted are gone from the ledger",
            where=f"table owa_ledger, log {log.origin}",
            why=f"the log has admitted {head.tree_size} rows; {count} of them are there",
            mend=f"make ledger-snapshot STACK={stack} ARGS='-e ledger_snapshot_verify=full'"
            "  # names them; then put them back under a signed restore statement"
            " (docs/ledger-log.md, Restore)",
        )


def _ids(connection: Connection, chains: Sequence[Chain]) -> array[int]:
    """Return the ids of the chains' rows, ascending."""
    found = connection.cursor().stream(
        "SELECT id FROM owa_ledger WHERE (abn, tax_type, period_id) IN"
        " (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[])) ORDER BY id",
        [[chain[part] for chain in chains] for part in range(3)],
        size=PORTION_ROWS,
    )
    return array("q", (row[0] for row in found))


def _places(
    connection: Connection, log: LedgerLog, ids: Sequence[int], strange: list[int]
) -> Iterator[Place]:
    """Yield the places of ascending ids; those that the log has not admitted go to ``strange``."""
    for row_id, position in zip(ids, positions(connection, log.origin, ids), strict=True):
        if position is None:
            strange.append(row_id)
        else:
            yield row_id, position


def _differing(
    connection: Connection,
    log: LedgerLog,
    head: LogHead,
    places: Iterator[Place],
    total: int,
    progress: Progress | None,
) -> Iterator[int]:
    """Yield the ids of the rows that are not those of their leaves."""
    epochs = column_epochs(connection, log.origin)
    done = 0
    if progress is not None:
        progress.begin()
    while portion := list(islice(places, PORTION_ROWS)):
        for first, end, columns in epochs:
            there = [place for place in portion if first <= place[1] < end]
            yield from _compare(connection, log, head, columns, there)
        done += len(portion)
        if progress is not None:
            progress.done("Verifying ledger rows", done, total, "rows")


def _compare(
    connection: Connection,
    log: LedgerLog,
    head: LogHead,
    columns: Sequence[str],
    places: Sequence[Place],
) -> Iterator[int]:
    found = rows(connection, columns, compress(row_id for row_id, _position in places))
    hashes = leaf_hashes(line(columns), list(found))
    leaves = _leaves(log, head, [position for _row_id, position in places])
    for (row_id, _position), now, then in zip(places, hashes, leaves, strict=True):
        if now != then:
            yield row_id


def _leaves(log: LedgerLog, head: LogHead, positions: Sequence[int]) -> Iterator[bytes]:
    """Yield the leaf hashes at some positions; those that follow each other are read at once."""
    for _offset, run in groupby(enumerate(positions), lambda pair: pair[1] - pair[0]):
        there = [position for _number, position in run]
        joined = log.leaves(there[0], there[-1] + 1, head.tree_size)
        for at in range(0, len(joined), HASH_BYTES):
            yield joined[at : at + HASH_BYTES]


def _differ(connection: Connection, log: LedgerLog, head: LogHead, ids: set[int]) -> ApgmsError:
    """Return the refusal of rows, unless it is their leaves or the record that the archive belies."""
    log.require_tiles(0, head.tree_size, log.head(head.tree_size))
    ids.intersection_update(expand(compare(connection, log, all_segments(log)).changed))
    damage = Damage(log.origin, changed=tuple(compress(sorted(ids))))
    return differ("log.rows_differ", damage) if damage else record_differs(log)


def _not_admitted(log: LedgerLog, ids: list[int], stack: str) -> ApgmsError:
    return ApgmsError(
        "log.not_admitted",
        "Ledger rows are not in the log yet",
        where=f"table owa_ledger, log {log.origin}",
        why=f"rows {shown(compress(ids))} came after the last snapshot",
        mend=f"make verify-rpt STACK={stack}  # takes a snapshot and builds a new bundle",
    )
