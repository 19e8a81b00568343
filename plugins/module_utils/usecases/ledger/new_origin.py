# GNU General Public License v3.0+ (see COPYING)
"""A new origin after a restore: the old log is left as evidence, and named by the new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...domain.approval.policy import Policy
from ...domain.formats.canonical import canonical, sha256_hex
from ...errors import ApgmsError
from ...ports.clock import Clock
from ...ports.object_store import ObjectStore
from ..acts.progress import Progress, say_into
from ..approvals.approvals import consume, require_statement
from .archive import require_as_planned
from .log import RESTORE_SCHEMA, LedgerLog
from .log_check import compare_heads
from .log_verify import verify_history
from .records import open_log
from .rows import one_view

if TYPE_CHECKING:
    from ...ports.database import Connection

ACT = "ledger_log"
"""The act that a restore statement about the log names in its subject."""
BROKEN_HISTORY = frozenset(
    {
        "log.forked",
        "log.database_behind",
        "log.rows_differ",
        "log.rows_gone",
        "log.column_gone",
    }
)
"""The findings after which a new origin may be opened."""


def open_origin(
    connection: Connection,
    store: ObjectStore,
    policy: Policy,
    statements_dir: str,
    clock: Clock,
    operator: str | None = None,
) -> str:
    """Open the next origin, which begins anew with the ledger as it is now; return its name.

    :param operator: the principal who asks for it; his own signature does not count
    :raises ApgmsError: ``log.nothing_to_restore`` where nothing speaks against the log in force,
        ``approval.waiting`` where the restore statement is not there yet
    """
    log = open_log(connection, store, policy)
    _require_broken(connection, log, policy.stack)
    document = canonical(_document(log))
    subject = {"act": ACT, "sha256": sha256_hex(document)}
    signed = require_statement(
        connection, policy, statements_dir, "restore", subject, clock.now(), operator
    )
    with connection.transaction():
        consume(connection, signed, None)
        store.put_new(restore_key(log), document)
    return LedgerLog(store, policy).origin


def restore_key(log: LedgerLog) -> str:
    """Return the key of the object that opens the origin after the one in force."""
    return f"log/{log.pins.origin}/restore/{log.generation + 1:04d}"


def _document(log: LedgerLog) -> dict[str, Any]:
    head = log.newest()
    return {
        "schema": RESTORE_SCHEMA,
        "origin": f"{log.pins.origin}/{log.generation + 1}",
        "previous": {
            "origin": log.origin,
            "tree_size": str(head.tree_size),
            "root": head.root.hex(),
        },
    }


def _require_broken(connection: Connection, log: LedgerLog, stack: str) -> None:
    try:
        _recorded, head = compare_heads(connection, log)
        with one_view(connection):
            verify_history(connection, log, head, Progress(say_into(None)))
            if (plan := log.plan(head.tree_size)) is not None:
                require_as_planned(connection, log, head.tree_size, plan)
    except ApgmsError as error:
        if error.reason in BROKEN_HISTORY:
            return
        raise
    raise ApgmsError(
        "log.nothing_to_restore",
        "A new origin of the ledger log is not needed",
        where=f"log {log.origin}",
        why="the database and the log agree, so a restore statement has nothing to approve",
        mend=f"make ledger-snapshot STACK={stack}  # with ledger_snapshot_restore at false",
    )
