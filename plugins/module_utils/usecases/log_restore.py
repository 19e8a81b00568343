# GNU General Public License v3.0+ (see COPYING)
"""A new origin after a restore: the old log is left as evidence, and named by the new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..domain.canonical import canonical
from ..domain.policy import Policy
from ..errors import ApgmsError
from ..ports.object_store import ObjectStore
from .ledger_log import RESTORE_SCHEMA, LedgerLog
from .log_check import compare_heads

if TYPE_CHECKING:
    from ..ports.database import Connection

BROKEN_HISTORY = frozenset({"log.forked", "log.database_behind", "log.rows_differ"})
"""The findings after which a new origin may be opened."""


def restore_document(store: ObjectStore, policy: Policy) -> bytes:
    """Return what a restore statement approves: its subject holds the SHA-256 of these bytes."""
    return canonical(_document(LedgerLog(store, policy)))


def open_origin(
    connection: Connection, store: ObjectStore, policy: Policy, statement_sha256: str
) -> None:
    """Open the next origin, which begins anew with the ledger as it is now.

    :param statement_sha256: digest of a verified statement about :func:`restore_document`
    :raises ApgmsError: ``log.nothing_to_restore`` where nothing speaks against the log in force
    """
    log = LedgerLog(store, policy)
    _require_broken(connection, log)
    document = _document(log) | {"statement_sha256": statement_sha256}
    number = document["origin"].rpartition("/")[2]
    key = f"log/{policy.log.origin}/restore/{int(number):04d}"
    store.put_new(key, canonical(document))


def _document(log: LedgerLog) -> dict[str, Any]:
    head = log.newest()
    base = log.pins.origin
    number = int(log.origin.removeprefix(base).strip("/") or 1) + 1
    return {
        "schema": RESTORE_SCHEMA,
        "origin": f"{base}/{number}",
        "previous": {
            "origin": log.origin,
            "tree_size": str(head.tree_size),
            "root": head.root.hex(),
        },
    }


def _require_broken(connection: Connection, log: LedgerLog) -> None:
    try:
        compare_heads(connection, log)
    except ApgmsError as error:
        if error.reason in BROKEN_HISTORY:
            return
        raise
    raise ApgmsError(
        "log.nothing_to_restore",
        "A new origin of the ledger log is not needed",
        where=f"log {log.origin}",
        why="the database and the log agree, so a restore statement has nothing to approve",
        mend="run ledger-snapshot without a restore statement",
    )
