# GNU General Public License v3.0+ (see COPYING)
"""The archived rows of the ledger log: read back, compared with the ledger, named by id."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ...domain.formats.canonical import canonical, sha256_hex
from ...domain.ledger.extent import (
    NAMED_RANGES,
    Extent,
    IdRange,
    at_places,
    compress,
    extents,
    pairs,
    ranges_of,
    shown,
)
from ...domain.ledger.leaf import leaf_hashes, line
from ...errors import ApgmsError
from ...ports.object_store import BRING_BACK, read
from .log import LedgerLog, LogSnapshot, Plan, object_damaged, object_missing
from .rows import missing_and_between, missing_ids, rows
from .table import ledger_columns, require_present

if TYPE_CHECKING:
    from ...ports.database import Connection

DAMAGE_SCHEMA = "apgms.release/damage/1"


@dataclass(frozen=True)
class Segment:
    """Rows of one snapshot at consecutive positions, as stored: ``lines`` are COPY text."""

    columns: tuple[str, ...]
    lines: tuple[bytes, ...]

    def ids(self) -> list[int]:
        """Return the ledger id of each row."""
        return _ids(self.columns, self.lines)


@dataclass(frozen=True)
class Damage:
    """Admitted rows that are not in the ledger as they were; ids as ranges."""

    origin: str
    missing: tuple[IdRange, ...] = ()
    changed: tuple[IdRange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed)

    @cached_property
    def document(self) -> bytes:
        """The canonical bytes whose SHA-256 a restore statement names."""
        return canonical(
            {
                "schema": DAMAGE_SCHEMA,
                "origin": self.origin,
                "missing": pairs(self.missing),
                "changed": pairs(self.changed),
            }
        )

    @property
    def sha256(self) -> str:
        """The digest of the document."""
        return sha256_hex(self.document)

    @property
    def words(self) -> str:
        """Which rows, for a message."""
        named = (("missing", self.missing), ("changed", self.changed))
        return "; ".join(f"{word}: {shown(ids)}" for word, ids in named if ids) or "none"

    @property
    def ids(self) -> dict[str, list[list[str]]]:
        """The ids as JSON values, as many as a result names."""
        return {
            "missing_ids": pairs(self.missing, NAMED_RANGES),
            "changed_ids": pairs(self.changed, NAMED_RANGES),
        }


def admitted_later(log: LedgerLog, size: int) -> Iterator[LogSnapshot]:
    """Yield the snapshots that made the tree larger than ``size``, in order.

    :raises ApgmsError: ``log.object_missing`` where one of them, or its checkpoint, is not there
    """
    before = size
    for each in log.sizes():
        if each <= size:
            continue
        snapshot = log.snapshot(each)
        if snapshot.previous_size != before:
            raise object_missing(
                log.at(log.key("checkpoint/")),
                f"the snapshot of {each} rows follows one of {snapshot.previous_size} rows; "
                f"the checkpoint before it has {before}",
            )
        yield snapshot
        before = each


def archived_extents(log: LedgerLog, snapshot: LogSnapshot, after: int | None) -> Iterator[Extent]:
    """Yield the ids that a snapshot admitted, as its archived rows say, in order of position.

    :param after: the highest id admitted before
    """
    ids = array("q", (each for segment in segments(log, snapshot) for each in segment.ids()))
    late = 0 if after is None else bisect_right(ids, after)
    yield from extents([ids[:late]])
    yield from extents([ids[late:]])


def require_never_planned(log: LedgerLog, ids: Sequence[int]) -> None:
    """Require of late ids, ascending, that no snapshot has admitted them, whatever the database says.

    :raises ApgmsError: ``log.rows_differ``
    """
    for size in [0, *log.sizes()] if ids else ():
        plan = log.plan(size)
        for one in plan.extents if plan else ():
            there = ids[bisect_left(ids, one.first) : bisect_right(ids, one.last)]
            if there and any(_any_within(there, each) for each in one.ranges()):
                raise record_differs(log)


def _any_within(ids: Sequence[int], one: IdRange) -> bool:
    return bisect_left(ids, one.first) < bisect_right(ids, one.last)


def require_as_planned(
    connection: Connection, log: LedgerLog, size: int, plan: Plan
) -> list[IdRange]:
    """Require of the ledger what a snapshot after ``size`` began to admit, and was cut off.

    :returns: the ids between those planned whose rows have come since
    :raises ApgmsError: ``log.rows_gone``, naming the rows that are changed or missing;
        ``log.column_gone``; ``log.object_damaged`` where the plan leaves out a column
    """
    require_present(connection, plan.columns)
    _require_columns_of_then(connection, log, size, plan)
    changed = compare(connection, log, _begun(log, size, plan)).changed
    late = missing_ids(connection, ranges_of(plan.late))
    fresh, without = missing_and_between(connection, plan.fresh)
    if gone := Damage(log.origin, (*late, *fresh), changed):
        raise rows_gone(log.at(log.plan_key(size)), gone)
    return without


def _require_columns_of_then(connection: Connection, log: LedgerLog, size: int, plan: Plan) -> None:
    """Require of a plan's columns that others came after them: a table grows at its end."""
    present = ledger_columns(connection)
    before = log.snapshot(size).columns if log.sizes() else ()
    if tuple(present[: len(plan.columns)]) != plan.columns or not {*before} <= {*plan.columns}:
        raise object_damaged(log.at(log.plan_key(size)), "it leaves out a column of the ledger")


