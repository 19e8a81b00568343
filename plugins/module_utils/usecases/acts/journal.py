# GNU General Public License v3.0+ (see COPYING)
"""The journal of a stack: append-only, hash-chained, in the database and in the object store.

A row is first put to the store, then committed with its effect, then acted on. So after a crash the
store may be ahead of the database; never the other way round. ``docs/exactly-once.md`` says what
follows from either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...domain.release.journal_chain import (
    BrokenChain,
    Row,
    next_row,
    object_key,
    parse,
    require_link,
)
from ...errors import ApgmsError
from ...ports.clock import Clock, iso_utc
from ...ports.object_store import ObjectConflict, ObjectMissing, ObjectStore, read
from .steps import Steps

if TYPE_CHECKING:
    from ...ports.database import Connection

LOCK_KEY = 0x6A6F75726E616C  # "journal", for pg_advisory_xact_lock


class Journal:
    """The journal of one stack; one database and one object store belong to a stack."""

    def __init__(
        self,
        connection: Connection,
        store: ObjectStore,
        stack: str,
        clock: Clock,
        steps: Steps | None = None,
    ) -> None:
        self._connection = connection
        self._store = store
        self._stack = stack
        self._clock = clock
        self._steps = steps or Steps()

    def record(self, event: str, body: dict[str, Any], manifest_sha256: str | None = None) -> Row:
        """Append one row inside the caller's open transaction, as its last statement.

        What may still fail in the transaction must stand before: once the row is in the store, a
        transaction that does not commit leaves the store ahead, and the next act replays the row.

        :param body: has a canonical form; never secrets
        :raises ApgmsError: ``journal.store_ahead``, ``journal.store_behind``, ``journal.fork``,
            ``journal.other_stack``
        """
        self._lock()
        last = self._require_level()
        row = next_row(
            last,
            stack=self._stack,
            at=iso_utc(self._clock.now()),
            event=event,
            body=body,
            manifest_sha256=manifest_sha256,
        )
        self._steps.run(f"journal.put {event}", lambda: self._put(row))
        self._insert(row)
        return row

    def next_seq(self) -> int:
        """Inside the caller's open transaction: keep the journal to it; return its next number."""
        self._lock()
        last = self.last()
        return last.seq + 1 if last else 1

    def last(self) -> Row | None:
        """Return the last committed row."""
        found = self._connection.execute(
            "SELECT document FROM apgms_release.journal ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        return parse(bytes(found[0])) if found else None

    def rows(self, manifest_sha256: str | None = None) -> Iterator[Row]:
        """Yield the committed rows, all of them or those of one release, in order."""
        found = self._connection.execute(
            "SELECT document FROM apgms_release.journal"
            " WHERE %(manifest)s::text IS NULL OR manifest_sha256 = %(manifest)s ORDER BY seq",
            {"manifest": manifest_sha256},
        )
        for (document,) in found:
            yield parse(bytes(document))

    def ahead(self) -> list[Row]:
        """Return the valid rows that the store has and the database has not.

        :raises ApgmsError: ``journal.fork``, ``journal.store_behind``, ``journal.other_stack``
        """
        last = self.last()
        self._require_same_head(last)
        rows: list[Row] = []
        while (row := self._stored(last.seq + 1 if last else 1)) is not None:
            _require_next(last, row, self._stack)
            rows.append(row)
            last = row
        return rows

    def adopt(self, rows: list[Row]) -> None:
        """Append rows that :meth:`ahead` returned, inside the caller's open transaction."""
        self._lock()
        for row in rows:
            self._insert(row)

    def verify(self) -> None:
        """Check every row: its link, its object in the store, and that the store is not ahead.

        :raises ApgmsError: ``journal.broken``, ``journal.fork``, ``journal.store_behind``,
            ``journal.store_ahead``, ``journal.other_stack``
        """
        last: Row | None = None
        for row in self._verified_rows():
            self._require_same(row)
            last = row
        self._require_nothing_after(last)

    def _verified_rows(self) -> Iterator[Row]:
        last: Row | None = None
        found = self._connection.execute(
            "SELECT seq, sha256, event, manifest_sha256, document"
            " FROM apgms_release.journal ORDER BY seq"
        )
        for seq, digest, event, manifest, document in found:
            try:
                row = parse(bytes(document))
                require_link(last, row)
                if (row.seq, row.sha256, row.event, row.manifest_sha256) != (
                    seq, digest, event, manifest,
                ):  # fmt: skip
                    raise BrokenChain("its columns differ from its document")
            except BrokenChain as error:
                raise _broken(f"apgms_release.journal, row {seq}", error) from None
            yield row
            last = row

    def _require_level(self) -> Row | None:
        last = self.last()
        self._require_same_head(last)
        self._require_nothing_after(last)
        return last

    def _require_same_head(self, last: Row | None) -> None:
        if last is not None:
            if last.stack != self._stack:
                raise _other_stack(last, self._stack)
            self._require_same(last)

    def _require_same(self, row: Row) -> None:
        stored = self._bytes(row.seq)
        if stored is None:
            raise ApgmsError(
                "journal.store_behind",
                "The object store lacks a row of the journal that was committed",
                where=f"{self._store.url}/{row.key}",
                why="each row is put to the store before it is committed, so this is another"
                " store, or one that lost objects",
                mend="point apgms_object_store at this stack's store, or restore its objects",
            )
        if stored != row.document:
            raise _fork(self._store.url, row.seq)

    def _require_nothing_after(self, last: Row | None) -> None:
        row = self._stored(last.seq + 1 if last else 1)
        if row is not None:
            _require_next(last, row, self._stack)
            raise ApgmsError(
                "journal.store_ahead",
                "The object store knows a state change that the database does not",
                where=f"{self._store.url}/{row.key}: {row.event}",
                why="a run died before it committed, or the database is an older copy",
                mend="run the release of this stack again: it replays the row and asks the gateway",
            )

    def _stored(self, seq: int) -> Row | None:
        document = self._bytes(seq)
        if document is None:
            return None
        try:
            return parse(document)
        except BrokenChain as error:
            raise _broken(f"{self._store.url}/{object_key(seq)}", error) from None

    def _bytes(self, seq: int) -> bytes | None:
        try:
            return read(self._store, object_key(seq))
        except ObjectMissing:
            return None

    def _put(self, row: Row) -> None:
        try:
            self._store.put_new(row.key, row.document)
        except ObjectConflict:
            raise _fork(self._store.url, row.seq) from None

    def _insert(self, row: Row) -> None:
        self._connection.execute(
            "INSERT INTO apgms_release.journal"
            " (seq, at, event, manifest_sha256, document, sha256, prev_sha256)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [row.seq, row.at, row.event, row.manifest_sha256, row.document, row.sha256,
             row.prev_sha256],
        )  # fmt: skip

    def _lock(self) -> None:
        self._connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])


