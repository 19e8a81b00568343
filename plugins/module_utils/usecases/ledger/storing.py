# GNU General Public License v3.0+ (see COPYING)
"""Storing the rows that a snapshot admits: segments of them, and the tiles of their tree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ...domain.ledger.leaf import leaf_hashes, line
from ...domain.ledger.tree import Tile, TreeBuilder
from ...ports.object_store import Putter
from ..acts.progress import Progress
from .admission import Admission
from .log import LedgerLog
from .namespaces import Namespaces
from .rows import ROWS_AT_ONCE, scanned

if TYPE_CHECKING:
    from ...ports.database import Connection

SEGMENT_ROWS = 1 << 15
SEGMENT_BYTES = 1 << 24
"""A segment ends with the batch of rows that reaches one of the two."""


def store_rows(
    connection: Connection,
    log: LedgerLog,
    admission: Admission,
    builder: TreeBuilder,
    namespaces: Namespaces,
    putter: Putter,
    progress: Progress,
) -> list[tuple[int, int]]:
    """Store the segments and tiles of the plan's rows; return where the segments begin and end."""
    segments: list[tuple[int, int]] = []
    before, plan = builder.size, admission.plan
    progress.begin()
    with contextlib.closing(scanned(connection, plan.columns, admission.scans)) as source:
        while (segment := _next_segment(source, plan.columns, builder, namespaces)).rows:
            segments.append((builder.size - segment.rows, builder.size))
            key = log.segment_key(*segments[-1])
            putter.put([(key, segment.parts), *_in_parts(log.tile_objects(segment.tiles))])
            progress.done("Admitting ledger rows", builder.size - before, plan.size, "rows")
    putter.put(_in_parts(log.tile_objects(builder.edge())))
    putter.settle()
    return segments


def _in_parts(objects: list[tuple[str, bytes]]) -> list[tuple[str, list[bytes]]]:
    return [(key, [data]) for key, data in objects]


class _NewSegment(NamedTuple):
    """Rows to store as one segment, in parts, and the tiles that they complete."""

    rows: int
    parts: list[bytes]
    tiles: list[tuple[Tile, bytes]]


def _next_segment(
    source: Iterator[bytes], columns: Sequence[str], builder: TreeBuilder, namespaces: Namespaces
) -> _NewSegment:
    """Take the rows of one segment; a few at a time, while the processor's cache holds them."""
    header = line(columns)
    first, parts = builder.size, [header]
    tiles: list[tuple[Tile, bytes]] = []
    while builder.size - first < SEGMENT_ROWS and sum(map(len, parts)) < SEGMENT_BYTES:
        if not (batch := list(islice(source, ROWS_AT_ONCE))):
            break
        leaves = leaf_hashes(header, batch)
        namespaces.add(batch, leaves)
        tiles += builder.append(leaves)
        parts.append(b"".join(batch))
    return _NewSegment(builder.size - first, parts, tiles)