def _begun(log: LedgerLog, size: int, plan: Plan) -> Iterator[Segment]:
    """Yield what a snapshot after ``size`` stored before it was cut off; no leaf speaks of it.

    :raises ApgmsError: ``log.object_damaged`` where a segment has other rows than were planned
    """
    stored = list(log.segments_from(size))
    places = ((first - size, end - size) for _key, first, end in stored)
    position = size
    planned = at_places(ranges_of(plan.extents), places)
    for (key, first, end), ids in zip(stored, planned, strict=True):
        lines = read(log.store, key).splitlines(keepends=True)
        segment = Segment(plan.columns, tuple(lines[1:]))
        if first < position or lines[:1] != [line(plan.columns)] or not _has_ids(segment, ids):
            raise object_damaged(log.at(key), "it does not have the rows that were planned")
        position = end
        yield segment


def _has_ids(segment: Segment, ids: list[IdRange]) -> bool:
    """Return whether a segment has whole rows, and these ids."""
    try:
        return segment.lines[-1].endswith(b"\n") and compress(segment.ids()) == ids
    except (IndexError, ValueError):
        return False


def all_segments(log: LedgerLog) -> Iterator[Segment]:
    """Return every segment stored by now, each verified against the leaves, in order of position.

    :raises ApgmsError: ``log.segment_damaged``
    """
    snapshots = list(admitted_later(log, 0))
    return (each for snapshot in snapshots for each in segments(log, snapshot))


def segments(log: LedgerLog, snapshot: LogSnapshot, begin: int = 0) -> Iterator[Segment]:
    """Yield the segments of a snapshot, each verified against the leaves.

    :param begin: the position of the first row that is wanted
    :raises ApgmsError: ``log.segment_damaged``, ``log.tile_damaged``
    """
    header = line(snapshot.columns)
    for first, end in snapshot.segments:
        if end <= begin:
            continue
        key = log.segment_key(first, end)
        lines = read(log.store, key).splitlines(keepends=True)
        found = b"".join(leaf_hashes(header, lines[1:]))
        if lines[:1] != [header] or found != log.leaves(first, end, snapshot.tree_size):
            log.require_tiles(first, end, log.head(snapshot.tree_size))
            raise segment_damaged(log.at(key))
        yield Segment(snapshot.columns, tuple(lines[1:]))


def require_same_rows(
    connection: Connection, log: LedgerLog, snapshot: LogSnapshot, reason: str
) -> None:
    """Compare the ledger's rows with those that a snapshot archived.

    :raises ApgmsError: ``reason``, naming every row that is changed or missing
    """
    if damage := compare(connection, log, segments(log, snapshot)):
        raise differ(reason, damage)


def compare(connection: Connection, log: LedgerLog, archived: Iterable[Segment]) -> Damage:
    """Compare archived rows with the ledger's."""
    changed: list[int] = []
    missing: list[int] = []
    for segment in archived:
        _compare_segment(connection, segment, changed, missing)
    return Damage(log.origin, tuple(compress(sorted(missing))), tuple(compress(sorted(changed))))


def _compare_segment(
    connection: Connection, segment: Segment, changed: list[int], missing: list[int]
) -> None:
    """Add the ids of a segment's rows that are changed in the ledger, or missing there."""
    ids = segment.ids()
    found = list(rows(connection, segment.columns, compress(ids)))
    if found == list(segment.lines):
        return
    present = dict(zip(_ids(segment.columns, found), found, strict=True))
    for row_id, archived in zip(ids, segment.lines, strict=True):
        if row_id not in present:
            missing.append(row_id)
        elif present[row_id] != archived:
            changed.append(row_id)


def _ids(columns: Sequence[str], lines: Sequence[bytes]) -> list[int]:
    column = columns.index("id")
    return [int(row.split(b"\t", column + 1)[column]) for row in lines]


def record_differs(log: LedgerLog) -> ApgmsError:
    """Return the refusal of a database whose record of the log is not what the log says."""
    return ApgmsError(
        "log.rows_differ",
        "The database's record of the ledger log is not what the log says",
        where=f"tables ledger_extent and ledger_checkpoint in apgms_release, log {log.origin}",
        why="the ids that they give to the positions of the log are not those of its rows",
        mend="restore the tables of the schema apgms_release from a backup, or open a new "
        "origin under a signed restore statement (docs/ledger-log.md, Restore)",
    )


def differ(reason: str, damage: Damage) -> ApgmsError:
    """Return the refusal of a ledger whose rows are not those of the log."""
    return ApgmsError(
        reason,
        "The ledger is not what the log says",
        where=f"table owa_ledger, log {damage.origin}",
        why=f"rows {damage.words}",
        mend="find out who changed the ledger or restored the database; docs/ledger-log.md "
        "(Restore) says how rows are put back, or a new origin is opened, under a signed statement",
        **damage.ids,
    )


def rows_gone(plan: str, damage: Damage) -> ApgmsError:
    """Return the refusal of a ledger whose rows went while they were being admitted.

    :param plan: where the plan is that admits them
    """
    return ApgmsError(
        "log.rows_gone",
        "Ledger rows are not what a snapshot, cut off before, had begun to admit",
        where=f"table owa_ledger, {plan}",
        why=f"rows {damage.words}",
        mend="find out who changed them and put them back, then take the snapshot again; or open a "
        "new origin under a signed restore statement (docs/ledger-log.md, Restore)",
        **damage.ids,
    )


def segment_damaged(where: str) -> ApgmsError:
    """Return the refusal of a segment whose rows are not those of the tree."""
    return ApgmsError(
        "log.segment_damaged",
        "An archived segment of the ledger log is damaged",
        where=where,
        why="its rows do not have the leaf hashes of the tree",
        mend=BRING_BACK,
    )