def _require_next(last: Row | None, row: Row, stack: str) -> None:
    if row.stack != stack:
        raise _other_stack(row, stack)
    try:
        require_link(last, row)
    except BrokenChain as error:
        raise _broken(f"object {row.key}", error, reason="journal.fork") from None


def _fork(url: str, seq: int) -> ApgmsError:
    return ApgmsError(
        "journal.fork",
        "The journal has two histories; nothing may be done until it is clear which one is true",
        where=f"{url}/{object_key(seq)} and apgms_release.journal, row {seq}",
        why="the database and the object store hold different rows at this number",
        mend=f"compare both rows; docs/exactly-once.md, section Fork, says how to go on from {seq}",
    )


def _broken(where: str, error: BrokenChain, reason: str = "journal.broken") -> ApgmsError:
    return ApgmsError(
        reason,
        "The journal's chain is broken",
        where=where,
        why=str(error),
        mend="docs/exactly-once.md, section Fork, says how to find the true history",
    )


def _other_stack(row: Row, stack: str) -> ApgmsError:
    return ApgmsError(
        "journal.other_stack",
        "The database or the object store belongs to another stack",
        where=f"journal row {row.seq}",
        why=f"the row is of stack {row.stack}, this run is for {stack}",
        mend="choose the inventory of this stack: its apgms_database_url and apgms_object_store",
    )
