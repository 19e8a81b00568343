# GNU General Public License v3.0+ (see COPYING)
"""What this database has seen of the ledger log: heads, and where each ledger id stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.formats.canonical import canonical, sha256_hex
from ...domain.ledger.extent import IdRange
from ...ports.object_store import ObjectStore
from .log import LedgerLog, LogHead, object_damaged

if TYPE_CHECKING:
    from ...ports.database import Connection


def open_log(connection: Connection, store: ObjectStore, policy: Policy) -> LedgerLog:
    """Return the log in force, its documents held against what this database has recorded."""
    log = LedgerLog(store, policy)
    log.digests = dict(
        connection.execute(
            "SELECT tree_size, document_sha256 FROM apgms_release.ledger_checkpoint"
            " WHERE origin = %s AND document_sha256 IS NOT NULL",
            [log.origin],
        ).fetchall()
    )
    return log


def recorded_head(connection: Connection, origin: str) -> LogHead | None:
    """Return the newest head of ``origin`` that this database has recorded."""
    row = connection.execute(
        "SELECT tree_size, root, note FROM apgms_release.ledger_checkpoint"
        " WHERE origin = %s ORDER BY tree_size DESC LIMIT 1",
        [origin],
    ).fetchone()
    return None if row is None else LogHead(origin, row[0], bytes(row[1]), bytes(row[2]))


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


def require_new(
    connection: Connection, log: LedgerLog, size: int, ranges: Sequence[IdRange]
) -> None:
    """Require that no id of a stored plan was admitted before, or stands in it twice.

    :raises ApgmsError: ``log.object_damaged``
    """
    ordered = sorted(ranges)
    twice = [b for a, b in pairwise(ordered) if b.first <= a.last] + [
        one for one in ordered if one.first > one.last
    ]
    overlap = connection.execute(
        "SELECT first, last FROM unnest(%s::bigint[], %s::bigint[]) AS planned (first, last)"
        " JOIN apgms_release.ledger_extent ON last_id >= first AND first_id <= last"
        " WHERE origin = %s LIMIT 1",
        [[one.first for one in ordered], [one.last for one in ordered], log.origin],
    ).fetchone()
    if twice or overlap:
        bad = twice[0] if twice else IdRange(*overlap)  # type: ignore[misc]
        raise object_damaged(
            log.at(log.key(f"plan/{size:016d}")),
            f"it would admit rows {bad.first}-{bad.last} a second time",
        )


def record(
    connection: Connection,
    head: LogHead,
    document: Mapping[str, Any],
    ranges: Iterable[IdRange],
) -> None:
    """Record a head, the document of its snapshot and the ids it admitted, in one transaction."""
    with connection.transaction():
        connection.execute(
            "INSERT INTO apgms_release.ledger_checkpoint (origin, tree_size, root, note, columns,"
            "  document_sha256) VALUES (%s, %s, %s, %s, %s, %s)",
            [
                head.origin,
                head.tree_size,
                head.root,
                head.note,
                document["columns"],
                sha256_hex(canonical(document)),
            ],
        )
        with connection.cursor().copy(
            "COPY apgms_release.ledger_extent (origin, first_position, first_id, last_id)"
            " FROM STDIN"
        ) as copy:
            position = int(document["previous_size"])
            for one in ranges:
                copy.write_row((head.origin, position, one.first, one.last))
                position += one.size


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


def admitted(connection: Connection, origin: str, first: int, end: int) -> list[IdRange]:
    """Return the ids at the positions ``first`` to ``end`` - 1, in order of position."""
    found = connection.execute(
        "SELECT first_position, first_id, last_id FROM apgms_release.ledger_extent"
        " WHERE origin = %(origin)s AND first_position < %(end)s AND first_position >= ("
        "   SELECT max(first_position) FROM apgms_release.ledger_extent"
        "   WHERE origin = %(origin)s AND first_position <= %(first)s)"
        " ORDER BY first_position",
        {"origin": origin, "first": first, "end": end},
    )
    return [
        IdRange(first_id + max(first - position, 0), min(last_id, first_id + end - 1 - position))
        for position, first_id, last_id in found
    ]
