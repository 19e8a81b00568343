# GNU General Public License v3.0+ (see COPYING)
"""Full verification: every ledger row that the log admitted, hashed again and built into a tree.

The root that comes out must be the signed one, and the stored tiles and segments must be those of
the rows. Where the root is another, the segments are compared row by row, to name what was changed.
"""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import IO, TYPE_CHECKING, NamedTuple

from ...domain.ledger.extent import expand, ranges_of, scans
from ...domain.ledger.leaf import leaf_hashes, line
from ...domain.ledger.tree import Tile, TreeBuilder
from ...errors import ApgmsError
from ...ports.object_store import ObjectMissing, ObjectStore
from ..acts.progress import Progress
from .archive import (
    admitted_later,
    all_segments,
    compare,
    differ,
    record_differs,
    segment_damaged,
    segments,
)
from .log import LedgerLog, LogHead, object_damaged, object_missing, tile_damaged
from .records import (
    admitted,
    admitted_scans,
    column_epochs,
    late_ids,
    recorded_extents,
    recorded_heads,
)
from .rows import ROWS_AT_ONCE, one_view, scanned, sees_one_state

if TYPE_CHECKING:
    from ...ports.database import Connection

SHOWN = 20
MISSING, TILES, SEGMENTS, HEADS, PLANS = (
    "missing",
    "damaged tiles",
    "damaged segments",
    "damaged checkpoints",
    "damaged plans",
)


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
        ``log.column_gone``; else, naming all the objects, ``log.tile_damaged``,
        ``log.segment_damaged``, ``log.object_missing``, or ``log.object_damaged`` for checkpoints,
        plans, or several of these
    """
    builder = TreeBuilder()
    damaged = list(_damaged_heads(connection, log))
    sizes = set(log.sizes())
    progress.begin()
    for segment in _in_segments(connection, log, head):
        with _open(log.store, segment.key) as stored:
            tiles: list[tuple[Tile, bytes]] = []
            same = _next_is(stored, segment.header)
            while batch := list(islice(segment.rows, ROWS_AT_ONCE)):
                tiles += builder.append(leaf_hashes(segment.header, batch))
                same &= _next_is(stored, b"".join(batch))
            if not same or stored.read(1):
                damaged.append(segment.key)
        if builder.size in sizes:
            tiles += builder.edge()
        damaged.extend(_damaged(log, tiles))
        progress.done("Verifying ledger rows", builder.size, head.tree_size, "rows")
    if builder.size != head.tree_size or builder.root() != head.root:
        raise rows_that_differ(connection, log, "log.rows_differ")
    if damaged:
        raise _damage(log, damaged)
    return builder


def _in_segments(connection: Connection, log: LedgerLog, head: LogHead) -> Iterator[_Rows]:
    stored = [each for snapshot in admitted_later(log, 0) for each in snapshot.segments]
    late = late_ids(connection, log.origin)
    for begin, end, columns in column_epochs(connection, log.origin):
        if sees_one_state(connection):
            selected = admitted_scans(connection, log.origin, begin, end, late)
        else:
            selected = list(scans(admitted(connection, log.origin, begin, end)))
        with contextlib.closing(scanned(connection, columns, selected)) as source:
            for first, until in stored:
                if begin <= first < end:
                    key = log.segment_key(first, until)
                    yield _Rows(key, line(columns), islice(source, until - first))
            deque(source, maxlen=0)  # a COPY must be read to its end


def _damaged_heads(connection: Connection, log: LedgerLog) -> Iterator[str]:
    """Yield the keys of the checkpoints, and plans before them, that are not what they were.

    :raises ApgmsError: ``log.rows_differ`` where the record is not that of its own note
    """
    previous = 0
    for head in recorded_heads(connection, log.origin):
        size = head.tree_size
        if _open(log.store, log.checkpoint_key(size)).read() != head.note:
            yield log.checkpoint_key(size)
        elif log.head(size) != head:
            raise record_differs(log)
        if size > previous and not _is_plan_of(connection, log, previous, size):
            yield log.plan_key(previous)
        previous = size


def _is_plan_of(connection: Connection, log: LedgerLog, size: int, until: int) -> bool:
    """Return whether the plan after ``size`` is there, with the ids recorded up to ``until``.

    :raises ApgmsError: ``log.rows_differ`` where it has those of the archived rows
    """
    plan = log.plan(size)
    if plan is None:
        return False
    recorded = recorded_extents(connection, log.origin, size, until)
    if all(one == other for one, other in zip_longest(plan.extents, recorded)):
        return True
    archived = (each for segment in segments(log, log.snapshot(until)) for each in segment.ids())
    if all(one == other for one, other in zip_longest(expand(ranges_of(plan.extents)), archived)):
        raise record_differs(log)
    return False


def _open(store: ObjectStore, key: str) -> IO[bytes]:
    """Open an object; one that is missing has no bytes."""
    try:
        return store.open(key)
    except ObjectMissing:
        return io.BytesIO()


def _next_is(stored: IO[bytes], data: bytes) -> bool:
    return stored.read(len(data)) == data


def _damaged(log: LedgerLog, tiles: list[tuple[Tile, bytes]]) -> Iterator[str]:
    """Yield the keys of the tiles that are not stored as they should be."""
    objects = log.tile_objects(tiles)
    keys = [key for key, _data in objects]
    try:
        stored = list(log.store.read_many(keys))
    except ObjectMissing:
        stored = [_open(log.store, key).read() for key in keys]
    for (key, data), found in zip(objects, stored, strict=True):
        if found != data:
            yield key


def _damage(log: LedgerLog, keys: list[str]) -> ApgmsError:
    """Return one refusal that names all the objects."""
    kinds: dict[str, list[str]] = {}
    for key in keys:
        kinds.setdefault(_kind(log, key), []).append(key)
    if len(kinds) > 1:
        named = (f"{kind}: {_named(log, some)}" for kind, some in kinds.items())
        return object_damaged(log.at(log.key("")), "; ".join(named))
    kind = next(iter(kinds))
    where = log.at(keys[0]) if len(keys) == 1 else f"{log.at(log.key(''))}: {_named(log, keys)}"
    if kind == MISSING:
        return object_missing(
            where, "the database knows of what it holds, but no object has this key"
        )
    if kind == HEADS:
        return object_damaged(where, "it is not the note that the database has recorded")
    if kind == PLANS:
        return object_damaged(where, "it does not plan the ids that the database has recorded")
    if kind == TILES:
        return tile_damaged(where, "its hashes are not those of the ledger")
    return segment_damaged(where)


def _kind(log: LedgerLog, key: str) -> str:
    try:
        log.store.open(key).close()
    except ObjectMissing:
        return MISSING
    if key.startswith(log.key("checkpoint/")):
        return HEADS
    if key.startswith(log.key("plan/")):
        return PLANS
    return TILES if key.startswith(log.key("tile/")) else SEGMENTS


def _named(log: LedgerLog, keys: list[str]) -> str:
    names = [key.removeprefix(log.key("")) for key in keys]
    more = f" and {len(names) - SHOWN} more, {len(names)} in all" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def rows_that_differ(connection: Connection, log: LedgerLog, reason: str) -> ApgmsError:
    """Compare the ledger with the archive and return the refusal that names the rows."""
    with one_view(connection):
        damage = compare(connection, log, all_segments(log))
    return differ(reason, damage) if damage else record_differs(log)
