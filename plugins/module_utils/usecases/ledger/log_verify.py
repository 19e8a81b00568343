# GNU General Public License v3.0+ (see COPYING)
"""Full verification: every ledger row that the log admitted, hashed again and built into a tree.

The root that comes out must be the signed one, and the stored tiles and segments must be those of
the rows. Where the root is another, the segments are compared row by row, to name what was changed.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import IO, TYPE_CHECKING, NamedTuple

from ...domain.ledger.extent import compress
from ...domain.ledger.leaf import leaf_hashes, line
from ...domain.ledger.tree import Tile, TreeBuilder
from ...errors import ApgmsError
from ..acts.progress import Progress
from .archive import admitted_later, compare_segment, differ, segment_damaged, segments
from .log import LedgerLog, LogHead, tile_damaged
from .records import admitted_scans, column_epochs, late_ids
from .rows import ROWS_AT_ONCE, one_view, scanned

if TYPE_CHECKING:
    from ...ports.database import Connection


class _Rows(NamedTuple):
    """The ledger's rows at the positions of one stored segment; read them before the next one."""

    key: str
    header: bytes
    rows: Iterator[bytes]


def verify_history(
    connection: Connection, log: LedgerLog, head: LogHead, progress: Progress
) -> TreeBuilder:
    """Verify the ledger, the tiles and the segments up to ``head``; return the tree's builder.

    :raises ApgmsError: ``log.rows_differ`` with the ids of the rows that are changed or missing,
        ``log.column_gone``, ``log.tile_damaged``, ``log.segment_damaged``, ``log.object_missing``
    """
    builder = TreeBuilder()
    damage: list[ApgmsError] = []
    progress.begin()
    for segment in _in_segments(connection, log, head):
        with log.store.open(segment.key) as stored:
            tiles: list[tuple[Tile, bytes]] = []
            same = _next_is(stored, segment.header)
            while batch := list(islice(segment.rows, ROWS_AT_ONCE)):
                tiles += builder.append(leaf_hashes(segment.header, batch))
                same &= _next_is(stored, b"".join(batch))
            if not same or stored.read(1):
                damage.append(segment_damaged(log.at(segment.key)))
        damage.extend(_damaged(log, tiles))
        progress.done("Verifying ledger rows", builder.size, head.tree_size, "rows")
    if builder.size != head.tree_size or builder.root() != head.root:
        raise rows_that_differ(connection, log)
    if damage:
        raise damage[0]
    return builder


def _in_segments(connection: Connection, log: LedgerLog, head: LogHead) -> Iterator[_Rows]:
    stored = [
        (int(first), int(until))
        for snapshot in admitted_later(log, 0)
        for first, until in snapshot["segments"]
    ]
    late = late_ids(connection, log.origin)
    for begin, end, columns in column_epochs(connection, log.origin):
        selected = admitted_scans(connection, log.origin, begin, end, late)
        with contextlib.closing(scanned(connection, columns, selected)) as source:
            for first, until in stored:
                if begin <= first < end:
                    key = log.segment_key(first, until)
                    yield _Rows(key, line(columns), islice(source, until - first))
            deque(source, maxlen=0)  # a COPY must be read to its end


def _next_is(stored: IO[bytes], data: bytes) -> bool:
    return stored.read(len(data)) == data


def _damaged(log: LedgerLog, tiles: list[tuple[Tile, bytes]]) -> Iterator[ApgmsError]:
    objects = log.tile_objects(tiles)
    stored = log.store.read_many(key for key, _data in objects)
    for (key, data), found in zip(objects, stored, strict=True):
        if found != data:
            yield tile_damaged(log.at(key), "its hashes are not those of the ledger")


def rows_that_differ(connection: Connection, log: LedgerLog) -> ApgmsError:
    """Compare the ledger with the archive and return the refusal that names the rows."""
    changed: list[int] = []
    missing: list[int] = []
    with one_view(connection):
        for snapshot in admitted_later(log, 0):
            for segment in segments(log, snapshot):
                compare_segment(connection, segment, changed, missing)
    return differ(log, "log.rows_differ", compress(sorted(changed)), compress(sorted(missing)))
