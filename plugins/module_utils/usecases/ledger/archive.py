# GNU General Public License v3.0+ (see COPYING)
"""The archived rows of the ledger log: read back, compared with the ledger, named by id."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.ledger.extent import IdRange, compress, shown
from ...domain.ledger.leaf import leaf_hashes, line, values
from ...errors import ApgmsError
from ...ports.object_store import ObjectStore, read
from .log import LedgerLog, snapshot_ranges
from .rows import rows

if TYPE_CHECKING:
    from ...ports.database import Connection


@dataclass(frozen=True)
class ArchivedRow:
    """A ledger row as the log admitted it, verified against its leaf."""

    id: int
    position: int
    columns: tuple[str, ...]
    line: bytes
    """The row as COPY text, with its newline."""

    @property
    def values(self) -> dict[str, str | None]:
        """The columns as text, in the form that their types print and read."""
        return dict(zip(self.columns, values(self.line), strict=True))


@dataclass(frozen=True)
class Segment:
    """Rows of one snapshot at consecutive positions, as stored: ``lines`` are COPY text."""

    first: int
    columns: tuple[str, ...]
    lines: tuple[bytes, ...]

    def ids(self) -> list[int]:
        """Return the ledger id of each row."""
        column = self.columns.index("id")
        return [int(row.split(b"\t", column + 1)[column]) for row in self.lines]


def archived_rows(
    store: ObjectStore, policy: Policy, ids: Collection[int]
) -> dict[int, ArchivedRow]:
    """Return the archived rows with these ledger ids; an id that was never admitted is left out.

    :raises ApgmsError: ``log.segment_damaged``
    """
    log = LedgerLog(store, policy)
    wanted = set(ids)
    found = {}
    for snapshot in admitted_later(log, 0):
        if not any(one.first <= each <= one.last for each in wanted
                   for one in snapshot_ranges(snapshot)):  # fmt: skip
            continue
        for segment in segments(log, snapshot):
            for offset, row_id in enumerate(segment.ids()):
                if row_id in wanted:
                    found[row_id] = ArchivedRow(
                        row_id, segment.first + offset, segment.columns, segment.lines[offset]
                    )
    return found


def admitted_later(log: LedgerLog, size: int) -> Iterator[dict[str, Any]]:
    """Yield the documents of the snapshots that made the tree larger than ``size``, in order."""
    return (log.snapshot(each) for each in log.sizes() if each > size)


def segments(log: LedgerLog, snapshot: dict[str, Any]) -> Iterator[Segment]:
    """Yield the segments of a snapshot, each verified against the leaves.

    :raises ApgmsError: ``log.segment_damaged``
    """
    columns = tuple(snapshot["columns"])
    header = line(columns)
    size = int(snapshot["tree_size"])
    for first, end in snapshot["segments"]:
        key = log.segment_key(int(first), int(end))
        lines = read(log.store, key).splitlines(keepends=True)
        found = b"".join(leaf_hashes(header, lines[1:]))
        if lines[:1] != [header] or found != log.leaves(int(first), int(end), size):
            raise segment_damaged(log.at(key))
        yield Segment(int(first), columns, tuple(lines[1:]))


def require_same_rows(
    connection: Connection, log: LedgerLog, snapshot: dict[str, Any], reason: str
) -> None:
    """Compare the ledger's rows with those that a snapshot archived.

    :raises ApgmsError: ``reason``, naming every row that is changed or missing
    """
    changed: list[int] = []
    missing: list[int] = []
    for segment in segments(log, snapshot):
        compare_segment(connection, segment, changed, missing)
    if changed or missing:
        raise differ(log, reason, compress(sorted(changed)), compress(sorted(missing)))


def compare_segment(
    connection: Connection, segment: Segment, changed: list[int], missing: list[int]
) -> None:
    """Add the ids of a segment's rows that are changed in the ledger, or missing there."""
    ids = segment.ids()
    found = list(rows(connection, segment.columns, compress(ids)))
    if found == list(segment.lines):
        return
    column = segment.columns.index("id")
    present = {int(row.split(b"\t", column + 1)[column]): row for row in found}
    for row_id, archived in zip(ids, segment.lines, strict=True):
        if row_id not in present:
            missing.append(row_id)
        elif present[row_id] != archived:
            changed.append(row_id)


def differ(
    log: LedgerLog, reason: str, changed: list[IdRange], missing: list[IdRange]
) -> ApgmsError:
    """Return the refusal of a ledger whose rows are not those of the log."""
    parts = [
        f"{word}: {shown(ids)}" for word, ids in (("changed", changed), ("missing", missing)) if ids
    ]
    return ApgmsError(
        reason,
        "The ledger is not what the log says",
        where=f"table owa_ledger, log {log.origin}",
        why=f"rows {'; rows '.join(parts)}",
        mend="find out who changed the ledger or restored the database; docs/ledger-log.md "
        "(Restore) says how rows are put back, or a new origin is opened, under a signed statement",
        changed_ids=_pairs(changed),
        missing_ids=_pairs(missing),
    )


def segment_damaged(where: str) -> ApgmsError:
    """Return the refusal of a segment whose rows are not those of the tree."""
    return ApgmsError(
        "log.segment_damaged",
        "An archived segment of the ledger log is damaged",
        where=where,
        why="its rows do not have the leaf hashes of the tree",
        mend="restore this object from the object store's own versions",
    )


def _pairs(ranges: list[IdRange]) -> list[list[str]]:
    return [[str(one.first), str(one.last)] for one in ranges[:1000]]
