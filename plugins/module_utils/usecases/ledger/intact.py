# GNU General Public License v3.0+ (see COPYING)
"""Whether the ledger log is one history, and the ledger begins with what the log holds.

Called before every act: a database restored from an older backup, a fork, and a shortened ledger
stop it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...domain.approval.policy import Policy
from ...domain.ledger.leaf import leaf_hashes, line
from ...domain.ledger.tree import TILE_WIDTH
from ...errors import ApgmsError
from ...ports.clock import DatabaseClock
from ...ports.object_store import ObjectMissing, ObjectStore
from ..bundle.manifests import load_manifest
from .archive import (
    admitted_later,
    compare,
    differ,
    record_differs,
    require_same_rows,
    segments,
)
from .log import LedgerLog, LogHead, forked, no_head
from .origin import log_in_force
from .records import (
    admitted,
    column_epochs,
    is_whole,
    open_log,
    recorded_generation,
    recorded_head,
)
from .rows import one_view, rows
from .table import require_ledger
from .turn import WAIT_SECONDS, one_at_a_time

if TYPE_CHECKING:
    from ...ports.database import Connection


def require_intact(connection: Connection, store: ObjectStore, policy: Policy) -> LogHead:
    """Return the log's newest head, once nothing speaks against it.

    Cheap: reads the newest objects of the log and the last few rows it admitted.

    :raises ApgmsError: ``log.forked``, ``log.database_behind``, ``log.store_behind``,
        ``log.rows_differ``, ``log.column_gone``, ``log.tile_damaged``,
        ``log.checkpoint_invalid``, ``log.object_damaged``, ``log.object_missing``,
        ``log.unfinished``, and those of :func:`require_ledger`
    """
    log = open_log(connection, store, policy)
    recorded, head = compare_heads(connection, log)
    if head.tree_size > recorded.tree_size:
        with one_at_a_time(connection, policy, DatabaseClock(connection), WAIT_SECONDS):
            recorded, head = compare_heads(connection, log)  # it may have been recorded just now
    if head.tree_size > recorded.tree_size:
        raise ApgmsError(
            "log.unfinished",
            "A ledger snapshot was stored, but the database has not recorded it",
            where=log.at(log.checkpoint_key(head.tree_size)),
            why=f"the log has {head.tree_size} rows, the database knows of {recorded.tree_size}; "
            "the rows between are in the ledger as the log says",
            mend=f"make ledger-snapshot STACK={policy.stack}",
        )
    return head


def compare_heads(connection: Connection, log: LedgerLog) -> tuple[LogHead, LogHead]:
    """Return the head that the database has recorded, and the log's newest.

    The second is ahead of the first where a snapshot was cut off between storing and recording.

    :raises ApgmsError: those of :func:`require_intact`, ``log.unfinished`` aside
    """
    _require_newest_origin(connection, log)
    with one_view(connection):  # a snapshot may be recorded meanwhile
        recorded = recorded_head(connection, log.origin) or no_head(log.origin)
        whole = is_whole(connection, log.origin, recorded.tree_size)
    head = log.newest()
    log.require_tiles(0, 0, head)
    _require_recorded(log, recorded, head)
    if not whole:
        raise record_differs(log)
    cosigned = log.cosigned()
    if cosigned is not None:
        log.require_prefix(cosigned, head)
    require_ledger(connection)
    with one_view(connection):
        _require_tail(connection, log, recorded)
        if head.tree_size > recorded.tree_size:
            for snapshot in admitted_later(log, recorded.tree_size):
                require_same_rows(connection, log, snapshot, "log.database_behind")
    return recorded, head


def require_manifest_head(
    store: ObjectStore, policy: Policy, manifest_sha256: str, head: LogHead
) -> None:
    """Require that the ledger head a manifest carries is a prefix of ``head``.

    :raises ApgmsError: ``log.forked``, and those of :func:`load_manifest`
    """
    ledger = load_manifest(store, manifest_sha256, policy.stack).ledger
    log = log_in_force(store, policy)
    then = LogHead(ledger.origin, ledger.tree_size, bytes.fromhex(ledger.root), b"")
    if then.origin != head.origin:
        raise forked(
            f"manifest {manifest_sha256}",
            f"it was built on the log {then.origin}; the log in force is {head.origin}",
        )
    log.require_prefix(then, head)


def _require_newest_origin(connection: Connection, log: LedgerLog) -> None:
    known = recorded_generation(connection, log.pins.origin)
    if known > log.generation:
        raise _store_behind(log, f"the database knows the later origin {log.pins.origin}/{known}")


def _require_recorded(log: LedgerLog, recorded: LogHead, head: LogHead) -> None:
    if not recorded.note:
        return
    try:
        stored = log.head(recorded.tree_size)
    except ObjectMissing:
        raise _store_behind(
            log, f"the database knows a checkpoint of {recorded.tree_size} rows, the store does not"
        ) from None
    if stored.root != recorded.root:
        raise forked(
            log.at(log.key("checkpoint/")),
            f"at {stored.tree_size} rows the root is {stored.root.hex()} in the store and "
            f"{recorded.root.hex()} in the database",
        )
    log.require_prefix(recorded, head)


def _require_tail(connection: Connection, log: LedgerLog, recorded: LogHead) -> None:
    """Compare the rows of the last tile with their leaves: a cut ledger shows here first."""
    if not recorded.tree_size:
        return
    first = (recorded.tree_size - 1) // TILE_WIDTH * TILE_WIDTH
    for begin, end, columns in column_epochs(connection, log.origin):
        low, high = max(begin, first), min(end, recorded.tree_size)
        if low >= high:
            continue
        ids = admitted(connection, log.origin, low, high)
        found = leaf_hashes(line(columns), list(rows(connection, columns, ids)))
        if b"".join(found) != log.leaves(low, high, recorded.tree_size):
            log.require_tiles(low, high, log.head(recorded.tree_size))
            raise _tail_differs(connection, log, low)


def _tail_differs(connection: Connection, log: LedgerLog, begin: int) -> ApgmsError:
    """Compare the last archived rows with the ledger, by their own ids, and say what differs."""
    last = [each for each in admitted_later(log, 0) if each.tree_size > begin]
    archived = (segment for each in last for segment in segments(log, each, begin))
    damage = compare(connection, log, archived)
    return differ("log.rows_differ", damage) if damage else record_differs(log)


def _store_behind(log: LedgerLog, why: str) -> ApgmsError:
    return ApgmsError(
        "log.store_behind",
        "The object store does not hold the log that the database knows",
        where=log.store.url,
        why=why,
        mend="check apgms_object_store; if objects were deleted, restore them from the object "
        "store's own versions or a backup of its folder",
    )
